"""All rules side by side: equal to choosing by hand, bounded by the oracles, the same for small groups whatever they are part of."""

import math
import random

import pytest

from cleave.config.reasoning import RULES
from cleave.intervals import Interval
from cleave.selection import select
from cleave.selection_table import ALL, ORACLES, Moments, SelectionTable, powers
from cleave.traces import ScoredTrace
from cleave.types import Problem, Solution, Trace, Verdict


def trace(index: int, answers: list[str | None], scores: list[float] | None = None, task: str = "t") -> ScoredTrace:
    solutions = tuple(Solution(answer=answer, logprob=-0.1) for answer in answers)
    verdicts = tuple(Verdict(score) for score in scores or ())
    return ScoredTrace("v", task, index, Trace(Problem(f"p{index}", "?", answer="1"), "single", solutions=solutions, verdicts=verdicts))


def drawn(many: int, n: int, seed: int = 0) -> list[ScoredTrace]:
    rng = random.Random(seed)
    return [
        trace(i, [rng.choice(["1", "1", "2", "3", None]) for _ in range(n)], [rng.random() for _ in range(n)], rng.choice("ab"))
        for i in range(many)
    ]


def filled(rows: list[ScoredTrace]) -> SelectionTable:
    table = SelectionTable()
    for row in rows:
        table.add(row, "1".__eq__)
    return table


def test_all_samples_give_what_choosing_by_hand_gives() -> None:
    rows = drawn(60, 6)
    table = filled(rows)
    for rule in RULES:
        chosen = [select(rule, row.trace.solutions, row.trace.verdicts) for row in rows]
        expected = sum(choice is not None and choice.answer == "1" for choice in chosen) / len(rows)
        assert table.interval("v", rule, 6).value == pytest.approx(expected)


def test_one_sample_is_the_share_of_right_samples_under_every_rule() -> None:
    rows = drawn(40, 8)
    table = filled(rows)
    share = sum(solution.answer == "1" for row in rows for solution in row.trace.solutions) / (40 * 8)
    for rule in (*RULES, *ORACLES):
        assert table.interval("v", rule, 1).value == pytest.approx(share)
        assert table.ahead("v", rule, 1) == Interval(0.0, 0.0, 0.0)


def test_groups_use_every_sample_once() -> None:
    whole = filled(drawn(50, 8))
    halves = SelectionTable()
    for row in drawn(50, 8):
        solutions, verdicts = row.trace.solutions, row.trace.verdicts
        parts = [Trace(row.trace.problem, "single", solutions=solutions[a : a + 4], verdicts=verdicts[a : a + 4]) for a in (0, 4)]
        for part in parts:
            halves.add(ScoredTrace("v", row.task, row.index, part), "1".__eq__)
    for rule in RULES:
        assert whole.interval("v", rule, 4).value == pytest.approx(halves.interval("v", rule, 4).value)


def test_no_rule_is_above_the_oracles_and_more_samples_never_lower_them() -> None:
    table = filled(drawn(80, 8))
    for n in powers(8):
        ceiling = table.interval("v", "pass@n", n).value
        assert all(table.interval("v", rule, n).value <= ceiling for rule in RULES)
    found = [table.interval("v", "pass@n", n).value for n in powers(8)]
    assert found == sorted(found)


def test_rows_are_by_task_and_over_all() -> None:
    rows = list(filled(drawn(30, 4)).rows())
    assert [row["task"] for row in rows] == sorted((row["task"] for row in rows), key=[ALL, "a", "b"].index)
    of = {(row["task"], row["n"], row["rule"]): row for row in rows}
    assert len(of) == 3 * 3 * (len(RULES) + len(ORACLES))
    for n in (1, 2, 4):
        parts = [of[task, n, "weighted"] for task in "ab"]
        mean = sum(row["accuracy"] * row["problems"] for row in parts) / 30
        assert of[ALL, n, "weighted"]["accuracy"] == pytest.approx(mean)
        assert of[ALL, n, "majority"]["ahead"] == 0


def test_rules_of_a_verifier_need_verdicts_and_single_samples_need_no_table() -> None:
    table = filled([trace(0, ["1", "2"])])
    assert {row["rule"] for row in table.rows()} == {"first", "majority", *ORACLES}
    assert list(filled([trace(0, ["1"])]).rows()) == []


def test_samples_that_never_came_count_as_wrong() -> None:
    table = SelectionTable()
    table.add(trace(0, ["1"]), "1".__eq__, asked=4)
    table.add(trace(1, []), "1".__eq__, asked=4)
    assert table.interval("v", "majority", 4).value == 0.5
    assert table.interval("v", "first", 1).value == pytest.approx(1 / 8)


def test_a_problem_without_any_answer_is_wrong_under_scored_rules_too() -> None:
    rows = [trace(0, ["1", "1"], [0.9, 0.8]), trace(1, [])]
    table = SelectionTable()
    for row in reversed(rows):
        table.add(row, "1".__eq__, asked=2)
    assert {rule: table.interval("v", rule, 2).value for rule in (*RULES, *ORACLES)} == dict.fromkeys((*RULES, *ORACLES), 0.5)
    unscored = filled([trace(0, ["1", "1"])])
    unscored.add(rows[1], "1".__eq__, asked=2)
    assert unscored.rules("v") == ["first", "majority", *ORACLES], "nobody judged"
    assert {row["rule"] for row in unscored.rows()} == set(unscored.rules("v"))


def test_the_interval_is_the_normal_one() -> None:
    moments = Moments()
    values = [0.0, 0.5, 1.0, 1.0, 0.25]
    for value in values:
        moments.add(value)
    mean = sum(values) / 5
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / 4 / 5)
    found = moments.interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((mean, mean - 1.959964 * error, mean + 1.959964 * error))


def test_sizes_are_powers_of_two_and_all() -> None:
    assert powers(1) == [1]
    assert powers(6) == [1, 2, 4, 6]
    assert powers(64) == [1, 2, 4, 8, 16, 32, 64]
