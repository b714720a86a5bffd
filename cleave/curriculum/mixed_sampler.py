"""The sampler of curricula: a mixture says which skill is next, gates say whether its next example is trained on.

    sampler = MixedSampler(sources, Cumulative(shares, order), total_tokens=10**7, seed=0, gates=[DepthGate(most=3)])

A skill is a source with a name, and the examples of a source carry that name as their `skill`: by it an observation finds its way back.
An example that a gate keeps out is gone, and the next draw is made anew, so that the room goes to skills that have something to offer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cleave.curriculum.admission import Gate
from cleave.curriculum.mixture import Mixture
from cleave.curriculum.sampler import MOST_REJECTED, Cursor, Observation, Source, check_sources, generator_state, restore_generator
from cleave.errors import ConfigError, DataError
from cleave.examples import Example


class MixedSampler:
    """Progress is that of the tokens drawn; beyond `total_tokens` all stays as at the end.

    State is that of the generator, the sources' places and what mixture and gates have observed, so a restored sampler goes on to the next
    example. Workers that replay it stay alike as long as they observe the same (observer.py).
    """

    def __init__(
        self, sources: Mapping[str, Source], mixture: Mixture, *, total_tokens: int, seed: int = 0, gates: Sequence[Gate] = ()
    ) -> None:
        if set(mixture.skills) != set(sources):
            raise ConfigError(f"the mixture is of {', '.join(mixture.skills)}, the sources of {', '.join(sources)}; name the same skills.")
        self._mixture, self._gates = mixture, tuple(gates)
        self._cursors = {skill: Cursor(sources[skill]) for skill in mixture.skills}
        self._total, self._tokens = total_tokens, 0
        self._random = random.Random(seed)

    @property
    def listens(self) -> bool:
        """Whether observations change anything."""
        return self._mixture.listens or any(gate.listens for gate in self._gates)

    @property
    def progress(self) -> float:
        """Share of the tokens that are drawn, at most 1."""
        return min(self._tokens / self._total, 1.0)

    @property
    def ends(self) -> tuple[float, ...]:
        """The progress at which each stage ends."""
        return self._mixture.ends

    def __iter__(self) -> Iterator[Example]:
        while True:
            yield self._next()

    def observe(self, results: Sequence[Observation]) -> None:
        self._mixture.observe(results)
        for gate in self._gates:
            gate.observe(results)

    def state_dict(self) -> dict[str, Any]:
        return {
            "tokens": self._tokens,
            "cursors": {skill: [cursor.index, cursor.offset] for skill, cursor in self._cursors.items()},
            "random": generator_state(self._random),
            "mixture": self._mixture.state_dict(),
            "gates": [gate.state_dict() for gate in self._gates],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_sources(state, self._cursors)
        restore_generator(self._random, state["random"])
        self._tokens = state["tokens"]
        for skill, (index, offset) in state["cursors"].items():
            self._cursors[skill].index, self._cursors[skill].offset = index, offset
        self._mixture.load_state_dict(state["mixture"])
        for gate, known in zip(self._gates, state["gates"], strict=True):
            gate.load_state_dict(known)

    def _next(self) -> Example:
        progress = self.progress
        weights = self._mixture.weights(progress)
        for _ in range(MOST_REJECTED):
            [skill] = self._random.choices(self._mixture.skills, weights)
            example = self._cursors[skill].take()
            if all(gate.admits(skill, example, progress, self._random) for gate in self._gates):
                self._tokens += len(example)
                return example
        raise DataError(f"the gates keep out each of {MOST_REJECTED:,} examples in a row; widen curriculum.gate or raise pacing.start.")
