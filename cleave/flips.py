"""What changes between two versions that were asked the same problems: what is won, what is lost, and what is wrong in a new way.

    flips = Flips()
    flips.add(old_right=True, new_right=False, same=False)
    flips.nfr, flips.nfr_mc, flips.p_value, flips.gain()

After MUSCLE (arXiv 2407.09435, section 3). A gain in accuracy can hide many problems that used to be solved: users of the old version meet
those first. Left out: reading runs and judging an upgrade (comparison.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cleave.intervals import Interval, Pairs, paired_difference, wilson


@dataclass
class Flips:
    """Counts of problems: `lost` only the old version solves, `won` only the new one, `both` either, `changed` neither, and the answer is
    another one than before."""

    n: int = 0
    won: int = 0
    lost: int = 0
    both: int = 0
    changed: int = 0

    def add(self, *, old_right: bool, new_right: bool, same: bool) -> None:
        """Count one problem; `same` is whether the two answers are equal, also where there is none."""
        self.n += 1
        self.won += new_right and not old_right
        self.lost += old_right and not new_right
        self.both += old_right and new_right
        self.changed += not old_right and not new_right and not same

    @property
    def nfr(self) -> float:
        """Negative flip rate: the share that only the old version solves; nan of nothing."""
        return self.lost / self.n if self.n else math.nan

    @property
    def nfr_mc(self) -> float:
        """The share that the new version gets wrong with another answer than the old one's, which may have been wrong too."""
        return (self.lost + self.changed) / self.n if self.n else math.nan

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: how likely such an imbalance of `won` and `lost` is between versions that are equally good."""
        flipped, fewer = self.won + self.lost, min(self.won, self.lost)
        if flipped == 0:
            return 1.0
        tail = sum(math.comb(flipped, k) for k in range(fewer + 1))
        return min(1.0, float(2 * tail / 2**flipped))

    def old(self, confidence: float = 0.95) -> Interval:
        """Accuracy of the old version."""
        return wilson(self.both + self.lost, self.n, confidence)

    def new(self, confidence: float = 0.95) -> Interval:
        """Accuracy of the new version."""
        return wilson(self.both + self.won, self.n, confidence)

    def gain(self, *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95) -> Interval:
        """Accuracy of the new version minus the old one's, on the same problems."""
        return paired_difference(Pairs(self.n, self.won, self.lost), resamples=resamples, seed=seed, confidence=confidence)
