"""Log-probabilities of given continuations: teacher-forced passes over batches, no sampling.

What texts share is read once: a long common beginning, such as a problem with several solutions, and everything where texts differ in
their last token alone, such as the words for yes and no after a question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cleave.decoding.batch import Batch
from cleave.decoding.beginnings import common_beginnings
from cleave.decoding.cache import attends_to_all
from cleave.decoding.sample import SamplingCancelled


@dataclass(frozen=True)
class Scored:
    """The log-probabilities of a continuation; how many tokens were read for it, and how many of its text were read for another."""

    logprobs: list[float]
    read: int
    shared: int


@dataclass
class _Text:
    """What the model reads: `ids`, those of a pair without its last token. `pairs` are the places of the pairs that read it, `beginning`
    is the length of what it shares with others, 0 where it is read alone."""

    ids: tuple[int, ...]
    border: int
    pairs: list[int] = field(default_factory=list)
    beginning: int = 0

    @property
    def places(self) -> int:
        """At how many places, the last ones, the next token is scored."""
        return len(self.ids) - self.border + 1

    @property
    def rest(self) -> tuple[int, ...]:
        return self.ids[self.beginning :]


@torch.inference_mode()
def score_batch(
    model: PreTrainedModel, pairs: Sequence[tuple[Sequence[int], int]], max_batch_size: int, cancelled: Callable[[], bool] = lambda: False
) -> list[Scored]:
    """Return, per pair (token ids, border), the log-probabilities of ids[border:], each given all ids before it.

    The first id of a text has no predecessor and no log-probability: a border of 0 gives one value fewer than there are ids.
    """
    scored = [Scored([], 0, 0)] * len(pairs)
    for text, logits, known in _read_all(model, _texts(pairs, attends_to_all(model)), max_batch_size, cancelled):
        logprobs = logits.log_softmax(-1)
        for place in text.pairs:
            targets = torch.tensor(pairs[place][0][text.border :], device=logprobs.device)
            scored[place] = Scored(logprobs.gather(-1, targets[:, None]).squeeze(-1).tolist(), len(text.ids) - known, known)
            known = len(text.ids)
    return scored


@torch.inference_mode()
def value_batch(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], max_batch_size: int, cancelled: Callable[[], bool] = lambda: False
) -> list[Scored]:
    """Return the one output of a sequence classifier at the end of each sequence, in place of a log-probability."""
    valued = [Scored([], 0, 0)] * len(sequences)
    texts = _texts([([*ids, 0], len(ids)) for ids in sequences], attends_to_all(model))
    reader = cast(PreTrainedModel, _AsLanguageModel(model))
    for text, values, known in _read_all(reader, texts, max_batch_size, cancelled):
        for place in text.pairs:
            valued[place] = Scored([float(values[-1, 0])], len(text.ids) - known, known)
            known = len(text.ids)
    return valued


class _AsLanguageModel:
    """A sequence classifier that gives its output at every place that is asked for, as a language model gives logits; its own pooling knows
    neither caches nor left padding."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.config, self.device = model.config, model.device
        self._decoder: Any = model.base_model
        self._head: Any = model.score

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, logits_to_keep: int = 0
    ) -> None:
        """Only its signature is read."""

    def __call__(self, logits_to_keep: int = 0, **options: Any) -> SimpleNamespace:
        hidden = self._decoder(**options).last_hidden_state[:, -logits_to_keep:]
        return SimpleNamespace(logits=self._head(hidden))


def _read_all(
    model: PreTrainedModel, texts: Sequence[_Text], most: int, cancelled: Callable[[], bool]
) -> Iterator[tuple[_Text, Tensor, int]]:
    """Each text with its logits (places, V) and how many of its tokens were read for another text."""
    for batch in _batches(texts, most):
        if cancelled():
            raise SamplingCancelled
        read: set[tuple[int, ...]] = set()
        for text, logits in zip(batch, _read_shared(model, batch) if batch[0].beginning else _read(model, batch), strict=True):
            beginning = text.ids[: text.beginning]
            yield text, logits, text.beginning if beginning in read else 0
            read.add(beginning)


def _texts(pairs: Sequence[tuple[Sequence[int], int]], share: bool) -> list[_Text]:
    """The distinct texts, with what they share where they may."""
    found: dict[tuple[tuple[int, ...], int], _Text] = {}
    for place, (ids, border) in enumerate(pairs):
        border = max(1, border)
        if len(ids) > border:
            key = tuple(ids[:-1]), border
            found.setdefault(key, _Text(*key)).pairs.append(place)
    texts = list(found.values())
    if share:  # nothing that is scored, but for the place after the beginning
        for text, common in zip(texts, common_beginnings([text.ids for text in texts], [text.border for text in texts]), strict=True):
            text.beginning = common
    return texts


def _batches(texts: Sequence[_Text], most: int) -> Iterator[list[_Text]]:
    """Texts in batches of at most `most` rows, either all read alone or all with their beginnings apart."""
    alone = sorted((text for text in texts if not text.beginning), key=lambda text: len(text.ids))
    close = sorted((text for text in texts if text.beginning), key=lambda text: (text.beginning, text.ids))
    for some in (alone, close):
        yield from (list(some[start : start + most]) for start in range(0, len(some), most))


def _read(model: PreTrainedModel, texts: Sequence[_Text]) -> Iterable[Tensor]:
    """Logits (places, V) where each text is scored: one pass."""
    keep = max(text.places for text in texts)
    logits = Batch(model, [text.ids for text in texts], room=0, keep=keep).all_logits
    return (logits[row, keep - text.places :] for row, text in enumerate(texts))


def _read_shared(model: PreTrainedModel, texts: Sequence[_Text]) -> Iterable[Tensor]:
    """The same in two passes: over the distinct beginnings, then over what follows them."""
    beginnings = list(dict.fromkeys(text.ids[: text.beginning] for text in texts))
    batch = Batch(model, beginnings, room=max(len(text.rest) for text in texts))
    batch.select([beginnings.index(text.ids[: text.beginning]) for text in texts])
    before = batch.logits[:, None]
    keep = max(min(text.places, len(text.rest)) for text in texts)
    logits = batch.extend([text.rest for text in texts], keep) if keep else before[:, :0]
    for row, text in enumerate(texts):
        after = logits[row, keep - min(text.places, len(text.rest)) :]
        yield after if text.places <= len(text.rest) else torch.cat([before[row], after])
