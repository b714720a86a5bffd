"""The first wrong step: by gold, for plans that are gold's own and for others, and what cannot be known."""

from dataclasses import replace

from cleave.plans import parse_plan
from cleave.solutions import parse_solution, parse_steps
from cleave.step_labels import beginning, first_wrong, labels
from cleave.types import Problem

PLAN = parse_plan("1. What is 3 + 4?\n2. What is #1 * 2?\n3. What is #2 - 1?")
PROBLEM = Problem("p", "?", answer="13", gold_plan=PLAN, gold_steps=parse_steps("1. 3 + 4 = 7\n2. 7 * 2 = 14\n3. 14 - 1 = 13"))
RIGHT = parse_solution("1. 3 + 4 = 7\n2. 7 * 2 = 14\n3. 14 - 1 = 13\nThe answer is: 13")
SLIP = parse_solution("1. 3 + 4 = 7\n2. 7 * 2 = 15\n3. 15 - 1 = 14\nThe answer is: 14")


def test_the_first_step_that_is_not_as_gold_is_the_wrong_one() -> None:
    assert first_wrong(PROBLEM, PLAN, RIGHT, right=True) is None
    assert list(labels(PROBLEM, PLAN, RIGHT, right=True)) == [True] * 3
    assert first_wrong(PROBLEM, PLAN, SLIP, right=False) == 1
    assert list(labels(PROBLEM, PLAN, SLIP, right=False)) == [True, False, False], "what follows a wrong step is wrong too"


def test_a_step_that_gold_does_not_ask_is_wrong_only_where_the_answer_is() -> None:
    other = parse_plan("1. What is 3 + 4?\n2. What is #1 + 2?")
    wrong = parse_solution("1. 3 + 4 = 7\n2. 7 + 2 = 9\nThe answer is: 9")
    assert first_wrong(PROBLEM, other, wrong, right=False) == 1
    assert list(labels(PROBLEM, other, wrong, right=True)) == [True], "another way to a right answer is not judged"


def test_without_a_plan_or_gold_nothing_is_known() -> None:
    assert not list(labels(PROBLEM, None, RIGHT, right=True))
    assert not list(labels(replace(PROBLEM, gold_plan=None), PLAN, SLIP, right=False))


def test_a_beginning_is_its_first_lines_without_an_answer() -> None:
    begun = beginning(RIGHT, 2)
    assert (begun.text, begun.answer, len(begun.steps)) == ("1. 3 + 4 = 7\n2. 7 * 2 = 14\n", None, 2)
    assert RIGHT.text.startswith(begun.text)
