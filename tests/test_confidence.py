"""How far confidences can be believed: what the counters give is what the exact measures give, and a threshold keeps its word."""

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave import calibration
from cleave.calibration import Bin
from cleave.confidence import CELLS, TARGETS, Confidences, ConfidenceTable, Threshold
from cleave.confidence_figures import reliability, risk_coverage, thinned
from cleave.evaluation import Evaluation
from cleave.intervals import wilson
from cleave.traces import ScoredTrace
from cleave.types import Failure, Problem, Solution, Trace
from pipelines.evaluation_summary import abstention_rows, confidence_rows, print_confidence

Rows = list[tuple[float, bool]]
on_grid = st.lists(st.tuples(st.integers(0, CELLS).map(lambda k: k / CELLS), st.booleans()), min_size=1, max_size=60)
anywhere = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def counted(rows: Rows, unanswered: int = 0) -> Confidences:
    counts = Confidences()
    for stated, right in rows:
        counts.add(stated, right)
    counts.labelled = len(rows) + unanswered
    return counts


def columns(rows: Rows) -> tuple[list[float], list[bool]]:
    return [stated for stated, _ in rows], [right for _, right in rows]


def answered(index: int, confidence: float | None, right: bool, variant: str = "v") -> ScoredTrace:
    answer = "9" if right else "8"
    trace = Trace(
        Problem(f"p{index}", "?", answer="9"),
        "single",
        solutions=(Solution(answer=answer),),
        answer=answer,
        chosen=0,
        confidence=confidence,
    )
    return ScoredTrace(variant, "t", index, trace, right, right)


def unanswered(index: int, kind: str, role: str = "", answers: tuple[str, ...] = (), gold: str | None = "9", **fields: Any) -> ScoredTrace:
    solutions = tuple(Solution(answer=answer) for answer in answers)
    trace = Trace(
        Problem(f"p{index}", "?", answer=gold), "single", solutions=solutions, error=Failure(kind, "no; try again.", role), **fields
    )
    return ScoredTrace("v", "t", index, trace, None if gold is None else False, None if gold is None else False)


def table_of(rows: list[ScoredTrace], variants: tuple[str, ...] = ("v",)) -> ConfidenceTable:
    table = ConfidenceTable(variants)
    for row in rows:
        table.add(row, "9".__eq__)
    return table


def drawn(many: int = 400, seed: int = 0, variant: str = "v") -> list[ScoredTrace]:
    """Calibrated confidences."""
    rng = random.Random(seed)
    confidences = [rng.random() for _ in range(many)]
    return [answered(i, p, rng.random() < p, variant) for i, p in enumerate(confidences)]


@given(on_grid)
def test_on_the_grid_everything_is_as_exactly_computed(rows: Rows) -> None:
    stated, right = columns(rows)
    counts = counted(rows)
    assert (counts.n, counts.right, counts.mean) == (len(rows), sum(right), pytest.approx(np.mean(stated)))
    assert counts.ece() == pytest.approx(calibration.ece(stated, right))
    assert counts.brier() == pytest.approx(calibration.brier(stated, right))
    assert counts.auc() == pytest.approx(calibration.auc(stated, right), nan_ok=True)
    curve = [(each.abstain_below, each.coverage, each.precision().value) for each in counts.curve()]
    assert curve == calibration.risk_coverage(stated, right)
    for target in (*TARGETS, 0.0, 0.5, 1.0):
        found = counts.threshold_for(target)
        assert (found.abstain_below if found else None) == calibration.threshold_for(target, stated, right)


@given(anywhere)
def test_between_the_cells_bins_and_scores_stay_exact(rows: Rows) -> None:
    stated, right = columns(rows)
    counts = counted(rows)
    for ours, exact in zip(counts.bins(), calibration.reliability(stated, right), strict=True):
        assert ours == Bin(exact.n, pytest.approx(exact.stated), pytest.approx(exact.found))
    assert counts.ece() == pytest.approx(calibration.ece(stated, right))
    assert counts.brier() == pytest.approx(calibration.brier(stated, right))


@given(anywhere)
def test_auc_is_off_by_at_most_half_the_pairs_that_share_a_cell(rows: Rows) -> None:
    stated, right = columns(rows)
    exact = calibration.auc(stated, right)
    if math.isnan(exact):
        assert math.isnan(counted(rows).auc())
        return
    cells = [math.floor(p * CELLS) for p in stated]
    pairs = [(a, b) for a, r in zip(cells, right, strict=True) for b, w in zip(cells, right, strict=True) if r and not w]
    shared = sum(a == b for a, b in pairs) / len(pairs)
    assert abs(counted(rows).auc() - exact) <= shared / 2 + 1e-9


@given(anywhere, st.integers(0, 40), st.sampled_from(TARGETS))
def test_a_threshold_keeps_its_word(rows: Rows, without: int, target: float) -> None:
    counts = counted(rows, without)
    for each in counts.curve():
        sure = [right for stated, right in rows if stated >= each.abstain_below]
        assert (each.answered, each.right) == (len(sure), sum(sure))
        assert each.coverage == len(sure) / (len(rows) + without)
    reached = counts.threshold_for(target)
    enough = [each for each in counts.curve() if each.precision().value >= target]
    assert reached == (enough[-1] if enough else None)


