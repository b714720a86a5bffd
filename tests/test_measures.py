"""Measures of curricula: the floor of total collapse, what the paper's formulas say, learning curves, and the heat map."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.curriculum.measures import (
    StageTable,
    area_under_curve,
    average_accuracy,
    f_score,
    forgetting,
    read_stages,
    steps_to_target,
)
from cleave.errors import DataError
from cleave.stage_figures import accuracy_by_stage

shares = st.floats(0, 1)


def collapse(n: int) -> list[list[float]]:
    """A model that knows the last skill and nothing else."""
    return [[float(stage == skill) for skill in range(n)] for stage in range(n)]


def test_total_collapse_is_the_floor() -> None:
    table = collapse(5)
    assert average_accuracy(table) == pytest.approx(0.2)
    assert forgetting(table) == 1.0
    assert f_score(0.2, 1.0) == pytest.approx(1 / 3)


@given(st.integers(2, 9))
def test_the_floor_of_any_number_of_skills(n: int) -> None:
    table = collapse(n)
    assert f_score(average_accuracy(table), forgetting(table)) == pytest.approx(2 / (n + 1))


def test_a_perfect_run_and_a_column_that_is_not_the_first() -> None:
    assert f_score(1.0, 0.0) == 2.0
    table = [[0.0, 0.9, 0.1], [0.5, 0.6, 0.1], [0.8, 0.3, 1.0]]
    assert average_accuracy(table) == pytest.approx(0.7)
    assert forgetting(table, first=1) == pytest.approx(0.6)
    assert forgetting(table, first=0) == pytest.approx(-0.8), "what was learned later counts as negative"
    assert f_score(1.0, -1.0) == math.inf


@given(shares, shares, shares, shares)
def test_more_accuracy_and_less_forgetting_are_better(alpha: float, more: float, beta: float, less: float) -> None:
    low, high = sorted((alpha, more))
    forgotten, kept = max(beta, less), min(beta, less)
    assert f_score(low, forgotten) <= f_score(high, forgotten) + 1e-12
    assert f_score(low, forgotten) <= f_score(low, kept) + 1e-12


def test_steps_to_a_target_lie_between_measurements() -> None:
    steps, accuracy = [100, 200, 400], [0.1, 0.5, 0.4]
    assert steps_to_target(steps, accuracy, 0.3) == pytest.approx(150)
    assert steps_to_target(steps, accuracy, 0.1) == 100
    assert steps_to_target(steps, accuracy, 0.5) == 200
    assert steps_to_target(steps, accuracy, 0.6) is None


def test_the_area_under_a_curve_is_its_mean_height() -> None:
    assert area_under_curve([0, 100], [0.0, 1.0]) == pytest.approx(0.5)
    assert area_under_curve([0, 100, 400], [1.0, 0.0, 0.0]) == pytest.approx(0.125)
    assert area_under_curve([7], [0.3]) == 0.3


@given(st.lists(shares, min_size=2, max_size=8), st.integers(1, 50))
def test_the_area_stays_within_the_curve_whatever_the_unit_of_steps(accuracy: list[float], unit: int) -> None:
    steps = list(range(len(accuracy)))
    area = area_under_curve(steps, accuracy)
    assert min(accuracy) - 1e-12 <= area <= max(accuracy) + 1e-12
    assert area_under_curve([unit * step for step in steps], accuracy) == pytest.approx(area)


@pytest.mark.parametrize(("steps", "accuracy"), [([], []), ([1, 1], [0.1, 0.2]), ([2, 1], [0.1, 0.2]), ([1], [0.1, 0.2])])
def test_curves_that_are_none(steps: list[int], accuracy: list[float]) -> None:
    with pytest.raises(DataError, match="learning curve"):
        area_under_curve(steps, accuracy)


def test_tables_that_are_none() -> None:
    for table in ([], [[]], [[0.1, 0.2], [0.3]]):
        with pytest.raises(DataError, match="row per stage"):
            average_accuracy(table)


def make_row(step: int, stages: int, **accuracy: float) -> dict[str, float]:
    return {"step": step, "eval_stages": stages, **{f"eval_exact_match/{skill}": value for skill, value in accuracy.items()}}


def test_stages_are_read_from_metrics_where_they_ended() -> None:
    rows = [
        {"step": 1, "loss": 2.0},
        make_row(5, 0, a=0.1, b=0.0),
        make_row(10, 1, a=0.5, b=0.1),
        make_row(15, 1, a=0.9, b=0.9),
        make_row(20, 2, a=0.4, b=0.6),
    ]
    assert read_stages(rows) == StageTable(("a", "b"), (10, 20), ((0.5, 0.1), (0.4, 0.6)))
    assert read_stages(rows[:1]) is None
    assert read_stages(rows[:2]) == StageTable(("a", "b"), (), ())


def test_the_heat_map_shows_every_cell_and_draws_names_as_text() -> None:
    table = StageTable(("sums", "<b>x</b>"), (10, 2000), ((0.501, 0.0), (0.4, 1.0)))
    drawing = accuracy_by_stage(table)
    assert drawing.startswith("<svg")
    for text in (">50<", ">0<", ">40<", ">100<", "sums", "step 2,000"):
        assert text in drawing
    assert "<b>x</b>" not in drawing
    assert accuracy_by_stage(table) == drawing, "the same bytes each time"
    assert accuracy_by_stage(StageTable(("a",), (), ())) == ""
