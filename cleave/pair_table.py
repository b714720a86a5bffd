"""The pair table of a study: what each pair of decomposer and solver solves, loses against the baseline, and costs.

Rows are finished evaluations of the same problems, one per training seed. Differences are paired by problem, their intervals resample
seeds and problems, because a student is one draw of its training. Cost is money where every role of a row and of the baseline has a
price, else FLOPs. Left out: running anything (pipelines/study.py) and a page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cleave.errors import DataError
from cleave.intervals import Interval, over_seeds_and_problems, wilson
from cleave.runs import METRICS, RunFolder
from cleave.traces import TRACES, read_rows
from cleave.types import Usage, from_dict

Place = tuple[str, int]
"""A problem: task label and position."""


@dataclass(frozen=True)
class Measured:
    """One finished evaluation: whether each problem was solved, and the usage of each role over all of them."""

    solved: Mapping[Place, bool]
    usage: Mapping[str, Usage]

    @classmethod
    def read(cls, folder: RunFolder) -> Measured:
        """A run of one variant. Problems that could not be judged are left out."""
        solved = {
            (row["task"], row["index"]): row["outcome"] == "right"
            for row in read_rows(folder, [TRACES], ["task", "index", "outcome"])
            if row["outcome"] in ("right", "wrong", "failed")
        }
        usage = {row["role"]: _usage(row) for row in _figures(folder) if row["kind"] == "usage"}
        return cls(solved, usage)


@dataclass(frozen=True)
class Cost:
    """Per problem: tokens in and out, money, FLOPs and seconds in the model."""

    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    price: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))


@dataclass(frozen=True)
class PairRow:
    """One line of the table. `difference` is in accuracy against the baseline on the problems that both answered, None for itself."""

    name: str
    decomposer: str
    solver: str
    n: int
    seeds: int
    accuracy: Interval
    by_task: Mapping[str, Interval]
    difference: Interval | None
    cost: Mapping[str, Cost]

    @property
    def total(self) -> Cost:
        return sum(self.cost.values(), Cost())


class PairTable:
    """Rows in order; `baseline` is the name of one of them."""

    def __init__(self, baseline: str, confidence: float = 0.95) -> None:
        self.baseline = baseline
        self.confidence = confidence
        self._runs: dict[str, tuple[str, str, list[Measured]]] = {}

    def add(self, name: str, decomposer: str, solver: str, runs: Sequence[Measured]) -> None:
        """A row with its evaluations, one per seed. Raises DataError if they are not of the same problems."""
        if len({frozenset(run.solved) for run in runs}) != 1:
            raise DataError(f"the seeds of the row {name!r} were measured on different problems; run the study again with another name.")
        self._runs[name] = (decomposer, solver, list(runs))

    def rows(self) -> Iterator[PairRow]:
        """The table."""
        for name, (decomposer, solver, runs) in self._runs.items():
            tasks = sorted({task for task, _ in runs[0].solved})
            yield PairRow(
                name,
                decomposer,
                solver,
                n=len(runs[0].solved),
                seeds=len(runs),
                accuracy=self._accuracy(runs),
                by_task={task: self._accuracy(runs, task) for task in tasks},
                difference=None if name == self.baseline else self._difference(runs),
                cost=_mean_cost(runs),
            )

    def relative_cost(self, row: PairRow, role: str | None = None) -> float | None:
        """The row's cost as a share of the baseline's, of one role or of all; None where the baseline has none."""
        base = _mean_cost(self._runs[self.baseline][2])
        ours, theirs = (sum(cost.values(), Cost()) if role is None else cost.get(role, Cost()) for cost in (row.cost, base))
        if ours.price and theirs.price:
            return ours.price / theirs.price
        return ours.flops / theirs.flops if theirs.flops else None

    def _accuracy(self, runs: Sequence[Measured], task: str | None = None) -> Interval:
        places = [place for place in runs[0].solved if task is None or place[0] == task]
        values = np.array([[run.solved[place] for place in places] for run in runs], dtype=float)
        if len(runs) == 1:
            return wilson(int(values.sum()), len(places), self.confidence)
        return over_seeds_and_problems(values, confidence=self.confidence)

    def _difference(self, runs: Sequence[Measured]) -> Interval:
        _, _, base = self._runs[self.baseline]
        places = [place for place in runs[0].solved if place in base[0].solved]
        reference = np.array([[run.solved[place] for place in places] for run in base], dtype=float).mean(axis=0)
        values = np.array([[run.solved[place] for place in places] for run in runs], dtype=float) - reference
        return over_seeds_and_problems(values, confidence=self.confidence)


def _mean_cost(runs: Sequence[Measured]) -> dict[str, Cost]:
    roles = sorted({role for run in runs for role in run.usage})
    return {role: _cost([run.usage.get(role, Usage()) for run in runs], sum(len(run.solved) for run in runs)) for role in roles}


def _cost(usages: Sequence[Usage], problems: int) -> Cost:
    total = sum(usages, Usage())
    many = max(1, problems)
    values = (total.prompt_tokens, total.completion_tokens, total.price, total.flops, total.seconds)
    return Cost(*(value / many for value in values))


def _values(cost: Cost) -> tuple[float, ...]:
    return cost.prompt_tokens, cost.completion_tokens, cost.price, cost.flops, cost.seconds


def _usage(row: Mapping[str, Any]) -> Usage:
    known = ("calls", "prompt_tokens", "completion_tokens", "seconds", "flops", "price")
    return from_dict(Usage, {name: row[name] for name in known})


def _figures(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.read_text(METRICS).splitlines()]
