"""Log-probabilities of given continuations: teacher-forced passes over batches, no sampling.

What texts share is read once: continuations of one prompt share its prompt, and texts that differ in their last token alone, such as
the words for yes and no after a question, are one text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cleave.decoding.batch import Batch
from cleave.decoding.sample import SamplingCancelled

WORTH_SHARING = 8
"""Tokens that a shared prompt has at least; below that a second pass costs more than it saves."""


@dataclass(frozen=True)
class Scored:
    """The log-probabilities of a continuation; how many tokens were read for it, and how many of its text had been read for another."""

    logprobs: list[float]
    read: int
    shared: int


@dataclass
class _Text:
    """What the model reads: `ids` without the last token of a pair, of which `ids[border:]` are scored too. `pairs` are the places of the
    pairs that read it."""

    ids: tuple[int, ...]
    border: int
    pairs: list[int] = field(default_factory=list)

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.ids[: self.border]

    @property
    def rest(self) -> tuple[int, ...]:
        return self.ids[self.border :]


@torch.inference_mode()
def score_batch(
    model: PreTrainedModel, pairs: Sequence[tuple[Sequence[int], int]], max_batch_size: int, cancelled: Callable[[], bool] = lambda: False
) -> list[Scored]:
    """Return, per pair (token ids, border), the log-probabilities of ids[border:], each given all ids before it.

    The first id of a text has no predecessor and no log-probability: a border of 0 gives one value fewer than there are ids.
    """
    scored = [Scored([], 0, 0)] * len(pairs)
    for texts, shared in _batches(pairs, max_batch_size):
        if cancelled():
            raise SamplingCancelled
        logprobs = _read_shared(model, texts) if shared else _read(model, texts)
        seen: set[tuple[int, ...]] = set()
        for text, rows in zip(texts, logprobs, strict=True):
            known = text.border if shared and text.prompt in seen else 0
            seen.add(text.prompt)
            for place in text.pairs:
                targets = torch.tensor(pairs[place][0][text.border :], device=rows.device)
                scored[place] = Scored(rows.gather(-1, targets[:, None]).squeeze(-1).tolist(), len(text.ids) - known, known)
                known = len(text.ids)
    return scored


def _batches(pairs: Sequence[tuple[Sequence[int], int]], most: int) -> Iterator[tuple[list[_Text], bool]]:
    """All texts in batches of at most `most` rows, and whether the prompts of a batch are read apart from what follows."""
    texts: dict[tuple[tuple[int, ...], int], _Text] = {}
    for place, (ids, border) in enumerate(pairs):
        border = max(1, border)
        if len(ids) > border:
            texts.setdefault((tuple(ids[:-1]), border), _Text(tuple(ids[:-1]), border)).pairs.append(place)
    families: dict[tuple[int, ...], list[_Text]] = {}
    for text in texts.values():
        families.setdefault(text.prompt, []).append(text)
    alone: list[_Text] = []
    close: list[_Text] = []
    for prompt, family in sorted(families.items(), key=lambda item: len(item[0])):
        (close if len(family) > 1 and len(prompt) >= WORTH_SHARING else alone).extend(family)
    yield from ((batch, False) for batch in _cut(sorted(alone, key=lambda text: len(text.ids)), most))
    yield from ((batch, True) for batch in _cut(close, most))


def _cut(texts: Iterable[_Text], most: int) -> Iterator[list[_Text]]:
    batch: list[_Text] = []
    for text in texts:
        batch.append(text)
        if len(batch) == most:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(model: PreTrainedModel, texts: Sequence[_Text]) -> Iterator[Tensor]:
    """Log-probabilities (places, V) after the last token of the prompt and after each later one, by text: one pass."""
    keep = max(len(text.rest) for text in texts) + 1
    logprobs = Batch(model, [text.ids for text in texts], room=0, keep=keep).all_logits.log_softmax(-1)
    return (logprobs[row, keep - len(text.rest) - 1 :] for row, text in enumerate(texts))


def _read_shared(model: PreTrainedModel, texts: Sequence[_Text]) -> Iterator[Tensor]:
    """The same in two passes: over the distinct prompts, then over what follows them."""
    prompts = list(dict.fromkeys(text.prompt for text in texts))
    batch = Batch(model, prompts, room=max(len(text.rest) for text in texts))
    batch.select([prompts.index(text.prompt) for text in texts])
    first = batch.logits[:, None]
    logprobs = torch.cat([first, batch.extend([text.rest for text in texts])], dim=1).log_softmax(-1)
    return (logprobs[row, : len(text.rest) + 1] for row, text in enumerate(texts))
