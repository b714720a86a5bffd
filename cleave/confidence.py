"""How far confidences can be believed: per variant, how often answers are right by how sure they are, and what abstaining would bring.

    table = ConfidenceTable(["static"])
    table.add(row, right)                  # a trace, and what judges the answer that it withholds
    table["static"].ece()

The measures are those of calibration.py, from counters: memory does not grow with the number of problems. Confidences are counted in
10,000 cells of equal width and a last one for exactly 1. The cells nest in the bins of a reliability diagram, so that ECE and Brier score
are exact. A threshold is the lower edge of a cell, and the AUC takes two confidences of one cell as equal, which moves it by at most
half the share of pairs of a right and a wrong answer that lie in one cell.

An answer that was withheld counts with its rightness, whatever threshold the run had. A problem without an answer, or with one of unknown
confidence, is answered at no threshold: it lowers every coverage. Problems that no accuracy counts (evaluation.py) do not count here.
Left out: making confidences (selection.py, calibration.py), and which threshold to take; that is for a validation split to say.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cleave.calibration import Bin
from cleave.intervals import Interval, wilson
from cleave.traces import ScoredTrace

CELLS = 10_000
BINS = 10
TARGETS = (0.8, 0.9, 0.95, 0.99)
"""Precisions for which a threshold is looked for."""
_EDGES = [k / CELLS for k in range(CELLS + 1)]


@dataclass(frozen=True)
class Threshold:
    """What follows from giving only answers that are at least `abstain_below` sure (0: all that have a confidence): how many of the
    labelled problems are `answered`, and how many of these `right`."""

    abstain_below: float
    answered: int
    right: int
    labelled: int

    @property
    def coverage(self) -> float:
        """Share of the labelled problems that get an answer."""
        return self.answered / self.labelled

    def precision(self, level: float = 0.95) -> Interval:
        """Share of the answers that are right, with Wilson's interval of that level."""
        return wilson(self.right, self.answered, level)


