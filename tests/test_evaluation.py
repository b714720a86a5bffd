"""Counting and intervals: what is counted as what, and the mathematics behind the intervals."""

import json
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.evaluation import Evaluation
from cleave.intervals import Pairs, paired_difference, wilson
from cleave.traces import ScoredTrace
from cleave.types import Failure, Problem, Solution, Trace, Usage, Verdict


def make(index: int, correct: bool | None, variant: str = "static", error: Failure | None = None, **problem: Any) -> ScoredTrace:
    fields: dict[str, Any] = {"task": "arithmetic", "skills": ("add",), "depth": 2} | problem
    answer = None if error is not None and correct is not True else "1"
    trace = Trace(
        Problem(f"p{index}", "1 + 1?", answer="2", **fields),
        "static",
        answer=answer,
        usage={"solver": Usage(1, 10, 5, 0.5, 100.0, 0.01)},
        timings={"total": 2.0},
        error=error,
    )
    return ScoredTrace(variant, fields["task"], index, trace, correct, correct)


def down(role: str = "solver") -> Failure:
    return Failure("GenerationError", "no reply; try again.", role)


def test_failure_is_not_solved_and_listed_apart() -> None:
    evaluation = Evaluation(["static"]).add_all([make(0, True), make(1, False), make(2, False, error=down())])
    tally = evaluation.tally("static")
    assert (tally.n, tally.right, tally.failed) == (3, 1, 1)
    assert evaluation.failures["static", "GenerationError", "solver"].count == 1
    assert evaluation.failures["static", "GenerationError", "solver"].message == "no reply; try again."


def test_verifier_failure_is_never_a_wrong_answer() -> None:
    evaluation = Evaluation(["static"]).add_all([make(0, True), make(1, False, error=down("verifier"))])
    tally = evaluation.tally("static")
    assert (tally.n, tally.right, tally.unjudged) == (1, 1, 1)
    assert tally.accuracy().value == 1.0
    assert evaluation.failures["static", "GenerationError", "verifier"].unsolved == 0


def test_answer_found_before_an_error_counts_and_the_error_is_listed() -> None:
    evaluation = Evaluation(["static"]).add_all([make(0, True, error=down("verifier"))])
    assert evaluation.tally("static").right == 1
    assert evaluation.failures["static", "GenerationError", "verifier"].count == 1


def judged(row: ScoredTrace, *verdicts: Verdict | None, strategy: str = "static") -> ScoredTrace:
    return replace(row, trace=replace(row.trace, strategy=strategy, solutions=(Solution(),) * len(verdicts), verdicts=verdicts))


def test_missing_verdicts_are_listed_once_per_problem_and_cost_no_answer() -> None:
    rows = [judged(make(0, True), Verdict(0.9), None, None), judged(make(1, False), Verdict(0.9)), make(2, True)]
    evaluation = Evaluation(["static"]).add_all(rows)
    listed = evaluation.failures["static", "VerdictMissing", "verifier"]
    assert (listed.count, listed.unsolved) == (1, 0)
    assert (evaluation.tally("static").n, evaluation.tally("static").right) == (3, 2)


def test_solutions_that_a_strategy_does_not_judge_are_no_failure() -> None:
    evaluation = Evaluation(["static"]).add_all([judged(make(0, True), None, Verdict(0.9), strategy="adaptive")])
    assert evaluation.failures == {}


def test_problem_without_gold_answer_is_left_out() -> None:
    evaluation = Evaluation(["static"]).add_all([make(0, None), make(1, True)])
    assert (evaluation.tally("static").n, evaluation.tally("static").unlabelled) == (1, 1)


def test_groups_by_task_depth_and_each_skill() -> None:
    rows = [
        make(0, True, depth=1),
        make(1, False, depth=10, skills=("add", "mul", "add")),
        make(2, True, task="lookup", depth=0, skills=()),
    ]
    evaluation = Evaluation(["static"]).add_all(rows)
    assert evaluation.keys("depth") == ["1", "10"]
    assert evaluation.keys("task and depth") == ["arithmetic 1", "arithmetic 10"]
    assert evaluation.tally("static", "skill", "add").n == 2
    assert evaluation.tally("static", "skill", "mul").right == 0
    assert evaluation.tally("static", "task", "lookup").right == 1


