"""Does a score that is known before training predict how training goes? Statistics of a table of orders: `scores` [m] of m orders, and
`values` [m, s], what each order reached (such as F) with each of s training seeds.

    found = predict(scores, values, floor=collapse_floor(5))
    found.rho                                  # Spearman's ρ of score and mean value, with a bootstrap interval
    compare(scores, values, seeded=10)         # trials that a search needs with the score's best orders first, and without

A ρ is worth no more than its ceiling: with seeds that disagree, no score can agree with their mean. Left out: how orders are scored
(designer.py) and trained. The measures beside ρ are those of arXiv 2211.15470 and of what its released logs lack.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from cleave.errors import DataError
from cleave.intervals import Interval

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Recall:
    """Of the K best orders by value the share that is among the K best by score; what chance gives; how often chance gives as much."""

    value: float
    expected: float
    p: float


@dataclass(frozen=True)
class Prediction:
    """How well scores predict values. `floor_share`: runs at the collapse floor, which no score tells apart; `reliability`: mean ρ between
    two seeds; `ceiling`: the highest ρ with the mean over seeds that a perfect score could expect."""

    orders: int
    seeds: int
    rho: Interval
    recall: dict[int, Recall]
    floor_share: float
    reliability: float
    ceiling: float


@dataclass(frozen=True)
class Comparison:
    """Trials until a search holds one of the top orders, by replay; infinite where it never does. `random` tries orders in random order."""

    seeded: Array = field(repr=False)
    random: Array = field(repr=False)

    @property
    def medians(self) -> tuple[float, float]:
        """Of the seeded and of the random search."""
        return _median(self.seeded), _median(self.random)

    @property
    def ratio(self) -> float:
        """Of the medians, below 1 where seeding helps; nan where neither search gets there in half of the replays."""
        seeded, unseeded = self.medians
        return math.nan if math.isinf(seeded) and math.isinf(unseeded) else seeded / unseeded


def predict(
    scores: npt.ArrayLike, values: npt.ArrayLike, *, floor: float, ks: Sequence[int] = (5, 10, 20), resamples: int = 2000, seed: int = 0
) -> Prediction:
    """All statistics. Raises DataError for a table that is not one, or has fewer than three orders."""
    known, reached = _checked(scores, values)
    agreed = reliability(reached)
    return Prediction(
        orders=len(known),
        seeds=reached.shape[1],
        rho=rho_interval(known, reached, resamples=resamples, seed=seed),
        recall={k: recall_at(known, reached, k, permutations=resamples, seed=seed) for k in ks if k < len(known)},
        floor_share=floor_share(reached, floor),
        reliability=agreed,
        ceiling=ceiling(agreed, reached.shape[1]),
    )


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Spearman's rank correlation, ties with their mean rank; nan where one of both is constant."""
    ranks = [rankdata(values) - (len(np.atleast_1d(values)) + 1) / 2 for values in (np.asarray(first), np.asarray(second))]
    norm = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / norm if norm else math.nan


