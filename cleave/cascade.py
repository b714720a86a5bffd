"""A cascade of recorded variants: replayed on their samples, chosen from a front, written as a config.

    outcome = replay((Rung("single of 8", 3, votes=3), Rung("static of 8", 8)), table)

Stages are decided and answers chosen as the strategy `adaptive` does with `selection: majority` (stages.py). Left out: reading samples
(vote_records.py), finding cascades (cascade_search.py), showing them (cascade_report.py), stages that end by confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cleave.config.reasoning import ReasoningConfig, StageConfig
from cleave.errors import ConfigError
from cleave.vote_records import VoteTable

GAIN = 0.002
"""Accuracy that is worth a dearer cascade: what the paper (arXiv 2310.01446) asks of another stage."""


@dataclass(frozen=True)
class Rung:
    """A stage: `n` samples of a variant, taken if at least `votes` of them agree; 0: taken in any case (the last stage)."""

    variant: str
    n: int
    votes: int = 0


Cascade = tuple[Rung, ...]


@dataclass(frozen=True)
class Point:
    """A cascade with its mean cost per problem and the share that it solves."""

    cascade: Cascade
    cost: float
    accuracy: float


@dataclass(frozen=True)
class Outcome:
    """A replayed cascade, by problem: the stage that ended it, the stage that answered and its solution `chosen` (-1: there is no answer),
    whether that is `right`, and the `cost`. Both stages differ where the last one had no answer."""

    ended: npt.NDArray[np.int16]
    answered: npt.NDArray[np.int16]
    chosen: npt.NDArray[np.int16]
    right: npt.NDArray[np.bool_]
    cost: npt.NDArray[np.float64]


def replay(cascade: Cascade, table: VoteTable) -> Outcome:
    """Run one cascade on all problems of a table."""
    size = len(table)
    open_, used = np.ones(size, bool), dict[str, int]()
    found = Outcome(np.zeros(size, np.int16), np.zeros(size, np.int16), np.full(size, -1, np.int16), np.zeros(size, bool), np.zeros(size))
    for number, rung in enumerate(cascade):
        start = used.get(rung.variant, 0)
        used[rung.variant] = start + rung.n
        draws = table.draws(rung.variant, start, rung.n)
        answers = open_ & (draws.chosen >= 0)
        found.ended[open_] = found.answered[answers] = number
        found.chosen[answers], found.right[answers] = draws.chosen[answers], draws.right[answers]
        found.cost[open_] += draws.cost[open_]
        open_ &= draws.votes < rung.votes
    return found


def choose(front: Sequence[Point], *, max_cost: float | None = None, min_accuracy: float | None = None) -> Point:
    """The cheapest point that solves at least `min_accuracy`; None: as much, but for GAIN, as the best one within `max_cost`.

    Raises ConfigError where there is none.
    """
    affordable = [point for point in front if max_cost is None or point.cost <= max_cost]
    if not affordable:
        raise ConfigError(f"no cascade costs at most {max_cost:g} per problem; the cheapest costs {front[0].cost:.4g}, allow that.")
    best = max(point.accuracy for point in affordable)
    wanted = best - GAIN if min_accuracy is None else min_accuracy
    good = [point for point in affordable if point.accuracy >= wanted]
    if not good:
        raise ConfigError(f"no cascade solves {wanted:g} of the searched problems; the best one solves {best:.4f}, ask for that.")
    return min(good, key=lambda point: point.cost)


def thinned(front: Sequence[Point]) -> list[Point]:
    """The points that gain on the one before, by at least GAIN."""
    kept = list(front[:1])
    for point in front[1:]:
        if point.accuracy - kept[-1].accuracy >= GAIN:
            kept.append(point)
    return kept


def survival(chosen: Cascade, others: Sequence[Cascade]) -> list[int]:
    """For each stage, how many of the other choices have one of the same variant and size too, whatever its threshold."""
    return [sum(any((rung.variant, rung.n) == (each.variant, each.n) for each in other) for other in others) for rung in chosen]


def as_reasoning(cascade: Cascade, variants: Mapping[str, ReasoningConfig]) -> dict[str, Any]:
    """The `reasoning` section of a config that reasons so, in plain types. Budgets, seeds and abstaining are the user's to add."""
    stages = [_fields(rung, variants[rung.variant]) for rung in cascade]
    written = stages[0] if len(stages) == 1 else {"strategy": "adaptive", "stages": stages}
    ReasoningConfig.model_validate(written)
    return written


def _fields(rung: Rung, config: ReasoningConfig) -> dict[str, Any]:
    """What a stage has to say: its variant's fields but for those that are as by default, or that a vote does not read."""
    unread = {"selection", "rerank_top_k", "majority_top_n", "stop_early", "samples_per_round"}
    own = {name: getattr(config, name) for name in StageConfig.model_fields if name in ReasoningConfig.model_fields and name not in unread}
    said = {name: value for name, value in own.items() if name == "strategy" or value != ReasoningConfig.model_fields[name].default}
    vote = {"selection": "majority"} if rung.n > 1 else {}
    return said | {"n": rung.n} | vote | ({"agreement": rung.votes / rung.n} if rung.votes else {})
