"""Held-out measurements during training: loss on gold examples, how many replies are exactly the gold one when decoded greedily, and the
same by skill without decoding.

All work on the examples' token ids. Final answers, intervals and whole pipelines are `cleave evaluate`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from cleave.decoding.sample import Sampler
from cleave.examples import Example
from cleave.objectives import Objective, greedy_hits, selected_logits
from cleave.packing import pad, split_evenly
from cleave.types import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH_TOKENS = 4096


class HeldOut:
    """Call with a model in evaluation mode; returns `loss` (nats per learned token), the objective's metrics, and `exact_match`
    (share of the first `generate` examples, absent for 0)."""

    def __init__(
        self,
        examples: Sequence[Example],
        objective: Objective,
        tokenizer: PreTrainedTokenizerBase,
        *,
        generate: int = 64,
        max_new_tokens: int = 256,
    ) -> None:
        self._examples = list(examples)
        self._objective = objective
        self._tokenizer = tokenizer
        self._asked = [question(example) for example in self._examples[:generate] if question(example)[0]]
        self._max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def __call__(self, model: PreTrainedModel) -> dict[str, float]:
        with _uncompiled(model):
            return self._loss(model) | self._exact_match(model)

    def _loss(self, model: PreTrainedModel) -> dict[str, float]:
        sums: dict[str, float] = {}
        count = 0.0
        tokens = sum(map(len, self._examples))
        for part in split_evenly(self._examples, min(len(self._examples), 1 + tokens // _BATCH_TOKENS)):
            batch = {name: tensor.to(model.device) for name, tensor in pad(part, self._tokenizer.pad_token_id or 0).items()}
            total, weight, metrics = self._objective.loss(model, batch, 0)
            count += float(weight)
            for name, value in {"loss": total, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return {name: value / count for name, value in sums.items()}

    def _exact_match(self, model: PreTrainedModel) -> dict[str, float]:
        if not self._asked:
            return {}
        prompts = [prompt for prompt, _ in self._asked]
        with decoding(model) as plain:
            end, limit = {self._tokenizer.eos_token_id}, plain.config.get_text_config().max_position_embeddings
            sampler = Sampler(plain, self._tokenizer, eos_ids=end, max_len=limit)
            rows = sampler.sample(prompts, [0] * len(prompts), Sampling(max_tokens=self._max_new_tokens))
        hits = [tuple(row.tokens) == target for [row], (_, target) in zip(rows, self._asked, strict=True)]
        return {"exact_match": sum(hits) / len(hits)}


class SkillAccuracy:
    """Call with a model in evaluation mode; returns `exact_match/SKILL`, the share of each skill's examples whose target greedy decoding
    would give, and `stages`, how many stages of the curriculum are `finished`."""

    def __init__(self, examples: Mapping[str, Sequence[Example]], *, pad_id: int, finished: Callable[[], int]) -> None:
        self._examples = {skill: list(some) for skill, some in examples.items()}
        self._pad_id, self._finished = pad_id, finished

    def __call__(self, model: PreTrainedModel) -> dict[str, float]:
        known = {skill: look_at(model, some, self._pad_id) for skill, some in self._examples.items()}
        shares = {f"exact_match/{skill}": sum(one.solved for one in some) / len(some) for skill, some in known.items()}
        return {**shares, "stages": self._finished()}


@dataclass(frozen=True)
class Looked:
    """What a model makes of an example that it only reads: `loss` in nats per learned token; `solved`: the most likely token is the right
    one at each learned place, which is when greedy decoding would give the target."""

    example: Example
    loss: float
    solved: bool


@torch.inference_mode()
def look_at(model: PreTrainedModel, examples: Sequence[Example], pad_id: int = 0) -> list[Looked]:
    """One forward pass over the examples; in any order. An example without learned tokens has a loss of 0 and is solved."""
    found: list[Looked] = []
    tokens = sum(map(len, examples))
    with _uncompiled(model):
        for part in split_evenly(examples, min(len(examples), 1 + tokens // _BATCH_TOKENS)):
            batch = {name: tensor.to(model.device) for name, tensor in pad(part, pad_id, range(len(part))).items()}
            mask = batch["weights"][:, 1:] > 0
            logits, targets = selected_logits(model, batch, mask), batch["input_ids"][:, 1:][mask]
            nats = F.cross_entropy(logits.float(), targets, reduction="none")
            each = torch.stack([nats, torch.ones_like(nats), (~greedy_hits(logits, targets)).float()])
            sums = torch.zeros(3, len(part), device=nats.device).index_add_(1, batch["numbers"][:, 1:][mask], each)
            loss, learned, missed = sums.tolist()
            found += [Looked(example, loss[k] / max(learned[k], 1.0), missed[k] == 0) for k, example in enumerate(part)]
    return found


@contextmanager
def decoding(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """A model in training, ready to answer: evaluation mode, a cache, compiled layers as plain Python. Yields it without PEFT's wrapper,
    which hides that positions are accepted; the adapters stay in place."""
    plain: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    training, use_cache = model.training, plain.config.use_cache
    model.train(False)
    plain.config.use_cache = True
    try:
        with _uncompiled(model):
            yield plain
    finally:
        plain.config.use_cache = use_cache
        model.train(training)


def _uncompiled(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Run compiled layers as plain Python: decoding's growing caches would be compiled again and again."""
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def question(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompt and reply of an example: the tokens before the first learned one, and the rest; nothing where the prompt is learned too."""
    start = example.loss_mask.index(True)
    return (example.input_ids[:start], example.input_ids[start:]) if start > 1 else ((), ())
