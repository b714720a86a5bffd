"""`cleave bench superposition MODEL`: up to which draft length a model supports superposed decoding.

    code = main("reference:base", ["task:arithmetic/validation"], drafting=Drafting(max_tokens=20))

Prefixes are cut from texts (corpus.py), after a number of tokens or after a marker such as "Plan:". A table of the cosine by step goes to
stdout, progress to stderr. Left out: the measure (decoding/linearity.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING

from cleave.config.base import validate
from cleave.config.model import ModelConfig
from cleave.console import print_table, progress
from cleave.corpus import texts
from cleave.decoding.draft import Drafting
from cleave.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cleave.decoding.linearity import Likeness
    from cleave.lm.checkpoint import Checkpoint

SOURCE = "task:arithmetic/validation"
SUPPORTED = 0.6
"""The cosine above which the paper calls superposition sound."""


def main(
    model: str,
    sources: list[str],
    *,
    drafting: Drafting,
    prompts: int = 128,
    prefix_tokens: int = 15,
    after: str | None = None,
    as_json: bool = False,
) -> int:
    """Measure and print. Raises ConfigError, and DataError where the texts are too short for `prompts` prefixes."""
    checkpoint = load(model)
    from cleave.decoding.linearity import measure

    found = list(islice(prefixes(checkpoint.tokenizer, texts(sources, limit=10 * prompts), prefix_tokens, after), prompts))
    if len(found) < prompts:
        raise DataError(f"the texts give {len(found)} prefixes and {prompts} were asked for; give more texts or lower --prompts.")
    with progress("measure", prompts) as bar:
        steps = measure(checkpoint.model, found, drafting, eos_ids=checkpoint.eos_ids, max_len=checkpoint.max_len, on_prompts=bar.advance)
    if as_json:
        print(json.dumps({"model": model, "k": drafting.k, "temperature": drafting.temperature, "steps": [_row(step) for step in steps]}))
    else:
        print_steps(steps)
    return 0


def load(model: str) -> Checkpoint:
    """The checkpoint that a short string names. Raises ConfigError."""
    config = validate(ModelConfig, {"short": model}, "the model")
    if config.backend not in ("hf", "reference"):
        raise ConfigError(f"{config.short} hides its hidden states; name a local model: hf:PATH or reference:NAME.")
    from cleave.lm.checkpoint import load_checkpoint
    from cleave.lm.reference import resolve

    name = str(resolve(config.model_name_or_path)) if config.backend == "reference" else config.model_name_or_path
    return load_checkpoint(name)


def prefixes(tokenizer: PreTrainedTokenizerBase, found: Iterable[str], length: int, after: str | None) -> Iterator[list[int]]:
    """The beginning of each text that is long enough: up to the end of `after` where that is given, else `length` tokens."""
    for text in found:
        if after is not None:
            before, marker, _ = text.partition(after)
            text = before + marker if marker else ""
        ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
        if len(ids) >= (1 if after is not None else length):
            yield ids if after is not None else ids[:length]


def print_steps(steps: list[Likeness]) -> None:
    """A table, and up to which step superposition holds."""
    columns = ["step", "cos(f(x̃), Σγf(z))", "s.d.", "other prompt's", "largest γ", "prompts"]
    rows = [
        (step.step, *(f"{value:.3f}" for value in (step.cosine, step.deviation, step.control, step.top_weight)), step.prompts)
        for step in steps
    ]
    print_table(columns, rows, numbers=columns)
    print(
        f"The cosine is at least {SUPPORTED} up to step {supported(steps)} of {len(steps)}; it says little where the largest γ is near 1."
    )


def supported(steps: list[Likeness]) -> int:
    """The last step before the cosine first falls below SUPPORTED."""
    return next((step.step - 1 for step in steps if not step.cosine >= SUPPORTED), len(steps))


def _row(step: Likeness) -> dict[str, object]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(step).items()}
