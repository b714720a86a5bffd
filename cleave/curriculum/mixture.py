"""Mixtures: how likely each skill is to be drawn next, as a function of how far training is.

fixed          always the same weights
ordered        one skill after another (the single-pass stages of arXiv 2211.15470)
cumulative     each stage adds a skill to those before it
scheduled      weights that change from point to point of training, straight lines between

The one that listens to training is in missing_skills.py. Weights are in the order of `skills`. Left out: drawing (mixed_sampler.py).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from cleave.curriculum.pacing import Pacing
from cleave.curriculum.sampler import Observation
from cleave.errors import ConfigError


class Mixture:
    """Base of mixtures, itself the fixed one. `ends` are the shares of training at which its stages end, the last one 1."""

    listens = False
    """Whether `observe` does anything."""

    def __init__(self, shares: Mapping[str, float], ends: Sequence[float] | None = None) -> None:
        """`shares` are the weights of the skills; without `ends`, as many equal stages as there are skills, so that a mixture that has
        none of its own is measured as often as those that have."""
        check_weights(shares, shares)
        self.skills = tuple(shares)
        self.ends = tuple(ends) if ends is not None else tuple((k + 1) / len(shares) for k in range(len(shares)))
        self._shares = list(shares.values())

    def weights(self, progress: float) -> Sequence[float]:
        """The weight of each skill at a progress in [0, 1], not all zero."""
        return self._shares

    def observe(self, results: Sequence[Observation]) -> None:
        """What training saw of one step's examples."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What was learned from observations, as plain JSON types."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        return None

    def stage(self, progress: float) -> int:
        """Index of the stage at a progress, from 0; the last one lasts for ever."""
        return min(bisect_right(self.ends, progress), len(self.ends) - 1)


class Ordered(Mixture):
    """One skill after another. With a linear pacing each has the same share of the tokens; a finite skill that is longer than its stage is
    seen in part, a shorter one again."""

    def __init__(self, skills: Sequence[str], order: Sequence[str], pacing: Pacing | None = None) -> None:
        check_order(order, skills)
        ends = stage_ends(len(order), pacing or Pacing())
        if ends[0] <= 0.0:
            raise ConfigError("a pacing that starts with several skills has no room for one at a time; set curriculum.pacing.start: 0.")
        super().__init__(dict.fromkeys(skills, 1.0), ends)
        self._by_stage = [[float(skill == current) for skill in skills] for current in order]

    def weights(self, progress: float) -> Sequence[float]:
        return self._by_stage[self.stage(progress)]


class Cumulative(Mixture):
    """Each stage adds the next skill of the order; skills that are in are drawn by their shares. `ends` are of the stages that are there:
    a pacing that starts with several skills has fewer of them."""

    def __init__(self, shares: Mapping[str, float], order: Sequence[str], pacing: Pacing | None = None) -> None:
        check_order(order, list(shares))
        ends = stage_ends(len(order), pacing or Pacing())
        super().__init__(shares, [end for end in ends if end > 0.0])
        more = len(ends) - len(self.ends)
        inside = [set(order[: k + 1 + more]) for k in range(len(self.ends))]
        self._by_stage = [[share if skill in known else 0.0 for skill, share in shares.items()] for known in inside]
        if not all(any(weights) for weights in self._by_stage):
            raise ConfigError("the first skills of the order have no weight; give their tasks one, or put them later.")

    def weights(self, progress: float) -> Sequence[float]:
        return self._by_stage[self.stage(progress)]


class Scheduled(Mixture):
    """Weights at points of training, each (progress, weight by skill; skills not named have none). Before the first point they are as
    there, after the last as there."""

    def __init__(self, skills: Sequence[str], points: Sequence[tuple[float, Mapping[str, float]]]) -> None:
        if not points or any(later <= earlier for (earlier, _), (later, _) in pairwise(points)):
            raise ConfigError("a schedule has points whose `at` rise, in [0, 1]; give one or more, in order.")
        for _, weights in points:
            check_weights(weights, skills)
        inner = [at for at, _ in points if 0.0 < at < 1.0]
        super().__init__(dict.fromkeys(skills, 1.0), [*inner, 1.0])
        self._at = [at for at, _ in points]
        self._weights = [[float(weights.get(skill, 0.0)) for skill in skills] for _, weights in points]

    def weights(self, progress: float) -> Sequence[float]:
        after = bisect_right(self._at, progress)
        if after == 0:
            return self._weights[0]
        if after == len(self._at):
            return self._weights[-1]
        start, end = self._at[after - 1], self._at[after]
        way = (progress - start) / (end - start)
        return [low + way * (high - low) for low, high in zip(self._weights[after - 1], self._weights[after], strict=True)]


def stage_ends(count: int, pacing: Pacing) -> list[float]:
    """Where each of `count` stages ends, the last at 1; 0 for those that the pacing's start leaves out."""
    return [*(pacing.reaches((k + 1) / count) for k in range(count - 1)), 1.0]


def check_order(order: Sequence[str], skills: Sequence[str]) -> None:
    """Raise ConfigError unless the order names each of the skills once."""
    known = ", ".join(skills)
    if repeated := [skill for k, skill in enumerate(order) if skill in order[:k]]:
        raise ConfigError(f"the order names {repeated[0]!r} twice; name each skill once: {known}.")
    if unknown := [skill for skill in order if skill not in skills]:
        raise ConfigError(f"the order names {unknown[0]!r}, which is no skill of this run; there are {known}.")
    if missing := [skill for skill in skills if skill not in order]:
        raise ConfigError(f"the order misses the skill {missing[0]!r}; name each skill once: {known}.")


def check_weights(weights: Mapping[str, float], skills: Mapping[str, float] | Sequence[str]) -> None:
    """Raise ConfigError for weights of unknown skills, and for those by which nothing could be drawn."""
    if unknown := [skill for skill in weights if skill not in skills]:
        raise ConfigError(f"a mixture weighs {unknown[0]!r}, which is no skill of this run; there are {', '.join(skills)}.")
    if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
        raise ConfigError("the weights of a mixture must not be negative and not all zero; give some skill a weight above 0.")
