"""Recorded samples as votes: one pass over the traces of an evaluation into small arrays, from which any cascade can be replayed.

    records = VoteRecords({"single of 8": config}, "tokens")
    for row in rows: records.add(row, right)
    table = records.table()
    table.draws("single of 8", start=0, n=3)       # by problem: votes, whether the majority is right, cost

A draw is a window of a variant's samples, in the order in which they were drawn: the first n, or for a variant that a cascade uses
again the n after those that it has used, since another stage draws afresh. Sizes are the powers of two, the paper's 3, 5 and 10, and all.
What a draw costs: the plans in full (dynamic: its share of the sub-questions); the first n samples as Solution.usage books them, so the
prompt that samples of one call share once, on the first of them, and what an endpoint reports for a whole call spread evenly; and its
share of what the solver spent on no solution, such as repairs and failed calls. Verifying whoever answers is not counted: it would come
once, whatever the cascade. A solution that is missing counts as one without an answer, at the end.
Left out: replaying (cascade.py) and searching (cascade_search.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

import numpy as np
import numpy.typing as npt

from cleave.config.reasoning import ReasoningConfig
from cleave.selection import Candidate, candidates, choose, clusters
from cleave.selection_table import powers
from cleave.traces import ScoredTrace
from cleave.types import Trace, Usage

CostName = Literal["tokens", "flops", "price"]
PAPER_SIZES = (3, 5, 10)
MOST_USES = 3
"""How often a cascade may use one variant."""
Window = tuple[int, int]
"""First sample and number of samples."""
Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Draws:
    """One window of a variant, by problem: the `votes` of the leading answer, the solution `chosen` for it (-1: there is no answer),
    whether it is `right`, and the `cost`."""

    votes: npt.NDArray[np.int16]
    chosen: npt.NDArray[np.int16]
    right: npt.NDArray[np.bool_]
    cost: npt.NDArray[np.float64]

    def of(self, rows: Rows) -> Draws:
        """Some problems alone."""
        return Draws(self.votes[rows], self.chosen[rows], self.right[rows], self.cost[rows])


@dataclass(frozen=True)
class VoteTable:
    """Draws by variant and window, over the problems that all variants were asked, which are named (task, index). `searched` are those of
    the half that a search may look at, by a hash of the problem's id."""

    problems: Sequence[tuple[str, int]]
    searched: Rows
    by_window: Mapping[str, Mapping[Window, Draws]]

    def draws(self, variant: str, start: int, n: int) -> Draws:
        """The n samples from `start` on."""
        return self.by_window[variant][start, n]

    def sizes(self, variant: str, start: int = 0) -> list[int]:
        """How many samples can be drawn from `start` on."""
        return sorted(n for first, n in self.by_window[variant] if first == start)

    def of(self, rows: Rows) -> VoteTable:
        """Some problems alone."""
        found = {name: {window: draws.of(rows) for window, draws in each.items()} for name, each in self.by_window.items()}
        return VoteTable([problem for problem, wanted in zip(self.problems, rows, strict=True) if wanted], self.searched[rows], found)

    def __len__(self) -> int:
        return len(self.problems)


@dataclass
class _Columns:
    """The traces of one variant in the order in which they come: one value per window each, problem after problem."""

    windows: Sequence[Window]
    places: dict[tuple[str, int], int] = field(default_factory=dict)
    votes: array[int] = field(default_factory=lambda: array("h"))
    chosen: array[int] = field(default_factory=lambda: array("h"))
    right: array[int] = field(default_factory=lambda: array("b"))
    cost: array[float] = field(default_factory=lambda: array("d"))

    def draws(self, problems: Sequence[tuple[str, int]]) -> dict[Window, Draws]:
        """By window, in the order of `problems`."""
        order = np.array([self.places[problem] for problem in problems], int)
        shape = len(self.places), len(self.windows)
        votes, chosen = (np.array(column, np.int16).reshape(shape)[order] for column in (self.votes, self.chosen))
        right, cost = np.array(self.right, bool).reshape(shape)[order], np.array(self.cost, float).reshape(shape)[order]
        return {window: Draws(votes[:, k], chosen[:, k], right[:, k], cost[:, k]) for k, window in enumerate(self.windows)}


