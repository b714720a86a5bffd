"""Solutions: reading and writing are inverse, and nothing is guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.solutions import SolutionLimits, parse_solution, parse_step, render_solution, short_answer
from cleave.types import SolutionStep

LINE = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=40).map(str.strip).filter(bool)


@given(st.lists(LINE, max_size=6), st.from_regex(r"[A-Za-z][A-Za-z ]{0,10}[a-z]|-?[0-9]{1,9}", fullmatch=True))
def test_reading_inverts_writing(lines: list[str], answer: str) -> None:
    steps = tuple(SolutionStep(k, line, short_answer(line)) for k, line in enumerate(lines, start=1))
    solution = parse_solution(render_solution(steps, answer) + "\n")
    assert solution.steps == steps
    assert solution.answer == answer


@given(st.text())
def test_any_text_is_a_solution(text: str) -> None:
    solution = parse_solution(text)
    assert solution.text == text
    assert [step.id for step in solution.steps] == list(range(1, len(solution.steps) + 1))
    assert all(step.answer for step in solution.steps)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("45 + 12 = 57", "57"),
        ("45 + 12 = 57.", "57"),
        ("a = b = 3", "3"),
        ("Bela", "Bela"),
        ("Bela.", "Bela"),
        ("12, 7, 30", "12, 7, 30"),
        ("3.5", "3.5"),
        ("x =", "x ="),
        (".", "."),
    ],
)
def test_short_answers(line: str, answer: str) -> None:
    assert short_answer(line) == answer


def test_without_a_marker_there_is_no_answer() -> None:
    solution = parse_solution("1. 2 + 2 = 4\n2. 4 + 1 = 5")
    assert solution.answer is None
    assert [step.answer for step in solution.steps] == ["4", "5"]


def test_the_last_marker_counts_and_loose_lines_are_skipped() -> None:
    solution = parse_solution("First:\n1. 2 + 2 = 4\nThe answer is: 4\nNo, wait.\n3. skipped\n2. 4 + 1 = 5\nThe answer is: 5")
    assert solution.answer == "5"
    assert [step.text for step in solution.steps] == ["2 + 2 = 4", "4 + 1 = 5"]


def test_a_line_that_was_cut_off_holds_no_answer() -> None:
    assert parse_solution("1. 2 + 2 = 4\nThe answer is: 12", finish="length").answer is None
    assert parse_solution("The answer is: 12\nso", finish="length").answer == "12"


def test_size_is_bounded() -> None:
    solution = parse_solution("1. a\n" * 10_000 + "The answer is: 4", limits=SolutionLimits(text=1000))
    assert solution.answer is None
    assert len(solution.text) == 1000
    many = "\n".join(f"{k}. a" for k in range(1, 1000)) + "\nThe answer is: 4"
    assert len(parse_solution(many).steps) == 64
    assert parse_solution(many).answer == "4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 45 + 12 = 57", "57"),
        ("2. 45 + 12 = 57\n", "57"),
        ("Sure!\n2. 45 + 12 = 57", "57"),
        ("1. 45 + 12 = 57", None),
        (" \n", None),
    ],
)
def test_one_step(text: str, expected: str | None) -> None:
    step = parse_step(text, 2)
    assert (step.answer if step else None) == expected
    assert step is None or step.id == 2