def test_cost_is_summed_by_role() -> None:
    evaluation = Evaluation(["static"]).add_all(make(i, True) for i in range(4))
    cost = evaluation.costs["static"]
    assert cost.usage["solver"] == Usage(4, 40, 20, 2.0, 400.0, 0.04)
    assert (cost.problems, cost.wall_seconds) == (4, 8.0)


def test_pairs_join_the_same_problem_in_any_order() -> None:
    outcomes = {"a": [True, True, False, False, True], "b": [True, False, True, False, False]}
    rows = [make(i, right, variant) for variant, rights in outcomes.items() for i, right in enumerate(rights)]
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        (difference,) = Evaluation(["a", "b"]).add_all(rows).differences()
        assert difference.pairs == Pairs(5, 2, 1)
        assert difference.interval.value == pytest.approx(0.2)


def test_unjudged_problem_leaves_the_pair_out() -> None:
    rows = [make(0, True, "a"), make(0, False, "b", error=down("verifier")), make(1, True, "a"), make(1, False, "b")]
    (difference,) = Evaluation(["a", "b"]).add_all(rows).differences()
    assert difference.pairs == Pairs(1, 1, 0)


def test_same_position_of_two_tasks_is_not_a_pair() -> None:
    rows = [make(0, True, "a", task="x"), make(0, False, "b", task="y")]
    assert Evaluation(["a", "b"]).add_all(rows).differences()[0].pairs.n == 0


def test_figures_do_not_depend_on_order_and_are_json() -> None:
    rows = [make(i, i % 3 == 0, variant, error=down() if i % 7 == 6 else None) for i in range(40) for variant in ("a", "b")]
    first = list(Evaluation(["a", "b"]).add_all(rows).rows())
    random.Random(1).shuffle(rows)
    assert list(Evaluation(["a", "b"]).add_all(rows).rows()) == first
    assert "NaN" not in json.dumps(first)
    assert json.dumps(list(Evaluation(["a", "b"]).rows()), allow_nan=False)


@given(st.integers(0, 400), st.integers(0, 400), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_bounds_solve_its_equation(right: int, wrong: int, confidence: float) -> None:
    n = right + wrong
    interval = wilson(right, n, confidence)
    if n == 0:
        assert (interval.low, interval.high) == (0.0, 1.0)
        return
    share = right / n
    assert 0 <= interval.low <= share + 1e-12
    assert share - 1e-12 <= interval.high <= 1
    from statistics import NormalDist

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    for bound in (interval.low, interval.high):  # each bound p satisfies |share - p| = z sqrt(p (1 - p) / n)
        assert abs(abs(share - bound) - z * math.sqrt(bound * (1 - bound) / n)) < 1e-9


def test_wilson_known_value() -> None:
    interval = wilson(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)  # Newcombe 1998, table I


def test_paired_bootstrap_agrees_with_resampling_problems() -> None:
    pairs = Pairs(200, 40, 18)
    differences = np.array([1] * 40 + [-1] * 18 + [0] * 142)
    rng = np.random.default_rng(0)
    drawn = [rng.choice(differences, 200).mean() for _ in range(4000)]
    interval = paired_difference(pairs, seed=1)
    assert interval.value == pytest.approx(0.11)
    assert interval.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.012)
    assert interval.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.012)


def test_paired_difference_is_antisymmetric_and_seeded() -> None:
    forth, back = paired_difference(Pairs(500, 60, 40), seed=3), paired_difference(Pairs(500, 40, 60), seed=3)
    assert forth.value == -back.value
    assert forth.low == pytest.approx(-back.high, abs=0.01)
    assert paired_difference(Pairs(500, 60, 40), seed=3) == forth
    assert math.isnan(paired_difference(Pairs()).value)
