"""Samplers decide which example comes next; they own a seeded generator and can be stopped and continued exactly.

A source is an endless supply that is computed in chunks: chunk k is a function of the source's seed and k alone, so that a sampler's
state is a few integers and continuing costs one chunk, not a replay. Generated tasks and stored examples fit the same shape.

    sampler = StagedSampler({"arithmetic": source}, stages=(Stage(share=0.3, max_depth=2), Stage(share=0.7)), total_tokens=10**7, seed=0)
    for example in sampler: ...

`observe` is the seam of adaptive curricula: mixed_sampler.py listens where its parts do, observer.py tells it. Left out: batches
(packing.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cleave.errors import ConfigError, DataError
from cleave.examples import Example

MOST_REJECTED = 100_000
"""Examples in a row that a stage or a gate may reject before it is called unsatisfiable."""


@dataclass(frozen=True)
class Observation:
    """What training saw of one example before it learned from it: produced by observer.py, consumed by samplers.

    `loss` is in nats per learned token; `solved`: greedy decoding would give exactly the target.
    """

    problem_id: str
    skill: str
    depth: int
    loss: float
    solved: bool = False


class Source(Protocol):
    """An endless supply of examples in chunks."""

    def chunk(self, index: int) -> Sequence[Example]:
        """Chunk `index`, from 0; the same index gives the same examples."""
        ...


class Sampler(Protocol):
    """An endless stream of examples. State is that of the next example to come, whatever was drawn before."""

    @property
    def listens(self) -> bool:
        """Whether `observe` changes anything; if not, nobody has to look at single examples."""
        ...

    @property
    def progress(self) -> float:
        """How far training is, in [0, 1]."""
        ...

    @property
    def ends(self) -> tuple[float, ...]:
        """The progress at which each stage ends, the last one 1."""
        ...

    def __iter__(self) -> Iterator[Example]: ...

    def observe(self, results: Sequence[Observation]) -> None:
        """Learn from how training went: called once after each optimiser step, with the same results on all workers."""
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
class Cursor:
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
            if not examples and self.index > MOST_REJECTED:
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
        self._cursors = {name: Cursor(source) for name, source in sources.items()}
        self._weights = dict(weights) if weights is not None else dict.fromkeys(sources, 1.0)
        self._stages = tuple(stages)
        whole = sum(stage.share for stage in stages)
        self._ends = [total_tokens * sum(stage.share for stage in stages[: k + 1]) / whole for k in range(len(stages))]
        self._random = random.Random(seed)
        self._total, self._tokens = total_tokens, 0
        for stage in self._stages:
            self._check(stage.weights if stage.weights is not None else self._weights)

    @property
    def listens(self) -> bool:
        return False

    @property
    def progress(self) -> float:
        return min(self._tokens / self._total, 1.0)

    @property
    def ends(self) -> tuple[float, ...]:
        return (*(end / self._total for end in self._ends[:-1]), 1.0)

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
        cursors = {name: [cursor.index, cursor.offset] for name, cursor in self._cursors.items()}
        return {"tokens": self._tokens, "cursors": cursors, "random": generator_state(self._random)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_sources(state, self._cursors)
        restore_generator(self._random, state["random"])
        self._tokens = state["tokens"]
        for name, (index, offset) in state["cursors"].items():
            self._cursors[name].index, self._cursors[name].offset = index, offset

    def _next(self) -> Example:
        stage = self._stages[self.stage]
        weights = stage.weights if stage.weights is not None else self._weights
        names = sorted(weights)
        for _ in range(MOST_REJECTED):
            name = self._random.choices(names, [weights[name] for name in names])[0]
            example = self._cursors[name].take()
            if stage.admits(example):
                self._tokens += len(example)
                return example
        raise DataError(f"stage {self.stage + 1} admits none of {MOST_REJECTED} examples; raise its max_depth or max_length.")

    def _check(self, weights: Mapping[str, float]) -> None:
        unknown = set(weights) - set(self._cursors)
        if unknown:
            raise ConfigError(f"a stage weighs {sorted(unknown)[0]!r}, which is no source; there are {', '.join(self._cursors)}.")
        if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
            raise ConfigError("the weights of a stage must not be negative and not all zero.")


def check_sources(state: Mapping[str, Any], cursors: Mapping[str, Cursor]) -> None:
    """Raise ConfigError if a sampler's state is of other sources."""
    if set(state["cursors"]) != set(cursors):
        raise ConfigError(f"the checkpoint was trained on {sorted(state['cursors'])}, this run on {sorted(cursors)}; use a new name.")


def generator_state(rng: random.Random) -> list[Any]:
    """A generator's state as plain JSON types."""
    version, internal, gauss = rng.getstate()
    return [version, list(internal), gauss]


def restore_generator(rng: random.Random, state: Sequence[Any]) -> None:
    """Put a generator back to where `generator_state` was taken."""
    version, internal, gauss = state
    rng.setstate((version, tuple(internal), gauss))
