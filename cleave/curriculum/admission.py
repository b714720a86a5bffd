"""Admission: which of the examples that are drawn are trained on. Gates of a MixedSampler, as many as wanted, on top of any mixture.

DepthGate      not too shallow, not too deep
LossGate       not what the student knows already, not what is beyond it, by the loss that training saw
EasyToHard     the easy part of each skill at first, all of it in the end, by a pacing

A gate answers for one example and draws from the sampler's own generator, so that its state is only what it has observed.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from cleave.curriculum.pacing import Pacing
from cleave.curriculum.sampler import Observation
from cleave.examples import Example


class Gate:
    """Base of gates; lets everything in."""

    listens = False
    """Whether `observe` does anything."""

    def admits(self, skill: str, example: Example, progress: float, rng: random.Random) -> bool:
        """Whether an example of a skill is trained on."""
        return True

    def observe(self, results: Sequence[Observation]) -> None:
        """What training saw of one step's examples."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What was learned from observations, as plain JSON types."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        return None


class DepthGate(Gate):
    """Problems of a depth in [least, most]; None: no limit."""

    def __init__(self, least: int | None = None, most: int | None = None) -> None:
        self._least, self._most = least, most

    def admits(self, skill: str, example: Example, progress: float, rng: random.Random) -> bool:
        return (self._least is None or example.depth >= self._least) and (self._most is None or example.depth <= self._most)


class LossGate(Gate):
    """Keeps out what was last seen with a loss below `low` (too easy) or above `high` (too hard), in nats per learned token; None: no
    limit.

    `per` says what is remembered: each problem, for finite data that come again, or each (skill, depth) as a running mean, for endless
    ones. What was never seen is let in, and what is kept out still comes with the probability `probe`, or nobody would notice that it
    has become easy or was forgotten.
    """

    listens = True
    RATE = 0.1
    """Weight of a new loss in the running mean of a (skill, depth)."""

    def __init__(
        self, low: float | None = None, high: float | None = None, *, per: Literal["problem", "group"] = "group", probe: float = 0.05
    ) -> None:
        self._low = float("-inf") if low is None else low
        self._high = float("inf") if high is None else high
        self._per, self._probe = per, probe
        self._known: dict[str, float] = {}

    def admits(self, skill: str, example: Example, progress: float, rng: random.Random) -> bool:
        loss = self._known.get(self._key(skill, example.depth, example.problem_id))
        return loss is None or self._low <= loss <= self._high or rng.random() < self._probe

    def observe(self, results: Sequence[Observation]) -> None:
        for result in results:
            key = self._key(result.skill, result.depth, result.problem_id)
            before = self._known.get(key) if self._per == "group" else None
            self._known[key] = result.loss if before is None else before + self.RATE * (result.loss - before)

    def state_dict(self) -> dict[str, Any]:
        return {"known": dict(self._known)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._known = dict(state["known"])

    def _key(self, skill: str, depth: int, problem_id: str) -> str:
        return problem_id if self._per == "problem" else f"{skill}/{depth}"


class EasyToHard(Gate):
    """The easiest share of each skill, as the pacing says: an example is let in if the share of its skill that is easier is within it.

    Skills are ranked apart, so that the mixture stays that of the run. `known` holds difficulties of a sample of each skill: they say
    where an example stands, and of equally difficult ones all are let in together.
    """

    def __init__(self, difficulty: Callable[[Example], float], known: Mapping[str, Iterable[float]], pacing: Pacing) -> None:
        self._difficulty, self._pacing = difficulty, pacing
        self._sorted = {skill: sorted(values) for skill, values in known.items()}

    def admits(self, skill: str, example: Example, progress: float, rng: random.Random) -> bool:
        share = self._pacing.at(progress)
        if share >= 1.0:
            return True
        ranked = self._sorted[skill]
        return bisect_left(ranked, self._difficulty(example)) <= share * len(ranked)
