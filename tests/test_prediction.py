"""What predicts what: rank correlation, recall, ceilings and replays, on tables whose answers are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from cleave.curriculum.prediction import (
    ceiling,
    collapse_floor,
    compare,
    floor_share,
    predict,
    recall_at,
    reliability,
    rho_interval,
    spearman,
    stratified,
    top,
)
from cleave.errors import DataError


def make_table(orders: int = 40, seeds: int = 3, noise: float = 0.5, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and values that follow them as far as `signal` says, with a noise of their own for each seed."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=orders)
    return scores, signal * scores[:, None] + noise * rng.normal(size=(orders, seeds))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_is_scipys_with_ties(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert math.isnan(spearman(first, second))
    else:
        assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


def test_a_score_that_is_the_value_predicts_it_and_its_negative_the_contrary() -> None:
    _, values = make_table(noise=0.0)
    scores = values[:, 0]
    found = predict(scores, values, floor=-9.0, resamples=400)
    assert (found.rho.value, found.rho.low, found.rho.high) == pytest.approx((1, 1, 1))
    assert found.recall[10].value == 1.0
    assert found.recall[10].p < 0.01
    assert (found.reliability, found.ceiling) == pytest.approx((1, 1))
    assert predict(-scores, values, floor=-9.0, resamples=400).rho.value == pytest.approx(-1)
    assert predict(-scores, values, floor=-9.0, resamples=400).recall[10].value == 0.0


def test_chance_is_seen_as_chance() -> None:
    scores, values = make_table(orders=60, signal=0.0)
    found = predict(scores, values, floor=-9.0, resamples=400)
    assert found.rho.low < 0 < found.rho.high
    assert found.recall[20].expected == pytest.approx(1 / 3)
    assert all(recall.p > 0.01 for recall in found.recall.values())


def test_the_interval_knows_of_seeds() -> None:
    """With seeds that contradict each other the same mean is known less well."""
    scores, agreed = make_table(noise=0.0)
    spread = np.stack([5 * scores, -3 * scores + 0.1 * np.arange(40)], axis=1)
    assert spearman(scores, spread.mean(1)) > 0.4
    wide = rho_interval(scores, spread, resamples=300)
    assert wide.low < -0.5
    assert rho_interval(scores, agreed, resamples=300).low > 0.95


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.data())
def test_top_shares_the_places_left_among_ties(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    share = top(values, k)
    assert share.sum() == pytest.approx(k)
    edge = sorted(values)[-k]
    assert all(
        (one == 1) if value > edge else (one == 0) if value < edge else 0 < one <= 1 for one, value in zip(share, values, strict=True)
    )


def test_recall_of_ties_is_that_of_chance() -> None:
    found = recall_at(np.arange(10.0), np.ones((10, 2)), 3)
    assert (found.value, found.expected, found.p) == pytest.approx((0.3, 0.3, 1.0))


def test_collapse() -> None:
    assert collapse_floor(5) == pytest.approx(1 / 3)
    assert floor_share([[1 / 3, 0.5], [0.3, 0.336]], collapse_floor(5)) == 0.75


def test_reliability_and_its_ceiling() -> None:
    """A perfect score of noisy values reaches the ceiling that Spearman and Brown give, not 1."""
    assert (ceiling(1.0, 3), ceiling(0.0, 3), ceiling(-0.4, 3)) == (1.0, 0.0, 0.0)
    assert ceiling(0.5, 1) == pytest.approx(math.sqrt(0.5))
    assert math.isnan(reliability([[1.0], [2.0], [3.0]]))
    rng = np.random.default_rng(1)
    truth = rng.normal(size=4000)
    values = truth[:, None] + rng.normal(size=(4000, 3))
    assert reliability(values) == pytest.approx(0.48, abs=0.03)
    assert spearman(truth, values.mean(1)) == pytest.approx(ceiling(reliability(values), 3), abs=0.02)


def test_strata_are_spread_over_the_ranking() -> None:
    scores = np.random.default_rng(0).permutation(120)
    places = stratified(scores, 40, seed=3)
    assert len(set(places)) == 40
    drawn = [int(scores[place]) for place in places]
    assert all(117 - 3 * k <= score <= 119 - 3 * k for k, score in enumerate(drawn))
    assert stratified(scores, 40, seed=3) == places
    with pytest.raises(DataError, match="cannot be drawn from 120"):
        stratified(scores, 121)


def test_replays_of_a_perfect_of_a_useless_and_of_a_misleading_score() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.permutation(100)[:, None].astype(float), 3, axis=1)
    perfect = compare(values[:, 0], values, seeded=10, replays=400)
    assert perfect.medians[0] == 1.0
    assert perfect.ratio < 0.2
    useless = compare(np.zeros(100), values, seeded=10, replays=1000)
    assert useless.ratio == pytest.approx(1.0, abs=0.35)
    assert np.median(useless.random) == pytest.approx(13, abs=3), "the first of the 5 best of 100 at random"
    assert compare(-values[:, 0], values, seeded=10, replays=400).ratio > 1.5


def test_a_search_that_never_gets_there_is_infinite() -> None:
    values = np.stack([np.arange(40.0), -np.arange(40.0)], axis=1)  # what one seed finds best the other finds worst
    found = compare(np.arange(40.0), values, seeded=40, replays=10)
    assert found.seeded.tolist() == [1.0, math.inf] * 5
    with pytest.raises(DataError, match="two seeds or more"):
        compare(np.arange(5.0), np.ones((5, 1)), seeded=2)


@pytest.mark.parametrize(("scores", "values"), [([1, 2], [[1], [2]]), ([1, 2, 3], [1, 2, 3]), ([1, 2, math.nan], [[1], [2], [3]])])
def test_what_is_no_table_is_refused(scores: list[float], values: list[float]) -> None:
    with pytest.raises(DataError):
        predict(scores, values, floor=0.0)
