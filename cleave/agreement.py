"""Two versions on requests whose right answers nobody knows: how often they agree, and what each takes.

    agreement = Agreement()
    agreement.add(old, new)                          # two traces of one request
    agreement.lost_share, agreement.changed_share, agreement.seconds("new")

Requests that are drawn differ by chance as well as by version; both are asked with the same seeds, so what differs by chance is what the
weights make of the same numbers. Left out: which requests (serve/recorded.py), and the judgement (comparison.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any, Literal

from cleave.console import print_table
from cleave.tasks.scoring import equal
from cleave.types import Trace

SHOWN = 10
Side = Literal["old", "new"]


@dataclass
class Agreement:
    """Counts of requests: `same` answers, `changed` ones, `lost` only the old version answers, `won` only the new one; the rest neither.
    `differing`: the pairs that are changed or lost."""

    same: int = 0
    changed: int = 0
    lost: int = 0
    won: int = 0
    neither: int = 0
    differing: list[tuple[Trace, Trace]] = field(default_factory=list)
    _seconds: dict[Side, list[float]] = field(default_factory=lambda: {"old": [], "new": []})
    _prices: dict[Side, list[float]] = field(default_factory=lambda: {"old": [], "new": []})

    def add(self, old: Trace, new: Trace) -> None:
        """Count one request."""
        kind = _kind(old.answer, new.answer)
        setattr(self, kind, getattr(self, kind) + 1)
        if kind in ("changed", "lost"):
            self.differing.append((old, new))
        sides: tuple[tuple[Side, Trace], ...] = (("old", old), ("new", new))
        for side, trace in sides:
            self._seconds[side].append(trace.timings.get("total", math.nan))
            self._prices[side].append(trace.total_usage.price)

    @property
    def n(self) -> int:
        return self.same + self.changed + self.lost + self.won + self.neither

    @property
    def lost_share(self) -> float:
        """Requests that only the old version answers; nan of none."""
        return self.lost / self.n if self.n else math.nan

    @property
    def changed_share(self) -> float:
        """Requests that the new version does not answer as the old one did; nan of none."""
        return (self.changed + self.lost) / self.n if self.n else math.nan

    def seconds(self, side: Side) -> float:
        """Median wall seconds of a request."""
        return median(self._seconds[side]) if self.n else math.nan

    def price(self, side: Side) -> float:
        """Mean price of a request."""
        return mean(self._prices[side]) if self.n else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; shares, not percent."""
        counts = {name: getattr(self, name) for name in ("n", "same", "changed", "lost", "won", "neither")}
        pairs = [{"question": old.problem.question, "old": old.answer, "new": new.answer} for old, new in self.differing]
        costs = {side: {"seconds": self.seconds(side), "price": self.price(side)} for side in ("old", "new")} if self.n else {}
        return {**counts, "costs": costs, "differing": pairs}

    def show(self) -> None:
        """Print the tables."""
        columns = ("requests", "same", "changed", "lost", "won", "neither", "old s", "new s")
        row = (self.n, self.same, self.changed, self.lost, self.won, self.neither, *(f"{self.seconds(s):.3g}" for s in ("old", "new")))
        print_table(columns, [row], numbers=columns, title="Requests that were answered before, put to the new version")
        rows = [(old.problem.question[:80], old.answer, new.answer) for old, new in self.differing[:SHOWN]]
        if rows:
            print_table(("question", "old", "new"), rows, title="Other answers, or none (all: --json)")


def _kind(old: str | None, new: str | None) -> str:
    if old is None:
        return "neither" if new is None else "won"
    if new is None:
        return "lost"
    return "same" if equal(old, new) else "changed"
