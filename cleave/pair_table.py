"""The pair table of a study: what each pair of decomposer and solver solves, loses against another row, and costs.

Rows are finished evaluations, one per training seed. A row is compared on the problems that both rows were asked: accuracy by a
paired bootstrap over seeds and problems, because a student is one draw of its training, and cost per problem by role. Cost is money
where every role of the table has a price, else FLOPs. Left out: running anything (pipelines/study.py), advice.py, pair_figures.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cleave.errors import DataError
from cleave.intervals import Interval, difference_p, over_seeds_and_problems, wilson
from cleave.runs import RunFolder
from cleave.traces import TRACES, read_traces
from cleave.types import Usage

Place = tuple[str, int]
"""A problem: task label and position."""
Unit = Literal["price", "flops"]
EVERYTHING = "all"
"""In place of a role: all of them."""


@dataclass(frozen=True)
class Measured:
    """One finished evaluation: whether each problem was solved, and the usage of each role on each problem."""

    solved: Mapping[Place, bool]
    usage: Mapping[Place, Mapping[str, Usage]]

    @classmethod
    def read(cls, folder: RunFolder) -> Measured:
        """A run of one variant. Problems that could not be judged are left out."""
        solved: dict[Place, bool] = {}
        usage: dict[Place, Mapping[str, Usage]] = {}
        for row in read_traces(folder, [TRACES]):
            if row.outcome in ("right", "wrong", "failed"):
                solved[row.task, row.index] = row.outcome == "right"
                usage[row.task, row.index] = {role: used for role, used in row.trace.usage.items() if used.calls}
        return cls(solved, usage)


@dataclass(frozen=True)
class Difference:
    """Accuracy of a row minus that of the row it is compared with, on the `n` problems that both were asked.

    `p` is two-sided, of the hypothesis that there is none. `cost` is the row's cost as a share of the other's by role and of
    all; a role that one of them lacks, or whose cost is unknown, has none.
    """

    against: str
    n: int
    interval: Interval
    p: float
    cost: Mapping[str, float]


@dataclass(frozen=True)
class PairRow:
    """One line of the table. `players` says who plays which role; `usage` is the total of each role over `asked` problems of all seeds;
    `difference` is None for the row that the others are compared with."""

    name: str
    players: Mapping[str, str]
    n: int
    seeds: int
    accuracy: Interval
    by_task: Mapping[str, Interval]
    usage: Mapping[str, Usage]
    asked: int
    difference: Difference | None

    @property
    def total(self) -> Usage:
        return sum(self.usage.values(), Usage())


@dataclass(frozen=True)
class _Entry:
    players: Mapping[str, str]
    runs: Sequence[Measured]
    against: str

    def places(self, task: str | None = None) -> list[Place]:
        return [place for place in self.runs[0].solved if task is None or place[0] == task]

    def outcomes(self, places: Sequence[Place]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """[seeds, problems], 1 where solved."""
        return np.array([[run.solved[place] for place in places] for run in self.runs], dtype=float)

    def usage(self, places: Iterable[Place]) -> dict[str, Usage]:
        """Total of each role over some problems and all seeds."""
        total: dict[str, Usage] = {}
        for place in places:
            for run in self.runs:
                for role, used in run.usage[place].items():
                    total[role] = total.get(role, Usage()) + used
        return total


class PairTable:
    """Rows in the order in which they are added; a row is compared with one that was added before or after it."""

    def __init__(self, confidence: float = 0.95) -> None:
        self.confidence = confidence
        self._entries: dict[str, _Entry] = {}

    def add(self, name: str, players: Mapping[str, str], runs: Sequence[Measured], against: str) -> None:
        """A row with its evaluations, one per seed. Raises DataError if they are not of the same problems."""
        if len({frozenset(run.solved) for run in runs}) != 1:
            raise DataError(f"the seeds of the row {name!r} were measured on different problems; run the study again with another name.")
        self._entries[name] = _Entry(players, list(runs), against)

    @property
    def unit(self) -> Unit | None:
        """What cost is counted in: money if every role that was asked has a price, else FLOPs, else nothing can be said."""
        asked = [used for entry in self._entries.values() for used in entry.usage(entry.places()).values()]
        if all(used.price for used in asked):
            return "price"
        return "flops" if all(used.flops for used in asked) else None

    def rows(self) -> Iterator[PairRow]:
        """The table."""
        unit = self.unit
        for name, entry in self._entries.items():
            places = entry.places()
            tasks = sorted({task for task, _ in places})
            yield PairRow(
                name,
                entry.players,
                n=len(places),
                seeds=len(entry.runs),
                accuracy=self._accuracy(entry, places),
                by_task={task: self._accuracy(entry, entry.places(task)) for task in tasks},
                usage=entry.usage(places),
                asked=len(places) * len(entry.runs),
                difference=None if name == entry.against else self._difference(entry, unit),
            )

    def _accuracy(self, entry: _Entry, places: Sequence[Place]) -> Interval:
        values = entry.outcomes(places)
        if len(values) == 1:
            return wilson(int(values.sum()), len(places), self.confidence)
        return over_seeds_and_problems(values, confidence=self.confidence)

    def _difference(self, entry: _Entry, unit: Unit | None) -> Difference:
        other = self._entries[entry.against]
        asked = set(other.places())
        places = [place for place in entry.places() if place in asked]
        values = entry.outcomes(places) - other.outcomes(places).mean(axis=0)
        interval = over_seeds_and_problems(values, confidence=self.confidence)
        return Difference(entry.against, len(places), interval, difference_p(values), _relative_cost(entry, other, places, unit))


def _relative_cost(entry: _Entry, other: _Entry, places: Sequence[Place], unit: Unit | None) -> dict[str, float]:
    """Per problem, by role and of all."""
    if unit is None:
        return {}
    ours, theirs = ({role: getattr(used, unit) for role, used in one.usage(places).items()} for one in (entry, other))
    ours[EVERYTHING], theirs[EVERYTHING] = sum(ours.values()), sum(theirs.values())
    seeds = len(other.runs) / len(entry.runs)
    return {role: seeds * cost / theirs[role] for role, cost in ours.items() if theirs.get(role)}
