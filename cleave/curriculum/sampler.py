"""Samplers decide which example comes next; they own a seeded generator and can be stopped and continued exactly.

A source is an endless supply that is computed in chunks: chunk k is a function of the source's seed and k alone, so that a sampler's
state is a few integers and continuing costs one chunk, not a replay. Generated tasks and stored examples fit the same shape.

    sampler = StagedSampler({"arithmetic": source}, stages=(Stage(share=0.3, max_depth=2), Stage(share=0.7)), total_tokens=10**7, seed=0)
    for example in sampler: ...

`observe` is the seam of adaptive curricula; the samplers here do not listen. Left out: batches (packing.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cleave.errors import ConfigError, DataError
from cleave.examples import Example

_MOST_REJECTED = 100_000
"""Examples in a row that a stage may reject before it is called unsatisfiable."""


@dataclass(frozen=True)
class Observation:
    """What training saw of one example: produced by the trainer, consumed by samplers. `loss` is in nats per learned token."""

    problem_id: str
    skill: str
    depth: int
    loss: float


class Source(Protocol):
    """An endless supply of examples in chunks."""

    def chunk(self, index: int) -> Sequence[Example]:
        """Chunk `index`, from 0; the same index gives the same examples."""
        ...


class Sampler(Protocol):
    """An endless stream of examples. State is that of the next example to come, whatever was drawn before."""

    def __iter__(self) -> Iterator[Example]: ...

    def observe(self, results: Sequence[Observation]) -> None:
        """Learn from how training went."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, as plain JSON types."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises ConfigError if the state is of other sources."""
        ...


@dataclass(frozen=True)
class Stage:
    """A part of training. `share` of the training tokens; `weights` of the sources, None: as in the whole run; examples beyond
    `max_depth` or `max_length` (tokens) are skipped, None: no limit."""

    share: float = 1.0
    weights: Mapping[str, float] | None = None
    max_depth: int | None = None
    max_length: int | None = None

    def admits(self, example: Example) -> bool:
        return (self.max_depth is None or example.depth <= self.max_depth) and (self.max_length is None or len(example) <= self.max_length)


class ShuffledSource:
    """A finite list as a source: chunk k is the whole list in the k-th shuffled order, an epoch."""

    def __init__(self, examples: Sequence[Example], seed: int = 0) -> None:
        if not examples:
            raise DataError("there are no examples to train on; check the source's split and filters.")
        self._examples = list(examples)
        self._seed = seed

    def chunk(self, index: int) -> list[Example]:
        order = list(self._examples)
        random.Random(f"{self._seed}/{index}").shuffle(order)
        return order


@dataclass
class _Cursor:
    """A place in a source: the next example is `offset` of chunk `index`."""

    source: Source
    index: int = 0
    offset: int = 0
    loaded: tuple[int, Sequence[Example]] | None = field(default=None, repr=False)

    def take(self) -> Example:
        while True:
            if self.loaded is None or self.loaded[0] != self.index:
                self.loaded = (self.index, self.source.chunk(self.index))
            examples = self.loaded[1]
            if self.offset < len(examples):
                self.offset += 1
                return examples[self.offset - 1]
            if not examples and self.index > _MOST_REJECTED:
                raise DataError("a source of examples yields nothing; check its task and max_length.")
            self.index, self.offset = self.index + 1, 0


class StagedSampler:
    """Draws a source by weight, then its next example that the current stage admits.

    The stage is chosen by the tokens drawn so far as a share of `total_tokens`; the last stage lasts for ever. One stage without
    limits is uniform sampling.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        total_tokens: int,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
        stages: Sequence[Stage] = (Stage(),),
    ) -> None:
        if not sources or not stages:
            raise ConfigError("a sampler needs at least one source and one stage.")
        self._cursors = {name: _Cursor(source) for name, source in sources.items()}
        self._weights = dict(weights) if weights is not None else dict.fromkeys(sources, 1.0)
        self._stages = tuple(stages)
        whole = sum(stage.share for stage in stages)
        self._ends = [total_tokens * sum(stage.share for stage in stages[: k + 1]) / whole for k in range(len(stages))]
        self._random = random.Random(seed)
        self._tokens = 0
        for stage in self._stages:
            self._check(stage.weights if stage.weights is not None else self._weights)

    @property
    def stage(self) -> int:
        """Index of the current stage."""
        return next((k for k, end in enumerate(self._ends) if self._tokens < end), len(self._stages) - 1)

    def __iter__(self) -> Iterator[Example]:
        while True:
            yield self._next()

    def observe(self, results: Sequence[Observation]) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        version, internal, gauss = self._random.getstate()
        cursors = {name: [cursor.index, cursor.offset] for name, cursor in self._cursors.items()}
        return {"tokens": self._tokens, "cursors": cursors, "random": [version, list(internal), gauss]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state["cursors"]) != set(self._cursors):
            raise ConfigError(
                f"the checkpoint was trained on {sorted(state['cursors'])}, this run on {sorted(self._cursors)}; use a new name."
            )
        version, internal, gauss = state["random"]
        self._random.setstate((version, tuple(internal), gauss))
        self._tokens = state["tokens"]
        for name, (index, offset) in state["cursors"].items():
            self._cursors[name].index, self._cursors[name].offset = index, offset

    def _next(self) -> Example:
        stage = self._stages[self.stage]
        weights = stage.weights if stage.weights is not None else self._weights
        names = sorted(weights)
        for _ in range(_MOST_REJECTED):
            name = self._random.choices(names, [weights[name] for name in names])[0]
            example = self._cursors[name].take()
            if stage.admits(example):
                self._tokens += len(example)
                return example
        raise DataError(f"stage {self.stage + 1} admits none of {_MOST_REJECTED} examples; raise its max_depth or max_length.")

    def _check(self, weights: Mapping[str, float]) -> None:
        unknown = set(weights) - set(self._cursors)
        if unknown:
            raise ConfigError(f"a stage weighs {sorted(unknown)[0]!r}, which is no source; there are {', '.join(self._cursors)}.")
        if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
            raise ConfigError("the weights of a stage must not be negative and not all zero.")
