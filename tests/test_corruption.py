"""Slips in right solutions: what changes, what follows from it, and what cannot be made wrong."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.corruption import calculate, corrupted
from cleave.solutions import parse_solution
from cleave.tasks.registry import get_task
from cleave.types import Solution

CHAIN = parse_solution("1. 12 + 5 = 17\n2. 17 * 3 = 51\n3. 51 - 12 = 39\nThe answer is: 39")


def draws(solution: Solution, many: int = 50) -> list[Solution]:
    return [found for seed in range(many) if (found := corrupted(solution, random.Random(seed)))]


def test_one_calculation_is_wrong_and_all_that_follow_are_done_with_it() -> None:
    found = draws(CHAIN)
    assert len(found) > 40
    places = set()
    for solution in found:
        wrong = [i for i, step in enumerate(solution.steps) if calculate(step.text.rpartition("=")[0]) != Fraction(step.answer)]
        assert len(wrong) == 1, "one slip"
        places.add(wrong[0])
        first = wrong[0]
        assert solution.steps[:first] == CHAIN.steps[:first], "what comes before it is as it was"
        assert solution.answer == solution.steps[-1].answer != "39"
        assert parse_solution(solution.text).answer == solution.answer
        for step, before in zip(solution.steps[1:], solution.steps, strict=False):
            assert step.text.startswith(before.answer), "the wrong number is what is worked on with"
    assert places == {0, 1, 2}


def test_the_same_seed_slips_alike() -> None:
    assert corrupted(CHAIN, random.Random(7)) == corrupted(CHAIN, random.Random(7))


@pytest.mark.parametrize(
    "text",
    ["The answer is: 5", "1. the founder of Dafoods = Lazel\nThe answer is: Lazel", "1. 3 + 4 = 7\nThe answer is: 8", "1. 3 + 4 = 7"],
    ids=["no steps", "no number", "another answer than its last step's", "no answer"],
)
def test_what_cannot_be_made_wrong_by_a_slip(text: str) -> None:
    assert not draws(parse_solution(text))


def test_a_step_that_is_no_calculation_keeps_its_answer_unless_the_slip_is_in_it() -> None:
    solution = parse_solution("1. Bel 91, Kor 51 = 91, 51\n2. largest of 91, 51 = 91\n3. 91 + 4 = 95\nThe answer is: 95")
    for found in draws(solution):
        assert found.steps[0] == solution.steps[0], "a list is no number"
        assert found.steps[2].text.split()[0] == found.steps[1].answer, "and what follows works on with it"


def test_no_slip_leads_below_zero_or_into_fractions() -> None:
    solution = parse_solution("1. 4 + 1 = 5\n2. 6 - 5 = 1\n3. 8 / 1 = 8\nThe answer is: 8")
    for found in draws(solution):
        assert all(step.answer.isdigit() for step in found.steps)


@given(st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(1, 99)), max_size=6), st.integers(0, 99))
def test_a_calculation_is_what_python_says(rest: list[tuple[str, int]], first: int) -> None:
    text = str(first) + "".join(f" {sign} {number}" for sign, number in rest)
    assert calculate(text) == _with_products_first(first, rest)


def _with_products_first(first: int, rest: list[tuple[str, int]]) -> Fraction:
    """By the rule of school: the last plus or minus splits a sum, and only then the last times or over a product."""
    for signs in ("+-", "*/"):
        place = next((i for i in reversed(range(len(rest))) if rest[i][0] in signs), None)
        if place is not None:
            sign, number = rest[place]
            left, right = _with_products_first(first, rest[:place]), _with_products_first(number, rest[place + 1 :])
            return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}[sign](right)
    return Fraction(first)


@pytest.mark.parametrize("text", ["", "largest of 3, 4", "3 +", "+ 3", "3 4", "3 / 0", "9" * 40])
def test_what_is_no_calculation(text: str) -> None:
    assert calculate(text) is None


def test_most_gold_solutions_of_arithmetic_can_be_made_wrong() -> None:
    from cleave.solutions import render_solution

    problems = list(get_task("arithmetic").problems("train", 60))
    solutions = [Solution(p.gold_steps, p.answer, render_solution(p.gold_steps, p.answer or "")) for p in problems]
    found = [corrupted(solution, random.Random(i)) for i, solution in enumerate(solutions)]
    assert sum(each is not None for each in found) >= 54
