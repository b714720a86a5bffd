"""Accuracy against cost: which candidates nothing else beats in both, and which of them is kept.

Left out: what the two figures are (sparsity.py), how the front is drawn (pareto_figure.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Mark(NamedTuple):
    """What is made large, and what is made small."""

    gain: float
    cost: float

    def dominates(self, other: Mark) -> bool:
        """Better in one and no worse in the other."""
        return self != other and self.gain >= other.gain and self.cost <= other.cost


def layers(marks: Sequence[Mark]) -> list[int]:
    """The layer of each mark: 0 where nothing dominates it, 1 where only layer 0 does, … (the sorting of NSGA-II,
    doi 10.1109/4235.996017)."""
    found: dict[int, int] = {}
    layer = 0
    while len(found) < len(marks):
        left = [k for k in range(len(marks)) if k not in found]
        front = [k for k in left if not any(marks[other].dominates(marks[k]) for other in left)]
        found |= dict.fromkeys(front, layer)
        layer += 1
    return [found[k] for k in range(len(marks))]


def front_of(marks: Sequence[Mark]) -> list[int]:
    """The places that nothing dominates, cheapest first; of equal marks the first."""
    kept = [k for k, mark in enumerate(marks) if mark not in marks[:k] and not any(other.dominates(mark) for other in marks)]
    return sorted(kept, key=lambda k: marks[k].cost)


def goes_on(marks: Sequence[Mark], mark: Mark, reduction_factor: float) -> bool:
    """Whether fewer than 1 / reduction_factor of `marks`, `mark` among them, lie in better layers than it."""
    found = layers(marks)
    own = found[marks.index(mark)]
    return sum(layer < own for layer in found) < len(marks) / reduction_factor


def most_accurate(marks: Iterable[Mark], *, max_cost: float) -> Mark | None:
    """Of those that cost no more, of equal ones the cheapest; None without any."""
    return max((mark for mark in marks if mark.cost <= max_cost), key=lambda mark: (mark.gain, -mark.cost), default=None)


def cheapest(marks: Iterable[Mark], *, min_gain: float) -> Mark | None:
    """Of those that reach as much, of equal ones the most accurate; None without any."""
    return min((mark for mark in marks if mark.gain >= min_gain), key=lambda mark: (mark.cost, -mark.gain), default=None)


def is_whole(mark: Mark) -> bool:
    """Whether both figures were measured."""
    return math.isfinite(mark.gain) and math.isfinite(mark.cost)
