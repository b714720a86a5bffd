"""Before training with `objective.top_k`: the teacher's most likely tokens at every learned token of a collection's examples, stored.

What is stored already is not asked again, so a capture that was stopped goes on, and a student that another one came before finds it
all there: then no teacher is loaded. Examples are those of every kept problem in every format of the run, and the held-out ones.
Runs where training is started, before any worker. Left out: the files (cleave/distributions.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from cleave.config.distill import DistillConfig
from cleave.config.model import ModelConfig
from cleave.console import progress, say
from cleave.distributions import Distributions, Key, attach, key_of
from cleave.examples import Example, TopK
from cleave.prompts import load_prompts
from cleave.runs import RunFolder
from pipelines.assembly import Data, build_data
from pipelines.preflight import skeleton
from pipelines.teachers import distinct_teachers, load_teacher, revision_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GROUP = 1024
"""Examples per file: what a stop loses at most."""
_ONE_AT_A_TIME = threading.Lock()
"""Several students of one job share what the first of them captures."""


def capture(config: DistillConfig) -> list[str]:
    """Store what is missing. Returns where each teacher's distributions are; nothing for an objective that needs none.

    Raises ConfigError or DataError like training, StorageError where the collection cannot be written to.
    """
    if config.objective.top_k is None:
        return []
    _, tokenizer = skeleton(config)
    data = build_data(config, tokenizer)
    places = []
    with _ONE_AT_A_TIME:
        for number, teacher in enumerate(distinct_teachers(config)):
            store = Distributions.made_with(_collection(config), recipe(config, teacher))
            missing = {key_of(example) for example in wanted(data, number)} - store.keys()
            if missing:
                fill(config, teacher, store, tokenizer, _only(missing, wanted(data, number)), len(missing))
            else:
                say(f"{teacher.short}: its distributions are in {store.folder.location}/{store.place}.")
            places.append(store.place)
    return places


def with_distributions(config: DistillConfig, data: Data, places: Sequence[str]) -> Data:
    """The data with what `capture` stored at `places`. Raises DataError where examples are missing."""
    if config.objective.top_k is None:
        return data
    known = [Distributions(_collection(config), place).load() for place in places]
    for source in data.sources.values():
        source.distributions = known[source.teacher]
    return replace(data, held_out=[attached for example in data.held_out for attached in attach([example], known[example.teacher])])


def recipe(config: DistillConfig, teacher: ModelConfig) -> dict[str, Any]:
    """What decides stored distributions, besides the examples themselves."""
    prompts = load_prompts(config.prompts)
    return {
        "teacher": revision_of(teacher),  # the same weights at another path are the same teacher
        "dtype": teacher.dtype,
        "top_k": config.objective.top_k,
        "prompts": prompts.name,
        "prompts_sha256": prompts.fingerprint,
    }


def wanted(data: Data, teacher: int) -> Iterator[Example]:
    """The examples that need this teacher's distributions."""
    sources = (source.every() for source in data.sources.values() if source.teacher == teacher)
    return chain(chain.from_iterable(sources), (example for example in data.held_out if example.teacher == teacher))


def fill(
    config: DistillConfig,
    teacher: ModelConfig,
    store: Distributions,
    tokenizer: PreTrainedTokenizerBase,
    examples: Iterator[Example],
    count: int,
) -> None:
    """Ask the teacher about `count` examples and store them, a file per group."""
    import torch

    assert config.objective.top_k is not None
    model = load_teacher(config, teacher)
    started, tokens, size = time.perf_counter(), 0, 0
    with progress(f"distributions of {teacher.short}", count) as shown:
        while group := list(islice(examples, GROUP)):
            known = ask(model, tokenizer, group, config.objective.top_k, config.train.per_device_train_batch_tokens)
            size += store.write(known)
            tokens += sum(len(example.teacher_topk or ()) for example in known)
            speed = tokens / (time.perf_counter() - started)
            shown.advance(len(group), f"{speed:,.0f} tokens/s, {size / max(tokens, 1):.0f} bytes per token")
    del model
    torch.cuda.empty_cache()  # workers of Ray Train may share the GPU with this process
    per_token = size / max(tokens, 1)
    say(f"{tokens:,} learned tokens at {per_token:.0f} bytes each are in {store.folder.location}/{store.place}.")


def ask(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], k: int, batch_tokens: int
) -> list[Example]:
    """The examples, sorted by length, each with the model's k most likely tokens at its learned tokens. Forward passes read about
    `batch_tokens` tokens."""
    import torch

    from cleave.divergence import top_k
    from cleave.objectives import selected_logits
    from cleave.packing import pad, split_evenly

    vocabulary = len(tokenizer)
    known: list[Example] = []
    for part in split_evenly(examples, min(len(examples), 1 + sum(map(len, examples)) // batch_tokens)):
        alike = [replace(example, weight=1.0) for example in part]  # a token without weight would have no place below
        batch = {name: tensor.to(model.device) for name, tensor in pad(alike, tokenizer.pad_token_id or 0).items()}
        with torch.inference_mode():
            logits = selected_logits(model, batch, batch["weights"][:, 1:] > 0)[:, :vocabulary]
            ids, logprobs = (found.cpu().numpy() for found in top_k(logits, k))
        start = 0
        for example in part:
            rows = slice(start, start + sum(example.loss_mask[1:]))
            known.append(replace(example, teacher_topk=TopK.of(ids[rows], logprobs[rows], vocabulary)))
            start = rows.stop
    return known


def _collection(config: DistillConfig) -> RunFolder:
    """Where a run's distributions lie: its collection, or that of its first task."""
    sections = (config.collection, *(mix.collection for mix in config.tasks))
    return RunFolder.at(next(section.path for section in sections if section is not None))


def _only(missing: Iterable[Key], examples: Iterable[Example]) -> Iterator[Example]:
    """The examples of these keys, each once."""
    left = set(missing)
    for example in examples:
        if (key := key_of(example)) in left:
            left.remove(key)
            yield example