def rho_interval(
    scores: npt.ArrayLike, values: npt.ArrayLike, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """ρ of score and mean value, with the percentile bootstrap that draws orders and seeds anew, both with replacement."""
    known, reached = _checked(scores, values)
    rng = np.random.default_rng(seed)
    orders, seeds = reached.shape
    drawn = []
    for _ in range(resamples):
        rows = rng.integers(orders, size=orders)
        columns = rng.integers(seeds, size=seeds)
        drawn.append(spearman(known[rows], reached[np.ix_(rows, columns)].mean(1)))
    tail = (1 - confidence) / 2
    finite = np.array([one for one in drawn if math.isfinite(one)])
    low, high = np.quantile(finite, [tail, 1 - tail]) if len(finite) else (-1.0, 1.0)
    return Interval(spearman(known, reached.mean(1)), float(low), float(high))


def recall_at(scores: npt.ArrayLike, values: npt.ArrayLike, k: int, *, permutations: int = 2000, seed: int = 0) -> Recall:
    """Recall@K. Of orders that tie for the last places each counts in part, as if ties were broken at random. p is one-sided, by
    permutations of the scores."""
    known, reached = _checked(scores, values)
    best, chosen = top(reached.mean(1), k), top(known, k)
    found = float(best @ chosen) / k
    rng = np.random.default_rng(seed)
    chance = np.array([float(best @ rng.permutation(chosen)) / k for _ in range(permutations)])
    return Recall(found, k / len(known), float((1 + (chance >= found - 1e-12).sum()) / (permutations + 1)))


def top(values: npt.ArrayLike, k: int) -> Array:
    """How far each is among the k largest: 1, 0, or for those that tie at the edge an equal share of the places left; sums to k."""
    given = np.asarray(values, dtype=np.float64)
    edge = np.sort(given)[-k]
    above, tied = given > edge, given == edge
    share: Array = above + tied * ((k - above.sum()) / tied.sum())
    return share


def floor_share(values: npt.ArrayLike, floor: float, tolerance: float = 0.005) -> float:
    """The share of runs at or below a floor, within a tolerance."""
    return float((np.asarray(values) <= floor + tolerance).mean())


def collapse_floor(skills: int) -> float:
    """F of a run that only ever knows the last of n skills: α = 1/n and β = 1 give 2 / (n + 1)."""
    return 2 / (skills + 1)


def reliability(values: npt.ArrayLike) -> float:
    """The mean ρ between the values of two seeds over all pairs; nan with one seed."""
    reached = np.asarray(values, dtype=np.float64)
    pairs = [spearman(reached[:, a], reached[:, b]) for a, b in combinations(range(reached.shape[1]), 2)]
    finite = [rho for rho in pairs if math.isfinite(rho)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def ceiling(agreed: float, seeds: int) -> float:
    """The correlation with the mean over seeds that a perfect predictor expects: the root of its reliability, by Spearman and Brown
    (1910) seeds · r / (1 + (seeds - 1) · r). 0 where seeds do not agree at all, nan where that is not known."""
    if math.isnan(agreed):
        return math.nan
    kept = max(agreed, 0.0)
    return math.sqrt(seeds * kept / (1 + (seeds - 1) * kept))


def stratified(scores: npt.ArrayLike, count: int, seed: int = 0) -> list[int]:
    """Places of `count` orders, one drawn from each of as many parts of the ranking by score, highest part first."""
    ranked = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    if not 1 <= count <= len(ranked):
        raise DataError(f"{count} orders cannot be drawn from {len(ranked)}; ask for fewer.")
    rng = np.random.default_rng(seed)
    return [int(rng.choice(part)) for part in np.array_split(ranked, count)]


def compare(
    scores: npt.ArrayLike, values: npt.ArrayLike, *, seeded: int, replays: int = 1000, share: float = 0.05, seed: int = 0
) -> Comparison:
    """Replay searches on the table: one takes the `seeded` best orders by score first and the rest at random, the other all at random.

    In each replay one seed, in turn, is the judge. A search holds the order that is best by the mean over the other seeds; it is there when
    the judge puts that order among the top `share` of all orders. Raises DataError for fewer than two seeds.
    """
    known, reached = _checked(scores, values)
    orders, seeds = reached.shape
    if seeds < 2:
        raise DataError("a search chooses on some seeds and is judged on another; give two seeds or more.")
    rng = np.random.default_rng(seed)
    found: tuple[list[float], list[float]] = ([], [])
    for replay in range(replays):
        judge = replay % seeds
        chosen_by = np.delete(reached, judge, axis=1).mean(1)
        good = reached[:, judge] >= np.sort(reached[:, judge])[-max(1, math.ceil(share * orders))]
        at_random = rng.permutation(orders)
        ranked = at_random[np.argsort(-known[at_random], kind="stable")]  # ties in random order
        first = ranked[:seeded]
        rest = rng.permutation(ranked[seeded:])
        found[0].append(_trials_needed(np.concatenate([first, rest]), chosen_by, good))
        found[1].append(_trials_needed(rng.permutation(orders), chosen_by, good))
    return Comparison(np.array(found[0]), np.array(found[1]))


def _trials_needed(sequence: npt.NDArray[np.intp], chosen_by: Array, good: npt.NDArray[np.bool_]) -> float:
    """How many orders of a sequence are tried until the best of them is good; infinite where that never happens."""
    held = _running_best(sequence, chosen_by)
    return next((float(trial) for trial, order in enumerate(held, start=1) if good[order]), math.inf)


def _running_best(sequence: npt.NDArray[np.intp], chosen_by: Array) -> Iterator[int]:
    best = int(sequence[0])
    for order in sequence.tolist():
        if chosen_by[order] > chosen_by[best]:
            best = order
        yield best


def _median(trials: Array) -> float:
    """The middle one; of an even number the lower of both, as infinite ones have no mean."""
    return float(np.sort(trials)[(len(trials) - 1) // 2])


def _checked(scores: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Array, Array]:
    known, reached = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if known.ndim != 1 or reached.ndim != 2 or len(known) != len(reached) or len(known) < 3 or not reached.shape[1]:
        raise DataError(
            f"a score for each of three orders or more and a value for each order and seed are needed, not the shapes {known.shape} and "
            f"{reached.shape}; train more orders, all with the same seeds."
        )
    if not (np.isfinite(known).all() and np.isfinite(reached).all()):
        raise DataError("some score or value is not finite; leave those orders out.")
    return known, reached
