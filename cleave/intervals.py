"""95 % (or other) intervals for the figures that we show: a share, a difference on the same problems, a mean over seeds and problems."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with its lower and upper bound."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Pairs:
    """Outcomes of two variants A and B on the same `n` problems: how many only A, and only B, solved."""

    n: int = 0
    only_a: int = 0
    only_b: int = 0


def wilson(right: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson 1927). With n = 0 nothing is known: value nan, bounds 0 and 1."""
    if not 0 <= right <= n:
        raise ValueError(f"{right} right out of {n}")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def paired_difference(pairs: Pairs, *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95) -> Interval:
    """Accuracy of A minus accuracy of B with the percentile bootstrap over problems.

    A problem contributes +1, 0 or -1, so a resample of problems is one multinomial draw of the three counts; drawing those
    directly is the same bootstrap without keeping the problems.
    """
    import numpy as np

    if pairs.n == 0:
        return Interval(math.nan, -1.0, 1.0)
    counts = np.array([pairs.only_a, pairs.only_b, pairs.n - pairs.only_a - pairs.only_b])
    draws = np.random.default_rng(seed).multinomial(pairs.n, counts / pairs.n, size=resamples)
    differences = (draws[:, 0] - draws[:, 1]) / pairs.n
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return Interval((pairs.only_a - pairs.only_b) / pairs.n, float(low), float(high))


def over_seeds_and_problems(values: np.ndarray, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95) -> Interval:
    """The mean of `values` [seeds, problems] with the percentile bootstrap that draws seeds and problems anew, both with replacement.

    With one seed only problems vary, and the interval says nothing about training again.
    """
    import numpy as np

    if not values.size:
        return Interval(math.nan, -1.0, 1.0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(_resampled_means(values, resamples, seed), [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def difference_p(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference of 0, from the same bootstrap; never below 2 / (resamples + 1). 1 without values."""
    if not values.size:
        return 1.0
    means = _resampled_means(values, resamples, seed)
    smaller = min((means <= 0).sum(), (means >= 0).sum())
    return float(min(1.0, 2 * (1 + smaller) / (resamples + 1)))


def _resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    import numpy as np

    seeds, problems = values.shape
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for k in range(resamples):
        drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds)) / seeds
        weights = np.bincount(rng.integers(problems, size=problems), minlength=problems) / problems
        means[k] = drawn @ values @ weights
    return means
