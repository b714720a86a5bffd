"""One sentence of advice from a pair table: which role's student is worth its loss.

A student is worth distilling where the whole interval of its loss lies above −tolerance, not worth it where the whole interval lies
below, else the study was too small to say. Left out: which row speaks for a role, which the study's config names before it is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from cleave.intervals import Interval
from cleave.pair_table import PairRow, Unit

Verdict = Literal["distil", "do not distil", "undecided"]


def verdict(interval: Interval, tolerance: float) -> Verdict:
    """What an interval of (student − teacher) says; `tolerance` is the share of problems that a student may lose."""
    if interval.low >= -tolerance:
        return "distil"
    return "do not distil" if interval.high < -tolerance else "undecided"


def advise(rows: Mapping[str, PairRow], tolerance: float, unit: Unit | None) -> str:
    """The sentence; `rows` maps a role to the row in which only that role is played by a student. Empty without rows."""
    parts = [_clause(role, row, tolerance, unit) for role, row in rows.items() if row.difference is not None]
    sentence = "; ".join(parts)
    return sentence[:1].upper() + sentence[1:] + ("." if sentence else "")


def _clause(role: str, row: PairRow, tolerance: float, unit: Unit | None) -> str:
    assert row.difference is not None
    interval = row.difference.interval
    cost = row.difference.cost.get(role)
    price = "" if cost is None else f" at {100 * cost:.0f} % of its {'price' if unit == 'price' else 'compute'}"
    figures = f"{signed(interval)}{price} ({row.name})"
    decided = verdict(interval, tolerance)
    if decided == "undecided":
        return f"whether to distil the {role} is open: {figures}; measure more problems or seeds"
    return f"{decided} the {role}: {figures}"


def signed(interval: Interval) -> str:
    """A difference in points, as prose: −0.4 points [−1.9, +1.0]."""
    return f"{_points(interval.value)} points [{_points(interval.low)}, {_points(interval.high)}]"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")