class VoteRecords:
    """Collects traces of `variants`, named with how they reason. Others, and problems without a gold answer, are skipped."""

    def __init__(self, variants: Mapping[str, ReasoningConfig], cost: CostName) -> None:
        self._variants = dict(variants)
        self._cost = cost
        self._columns = {name: _Columns(windows(config)) for name, config in variants.items()}
        self._searched: dict[tuple[str, int], bool] = {}

    def add(self, row: ScoredTrace, right: Callable[[str], bool]) -> None:
        """Count one trace; `right` judges an answer to its problem."""
        if row.variant not in self._variants or row.trace.problem.answer is None:
            return
        config, columns, place = self._variants[row.variant], self._columns[row.variant], (row.task, row.index)
        self._searched[place] = is_searched(row.trace.problem.id)
        columns.places[place] = len(columns.places)
        found, judged = candidates(row.trace.solutions), dict[str, bool]()
        costs = {n: cost_of(row.trace, config, n, self._cost) for _, n in columns.windows}
        for start, n in columns.windows:
            votes, chosen = vote([each for each in found if start <= each.index < start + n])
            answer = row.trace.solutions[chosen].answer if chosen >= 0 else None
            if answer is not None and answer not in judged:
                judged[answer] = right(answer)
            columns.votes.append(votes)
            columns.chosen.append(chosen)
            columns.right.append(answer is not None and judged[answer])
            columns.cost.append(costs[n])

    def table(self) -> VoteTable:
        """The problems that were asked under every variant."""
        everywhere = [place for place in self._searched if all(place in columns.places for columns in self._columns.values())]
        problems = sorted(everywhere)
        searched = np.array([self._searched[place] for place in problems], bool)
        return VoteTable(problems, searched, {name: columns.draws(problems) for name, columns in self._columns.items()})


def windows(config: ReasoningConfig) -> list[Window]:
    """What can be drawn of a variant's samples. Those of several plans are not alike, so that only all of them together are a draw."""
    total = config.n
    if config.plans > 1:
        return [(0, total)]
    sizes = sorted({*powers(total), *(n for n in PAPER_SIZES if n <= total)})
    starts = {0}
    for _ in range(MOST_USES - 1):
        starts |= {start + n for start in starts for n in sizes if n > 1}  # one sample is no vote, so nothing follows on it
    return [(start, n) for start in sorted(starts) for n in sizes if start + n <= total]


def vote(found: Sequence[Candidate]) -> tuple[int, int]:
    """The votes of the leading answer, and the solution that the majority rule takes for it; (0, -1) without any."""
    ranked = clusters(found)
    return (len(ranked[0].members), choose("majority", ranked).index) if ranked else (0, -1)


def cost_of(trace: Trace, config: ReasoningConfig, n: int, name: CostName) -> float:
    """What it takes to draw n of the samples that a trace was asked for."""
    share = n / config.n
    planning = measure(trace.usage.get("decomposer", Usage()), name) * (share if config.strategy == "dynamic" else 1.0)
    booked = [measure(solution.usage, name) for solution in trace.solutions]
    elsewhere = max(0.0, measure(trace.usage.get("solver", Usage()), name) - sum(booked))
    return planning + sum(booked[:n]) + elsewhere * share


def measure(usage: Usage, name: CostName) -> float:
    """One of a usage's costs."""
    return float(getattr(usage, name))


def is_searched(problem_id: str) -> bool:
    """Which half a problem belongs to: the one that is searched, or the one that measures what was found."""
    return blake2b(problem_id.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0] % 2 == 0