@pytest.mark.parametrize("stated", [k / CELLS for k in (0, 3, 6, 2999, 3000, 9999, 10_000)])
def test_a_confidence_that_equals_a_threshold_is_not_below_it(stated: float) -> None:
    (only,) = counted([(stated, True)]).curve()
    assert only.abstain_below == stated


def test_measures_of_nothing_are_nan() -> None:
    counts = Confidences()
    assert all(math.isnan(each) for each in (counts.mean, counts.ece(), counts.brier(), counts.auc()))
    assert (counts.bins(), counts.curve(), counts.threshold_for(0.8)) == ([], [], None)


def test_a_withheld_answer_counts_with_its_rightness() -> None:
    withheld = [
        unanswered(0, "Abstained", answers=("8", "9"), chosen=1, confidence=0.6),
        unanswered(1, "Abstained", answers=("8", "9"), chosen=0, confidence=0.2),
    ]
    counts = table_of([*withheld, answered(2, 0.9, True)])["v"]
    assert (counts.n, counts.right, counts.labelled) == (3, 2, 3)
    assert counts.threshold_for(1.0) == Threshold(0.6, 2, 2, 3)


def test_what_has_no_confidence_is_answered_at_no_threshold() -> None:
    rows = [
        answered(0, 0.9, True),
        answered(1, None, True),
        unanswered(2, "ParseError", "solver"),
        unanswered(3, "Abstained", answers=("9",), chosen=0, confidence=None),
    ]
    counts = table_of(rows)["v"]
    assert (counts.n, counts.labelled) == (1, 4)
    assert [each.coverage for each in counts.curve()] == [0.25]


def test_what_no_accuracy_counts_is_left_out() -> None:
    rows = [
        answered(0, 0.9, True),
        unanswered(1, "GenerationError", "verifier"),
        unanswered(2, "Abstained", answers=("9",), gold=None, chosen=0, confidence=0.5),
    ]
    counts = table_of(rows)["v"]
    assert (counts.n, counts.labelled) == (1, 1)
    assert counts.labelled == Evaluation(["v"]).add_all(rows).tally("v").n


def test_rows_are_json_of_variants_with_confidences_in_their_order() -> None:
    rows = [*drawn(variant="z"), *drawn(variant="a", seed=1), answered(0, None, True, "silent")]
    table = table_of(rows, ("z", "silent", "a"))
    found = list(table.rows())
    assert json.dumps(found, allow_nan=False)
    assert [row["variant"] for row in found if row["kind"] == "confidence"] == table.variants == ["z", "a"]
    measures = next(row for row in found if row["variant"] == "a")
    right = wilson(table["a"].right, 400)
    assert (measures["n"], measures["accuracy"], measures["low"], measures["high"]) == (400, right.value, right.low, right.high)
    assert measures["ece"] < 0.08, "drawn as stated"
    bins = [row for row in found if row["kind"] == "reliability" and row["variant"] == "a"]
    assert sum(row["n"] for row in bins) == 400
    assert all(row["low"] <= row["found"] <= row["high"] for row in bins)
    assert [row["target"] for row in found if row["kind"] == "abstention" and row["variant"] == "a"] == list(TARGETS)


def test_a_target_out_of_reach_says_so() -> None:
    found = list(table_of([answered(0, 0.9, False), answered(1, 0.5, True)]).rows())
    for row in (row for row in found if row["kind"] == "abstention"):
        assert row["abstain_below"] is row["answered"] is row["coverage"] is row["precision"] is row["low"] is row["high"] is None
    always = list(table_of([answered(0, 0.9, True)]).rows())
    assert always[0]["auc"] is None, "there is no wrong answer to compare with"
    assert {row["coverage"] for row in always if row["kind"] == "abstention"} == {1.0}


def test_stdout_shows_targets_that_are_worth_it() -> None:
    rows = [answered(i, 0.99 if i < 100 else 0.6, i < 100 or i % 8 != 0) for i in range(200)]
    table, evaluation = table_of(rows), Evaluation(["v"]).add_all(rows)
    assert [cells[1:4] for cells in abstention_rows(table, evaluation)] == [["95", "0.99", "50.0"], ["99", "0.99", "50.0"]]
    assert [cells[:3] for cells in confidence_rows(table)] == [["v", "200", "79.5"]]
    wild = drawn(2000)
    assert [cells[1] for cells in abstention_rows(table_of(wild), Evaluation(["v"]).add_all(wild))] == ["80", "90", "95"]


def test_stdout_is_silent_without_confidences(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [answered(0, None, True)]
    print_confidence(table_of(rows), Evaluation(["v"]).add_all(rows))
    assert capsys.readouterr().out == ""


def test_figures_are_drawn_where_there_are_confidences() -> None:
    silent = table_of([answered(0, None, True)])
    assert reliability(silent) == risk_coverage(silent) == ""
    for rows in (drawn(), [answered(0, 1.0, True)], [answered(0, 0.0, False)]):
        table = table_of(rows)
        assert reliability(table).startswith("<svg")
        assert risk_coverage(table).startswith("<svg")


def test_a_line_has_few_points_and_ends_where_the_curve_does() -> None:
    curve = table_of(drawn(3000))["v"].curve()
    kept = thinned(curve, points=50)
    assert len(kept) <= 51
    assert kept[-1] == curve[-1]
    assert kept[0].coverage >= 1 / 50
    assert thinned(curve[:1], points=50) == curve[:1], "a curve of one point is that point"
