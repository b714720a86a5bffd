"""Calibration: exact fits where they are known, properties elsewhere, the measures against brute force."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.calibration import Calibration, VerifierCalibration, VoteCalibration, auc, brier, ece, reliability, risk_coverage, threshold_for
from cleave.errors import ConfigError, DataError

judged = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def drawn(temperature: float, bias: float, n: int = 20_000) -> tuple[list[float], list[bool]]:
    rng = random.Random(0)
    raw = [rng.gauss(0, 3) for _ in range(n)]
    return raw, [rng.random() < sigmoid(s / temperature + bias) for s in raw]


def test_fit_finds_the_temperature_and_bias_that_made_the_labels() -> None:
    raw, right = drawn(temperature=2.5, bias=-0.7)
    found = Calibration.fit(raw, right)
    assert found.temperature == pytest.approx(2.5, rel=0.05)
    assert found.bias == pytest.approx(-0.7, abs=0.06)
    assert ece([found(s) for s in raw], right) < 0.01
    assert ece([sigmoid(s) for s in raw], right) > 0.1, "as they come the scores are far too sure"


def test_temperature_scaling_has_no_bias_and_its_gradient_vanishes() -> None:
    raw, right = drawn(temperature=1.7, bias=0.0, n=4000)
    found = Calibration.fit(raw, right, bias=False)
    assert found.bias == 0
    assert abs(sum(s * (found(s) - r) for s, r in zip(raw, right, strict=True))) / len(raw) < 1e-4


def test_a_calibration_keeps_the_order() -> None:
    raw, right = drawn(temperature=0.4, bias=2.0, n=500)
    found = Calibration.fit(raw, right)
    assert auc([found(s) for s in raw], right) == pytest.approx(auc(raw, right))


def test_scores_that_separate_without_error_still_give_finite_numbers() -> None:
    found = Calibration.fit([-2.0, -1.0, 1.0, 2.0], [False, False, True, True])
    assert 0 < found.temperature < 1
    assert found(-1.0) < 0.1 < 0.9 < found(1.0) <= 1


@pytest.mark.parametrize("raw", [[1.0, 1.0, 1.0, 1.0], [2.0, -2.0, -2.0, -1.0]])
def test_scores_that_say_nothing_leave_the_share(raw: list[float], tmp_path: Path) -> None:
    found = Calibration.fit(raw, [False, True, True, True])
    assert [found(s) for s in (-5.0, 0.0, 5.0)] == pytest.approx([0.75] * 3, abs=0.02)
    whole = VerifierCalibration(found, VoteCalibration({2: found, 8: Calibration(2.0, 0.5, 9)}))
    whole.write(tmp_path)
    assert VerifierCalibration.read(tmp_path) == whole


def test_a_fit_needs_both_kinds_and_numbers() -> None:
    with pytest.raises(DataError, match="2 of them right"):
        Calibration.fit([1.0, 2.0], [True, True])
    with pytest.raises(DataError, match="not finite"):
        Calibration.fit([math.nan, 2.0], [True, False])
    with pytest.raises(ValueError, match="not a number"):
        Calibration()(math.nan)


def test_a_checkpoint_without_calibration_takes_scores_as_they_are(tmp_path: Path) -> None:
    assert VerifierCalibration.read(tmp_path).solution(1.2) == pytest.approx(sigmoid(1.2))
    (tmp_path / "calibration.json").write_text('{"temperature": "hot"}')
    with pytest.raises(ConfigError, match="train the verifier again"):
        VerifierCalibration.read(tmp_path)


def test_votes_are_calibrated_by_the_nearest_number_of_samples() -> None:
    votes = VoteCalibration({2: Calibration(1.0, 0.0), 8: Calibration(1.0, 1.0)})
    assert [votes(0.5, n) for n in (1, 2, 3, 4)] == pytest.approx([0.5] * 4)
    assert [votes(0.5, n) for n in (5, 8, 64)] == pytest.approx([sigmoid(1.0)] * 3)
    assert votes(0.9, 2) == pytest.approx(0.9)
    assert 0 < votes(0.0, 2) < 0.01 < 0.99 < votes(1.0, 2) < 1


@given(judged)
def test_measures_agree_with_their_definitions(rows: list[tuple[float, bool]]) -> None:
    stated, right = [p for p, _ in rows], [r for _, r in rows]
    bins = reliability(stated, right)
    assert sum(each.n for each in bins) == len(rows)
    assert sum(each.n * each.found for each in bins) == pytest.approx(sum(right))
    assert 0 <= ece(stated, right) <= 1
    assert brier(stated, right) == pytest.approx(float(np.mean((np.array(stated) - np.array(right)) ** 2)))
    pairs = [(p, q) for p, r in rows for q, w in rows if r and not w]
    expected = np.mean([(p > q) + (p == q) / 2 for p, q in pairs]) if pairs else math.nan
    assert auc(stated, right) == pytest.approx(expected, nan_ok=True)


@given(judged, st.floats(0, 1))
def test_thresholds_keep_their_word(rows: list[tuple[float, bool]], wanted: float) -> None:
    stated, right = [p for p, _ in rows], [r for _, r in rows]
    for threshold, coverage, precision in risk_coverage(stated, right):
        answered = [r for p, r in rows if p >= threshold]
        assert coverage == pytest.approx(len(answered) / len(rows))
        assert precision == pytest.approx(sum(answered) / len(answered))
    threshold = threshold_for(wanted, stated, right)
    shares = {p: np.mean([r for q, r in rows if q >= p]) for p in stated}
    reached = [p for p, share in shares.items() if share >= wanted]
    assert threshold == (min(reached) if reached else None)


def test_perfect_probabilities_are_calibrated() -> None:
    assert ece([1.0, 0.0, 1.0], [True, False, True]) == brier([1.0, 0.0], [True, False]) == 0
    assert ece([0.5, 0.5], [True, False]) == 0
    assert ece([0.9, 0.9], [False, False]) == pytest.approx(0.9)
    assert math.isnan(ece([], []) + brier([], []))
    assert risk_coverage([], []) == []
