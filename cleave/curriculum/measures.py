"""How well a curriculum went: forgetting and final accuracy from a table of accuracies, and how soon a learning curve rises.

The table has a row per finished stage and a column per skill: `table[k][j]` is the accuracy on skill j after stage k. α, β and F are those
of arXiv 2211.15470. A run that only ever knows the last of n skills has α = 1/n, β = 1 and F = 2 / (n + 1): the floor of the table.

    table = read_stages(rows)             # rows of metrics.jsonl
    F = f_score(average_accuracy(table.accuracy), forgetting(table.accuracy, first=0))
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cleave.errors import DataError

Accuracies = Sequence[Sequence[float]]
STAGES = "eval_stages"
SKILL = "eval_exact_match/"
"""Names in metrics.jsonl: how many stages were finished, and the accuracy on each skill (heldout.py measures them)."""


@dataclass(frozen=True)
class StageTable:
    """Accuracy [stages][skills] at the steps at which the stages ended."""

    skills: tuple[str, ...]
    steps: tuple[int, ...]
    accuracy: tuple[tuple[float, ...], ...]


def read_stages(rows: Iterable[Mapping[str, Any]]) -> StageTable | None:
    """The first measurement after the end of each stage; None where skills were not measured."""
    measured = [row for row in rows if STAGES in row]
    if not measured:
        return None
    skills = tuple(name.removeprefix(SKILL) for name in measured[0] if name.startswith(SKILL))
    ends: dict[int, Mapping[str, Any]] = {}
    for row in measured:
        if row[STAGES] > 0:
            ends.setdefault(int(row[STAGES]), row)
    accuracy = tuple(tuple(float(row[SKILL + skill]) for skill in skills) for row in ends.values())
    return StageTable(skills, tuple(int(row["step"]) for row in ends.values()), accuracy)


def average_accuracy(table: Accuracies) -> float:
    """α: the mean accuracy over all skills after the last stage."""
    last = _checked(table)[-1]
    return math.fsum(last) / len(last)


def forgetting(table: Accuracies, first: int = 0) -> float:
    """β: how much accuracy on the skill that was learned first (column `first`) is lost from the end of its stage to the end of all."""
    checked = _checked(table)
    return checked[0][first] - checked[-1][first]


def f_score(alpha: float, beta: float) -> float:
    """F = 2α / (αβ + 1), higher is better; infinite at α = 1, β = -1, where a skill that was never learned in its own stage is perfect at
    the end."""
    below = alpha * beta + 1
    return 2 * alpha / below if below > 0 else math.inf


def steps_to_target(steps: Sequence[float], accuracy: Sequence[float], target: float) -> float | None:
    """Where a learning curve first reaches a target, straight lines between its points; None where it never does."""
    _check_curve(steps, accuracy)
    if accuracy[0] >= target:
        return float(steps[0])
    for (start, low), (end, high) in pairwise(zip(steps, accuracy, strict=True)):
        if high >= target:
            return float(start + (end - start) * (target - low) / (high - low))
    return None


def area_under_curve(steps: Sequence[float], accuracy: Sequence[float]) -> float:
    """The mean height of a learning curve between its first and last step, straight lines between its points: in [0, 1] like accuracy."""
    _check_curve(steps, accuracy)
    if len(steps) == 1:
        return float(accuracy[0])
    areas = ((end - start) * (low + high) / 2 for (start, low), (end, high) in pairwise(zip(steps, accuracy, strict=True)))
    return math.fsum(areas) / (steps[-1] - steps[0])


def _checked(table: Accuracies) -> Accuracies:
    if not table or not table[0] or any(len(row) != len(table[0]) for row in table):
        raise DataError("a table of accuracies has a row per stage with a figure for each skill; measure all skills after each stage.")
    return table


def _check_curve(steps: Sequence[float], accuracy: Sequence[float]) -> None:
    if not steps or len(steps) != len(accuracy) or any(end <= start for start, end in pairwise(steps)):
        raise DataError("a learning curve has an accuracy for each of its steps, which rise; give both in order.")