class Confidences:
    """Counts of one variant: `n` answers with a confidence, `right` of them right, among `labelled` problems."""

    def __init__(self) -> None:
        self.labelled = 0
        self._n = np.zeros(CELLS + 1, np.int64)
        self._right = np.zeros(CELLS + 1, np.int64)
        self._stated = np.zeros(CELLS + 1)
        self._squares = 0.0

    def add(self, stated: float, right: bool) -> None:
        """Count one answer with its confidence in [0, 1]."""
        # Not int(stated * CELLS): 0.0003 * 10,000 is below 3, and the confidence would lie under the threshold that it equals.
        cell = bisect_right(_EDGES, stated) - 1
        self._n[cell] += 1
        self._right[cell] += right
        self._stated[cell] += stated
        self._squares += (stated - right) ** 2

    @property
    def n(self) -> int:
        return int(self._n.sum())

    @property
    def right(self) -> int:
        return int(self._right.sum())

    @property
    def mean(self) -> float:
        """Mean confidence; nan without answers, as are all measures."""
        return float(self._stated.sum()) / self.n if self.n else math.nan

    def bins(self) -> list[Bin]:
        """Bins of equal width over [0, 1], empty ones left out (`calibration.reliability`)."""
        starts = range(0, CELLS, CELLS // BINS)
        n, right, stated = (np.add.reduceat(each, starts) for each in (self._n, self._right, self._stated))
        return [Bin(int(n[k]), float(stated[k] / n[k]), float(right[k] / n[k])) for k in np.flatnonzero(n)]

    def ece(self) -> float:
        """Expected calibration error (`calibration.ece`)."""
        return math.fsum(each.n * abs(each.stated - each.found) for each in self.bins()) / self.n if self.n else math.nan

    def brier(self) -> float:
        """Mean squared distance of the confidence from 1 (right) or 0 (wrong) (`calibration.brier`)."""
        return self._squares / self.n if self.n else math.nan

    def auc(self) -> float:
        """The probability that a right answer is in a higher cell than a wrong one, equal cells counting half; nan without both."""
        wrong = self._n - self._right
        pairs = self.right * int(wrong.sum())
        below = np.cumsum(wrong) - wrong
        return float((self._right * (below + wrong / 2)).sum()) / pairs if pairs else math.nan

    def curve(self) -> list[Threshold]:
        """By falling threshold, one for each cell that holds an answer (`calibration.risk_coverage`)."""
        cells = np.flatnonzero(self._n)[::-1]
        answered, right = np.cumsum(self._n[cells]), np.cumsum(self._right[cells])
        return [Threshold(_EDGES[cell], int(n), int(r), self.labelled) for cell, n, r in zip(cells, answered, right, strict=True)]

    def threshold_for(self, precision: float) -> Threshold | None:
        """The lowest from which on answers are right at least that often; None where no threshold does it."""
        return next((each for each in reversed(self.curve()) if each.right / each.answered >= precision), None)


class ConfidenceTable:
    """Counts by variant. `level` is that of the intervals; `variants` fixes the order of the rows."""

    def __init__(self, variants: Sequence[str], level: float = 0.95) -> None:
        self.level = level
        self._counts = {variant: Confidences() for variant in variants}

    def __getitem__(self, variant: str) -> Confidences:
        return self._counts[variant]

    @property
    def variants(self) -> list[str]:
        """Those that stated a confidence at all."""
        return [variant for variant, counts in self._counts.items() if counts.n]

    def add(self, row: ScoredTrace, right: Callable[[str], bool]) -> None:
        """Count one trace; `right` judges the answer that was withheld, where one was."""
        if row.outcome in ("unjudged", "unlabelled"):
            return
        counts = self._counts[row.variant]
        counts.labelled += 1
        if row.trace.confidence is not None and row.outcome != "failed":
            counts.add(row.trace.confidence, right(_withheld(row)) if row.outcome == "abstained" else row.outcome == "right")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Flat JSON rows by variant: one of kind confidence, one of kind reliability per bin, one of kind abstention per target."""
        for variant in self.variants:
            yield {"kind": "confidence", "variant": variant, **self._measures(self[variant])}
            for each in self[variant].bins():
                found = self.found(each)
                yield {"kind": "reliability", "variant": variant, "n": each.n, "stated": each.stated, **_bounded("found", found)}
            for target in TARGETS:
                reached = self[variant].threshold_for(target)
                yield {"kind": "abstention", "variant": variant, "target": target, **self._abstaining(reached)}

    def found(self, each: Bin) -> Interval:
        """The share of a bin's answers that is right, with its interval."""
        return wilson(round(each.n * each.found), each.n, self.level)

    def _measures(self, counts: Confidences) -> dict[str, Any]:
        auc = counts.auc()
        return {
            "n": counts.n,
            "labelled": counts.labelled,
            "mean": counts.mean,
            **_bounded("accuracy", wilson(counts.right, counts.n, self.level)),
            "ece": counts.ece(),
            "brier": counts.brier(),
            "auc": None if math.isnan(auc) else auc,
        }

    def _abstaining(self, reached: Threshold | None) -> dict[str, Any]:
        """All None where no threshold reaches the target."""
        if reached is None:
            return dict.fromkeys(("abstain_below", "answered", "coverage", "precision", "low", "high"))
        return {
            "abstain_below": reached.abstain_below,
            "answered": reached.answered,
            "coverage": reached.coverage,
            **_bounded("precision", reached.precision(self.level)),
        }


def _withheld(row: ScoredTrace) -> str:
    """The answer that an Abstained trace does not give: its chosen solution stays."""
    trace = row.trace
    assert trace.chosen is not None
    answer = trace.solutions[trace.chosen].answer
    assert answer is not None
    return answer


def _bounded(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, "low": interval.low, "high": interval.high}
