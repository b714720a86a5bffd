"""Cascades searched offline: which stages, how many samples each, and from which agreement on a stage's answer is taken.

    fronts = search(table.of(table.searched), resamples=10)
    best = choose(fronts[0], max_cost=150)

The problem of Adaptive-Solver (arXiv 2310.01446) without its greedy walk: every cascade of up to three stages is tried, which is exact and
costs seconds, since no sample is drawn anew. What is found is the Pareto front of mean cost and accuracy: a cascade that another one
beats is dropped, as the paper drops a stage that brings nothing. Resamples of the problems, as weights in the same pass, say how much of
a choice is luck. Letters of shapes: R resamples, P problems, S sizes, C cascades.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cleave.cascade import Cascade, Point, Rung
from cleave.vote_records import VoteTable

MOST_STAGES = 3
ALL_SHARES_UP_TO = 10
PRUNE_AT = 20_000
"""Cascades that wait in memory to be compared."""
Floats = npt.NDArray[np.float64]


def search(table: VoteTable, *, resamples: int = 0, seed: int = 0) -> list[list[Point]]:
    """The Pareto front of the problems, of which there is at least one, the cheapest first; then that of each resample of them."""
    drawn = np.random.default_rng(seed).multinomial(len(table), np.full(len(table), 1 / len(table)), size=resamples)
    weights = np.vstack([np.ones((1, len(table))), drawn])
    fronts = _Fronts(len(table))
    for cascades, right, cost in _outcomes(_Search(table), _Prefix.nothing(weights)):
        fronts.add(cascades, right, cost)
    return [fronts.points(resample) for resample in range(resamples + 1)]


def thresholds(n: int) -> list[int]:
    """The votes of n samples that a search tries: all, or about ten. One vote would be no condition."""
    if n <= ALL_SHARES_UP_TO:
        return list(range(2, n + 1))
    return sorted({math.ceil(n * k / ALL_SHARES_UP_TO) for k in range(1, ALL_SHARES_UP_TO + 1)} - {1})


@dataclass(frozen=True)
class _Block:
    """All draws of a variant from one sample on; arrays are [sizes, problems]."""

    sizes: Sequence[int]
    votes: npt.NDArray[np.int16]
    right: Floats
    unanswered: Floats
    cost: Floats


class _Search:
    """The blocks of a table, each put together once."""

    def __init__(self, table: VoteTable) -> None:
        self._table = table
        self._blocks: dict[tuple[str, int], _Block] = {}

    def blocks(self, used: Mapping[str, int]) -> Iterator[tuple[str, _Block]]:
        """What each variant has left once these many of its samples are used."""
        for variant in self._table.by_window:
            place = variant, used.get(variant, 0)
            if place not in self._blocks:
                self._blocks[place] = self._block(*place)
            if self._blocks[place].sizes:
                yield variant, self._blocks[place]

    def _block(self, variant: str, start: int) -> _Block:
        sizes = self._table.sizes(variant, start)
        draws = [self._table.draws(variant, start, n) for n in sizes]
        votes = np.array([each.votes for each in draws], np.int16)
        right, cost = (np.array([getattr(each, name) for each in draws], float) for name in ("right", "cost"))
        return _Block(sizes, votes, right, (votes == 0).astype(float), cost)


@dataclass(frozen=True)
class _Prefix:
    """Stages that do not end a cascade yet. By resample and problem, `open_`: the weight of problems that they leave open, else 0. By
    resample, `right` and `cost`: what the others add up to. By problem, `before`: whether the answer so far would be right."""

    rungs: Cascade
    used: Mapping[str, int]
    open_: Floats
    right: Floats
    cost: Floats
    before: Floats

    @classmethod
    def nothing(cls, weights: Floats) -> _Prefix:
        """No stage yet; weights are [resamples, problems]."""
        zeros = np.zeros(len(weights))
        return cls((), {}, weights, zeros, zeros, np.zeros(weights.shape[1]))


Batch = tuple[list[Cascade], Floats, Floats]
"""Cascades with the number of right answers and the summed cost of each, [resamples, cascades]."""


def _outcomes(found: _Search, prefix: _Prefix) -> Iterator[Batch]:
    """Everything that begins with `prefix`."""
    for variant, block in found.blocks(prefix.used):
        yield _ended(prefix, variant, block)
    if len(prefix.rungs) + 1 < MOST_STAGES:
        for variant, block in found.blocks(prefix.used):
            for longer in _longer(prefix, variant, block):
                yield from _outcomes(found, longer)


def _ended(prefix: _Prefix, variant: str, block: _Block) -> Batch:
    """The cascades that one more stage, of any size, ends. Where that has no answer, the one before stands."""
    right = prefix.right[:, None] + prefix.open_ @ block.right.T + (prefix.open_ * prefix.before) @ block.unanswered.T
    cost = prefix.cost[:, None] + prefix.open_ @ block.cost.T
    return [(*prefix.rungs, Rung(variant, n)) for n in block.sizes], right, cost


def _longer(prefix: _Prefix, variant: str, block: _Block) -> Iterator[_Prefix]:
    """One more stage with each size and threshold, but for those that end nothing or leave nothing open."""
    for k, n in enumerate(block.sizes):
        cost = prefix.cost + prefix.open_ @ block.cost[k]
        before = np.where(block.unanswered[k] > 0, prefix.before, block.right[k])
        for votes in thresholds(n):
            taken = block.votes[k] >= votes
            open_ = prefix.open_ * ~taken
            if not open_[0].any() or (open_[0] == prefix.open_[0]).all():
                continue
            right = prefix.right + prefix.open_ @ (block.right[k] * taken)
            used = {**prefix.used, variant: prefix.used.get(variant, 0) + n}
            yield _Prefix((*prefix.rungs, Rung(variant, n, votes)), used, open_, right, cost, before)


@dataclass
class _Fronts:
    """Keeps, of all cascades, those on some resample's front. Counts of whole problems, so that equal accuracies are equal."""

    problems: int
    cascades: list[Cascade] = field(default_factory=list)
    right: list[Floats] = field(default_factory=list)
    cost: list[Floats] = field(default_factory=list)

    def add(self, cascades: list[Cascade], right: Floats, cost: Floats) -> None:
        """Arrays are [resamples, cascades]."""
        self.cascades += cascades
        self.right.append(right)
        self.cost.append(cost)
        if len(self.cascades) > PRUNE_AT:
            self._prune()

    def points(self, resample: int) -> list[Point]:
        """The front of one resample, the cheapest first."""
        self._prune()
        right, cost = self.right[0][resample] / self.problems, self.cost[0][resample] / self.problems
        return [Point(self.cascades[i], float(cost[i]), float(right[i])) for i in self._front(resample)]

    def _prune(self) -> None:
        self.right, self.cost = [np.hstack(self.right)], [np.hstack(self.cost)]
        kept = sorted({i for resample in range(len(self.right[0])) for i in self._front(resample)})
        self.cascades = [self.cascades[i] for i in kept]
        self.right, self.cost = [self.right[0][:, kept]], [self.cost[0][:, kept]]

    def _front(self, resample: int) -> list[int]:
        """Places of what nothing beats; of equal cascades the shortest, then the first."""
        right, cost = self.right[0][resample], self.cost[0][resample]
        order = np.lexsort(([len(cascade) for cascade in self.cascades], -right, cost))
        best = np.maximum.accumulate(np.concatenate([[-1.0], right[order][:-1]]))
        return [int(i) for i in order[right[order] > best]]
