"""The strict rule and the lenient one: hand-made pairs, properties of canonical forms, hostile input, OpenAI's released labels."""

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleave.errors import DataError
from cleave.tasks import latex
from cleave.tasks.numbers import MAX_DIGITS, plain, quantity
from cleave.tasks.scoring import equal, final_answer, lenient, normalise
from cleave.tasks.task import gold_answer
from cleave.types import Problem

SYSTEMS = {
    "6b_finetuning": (21.68, 28.89),
    "6b_verification": (39.04, 45.72),
    "175b_finetuning": (34.72, 42.15),
    "175b_verification": (56.25, 61.87),
}

EQUAL = [
    ("18", "18 dollars."),
    ("18", "$18.00"),
    ("-5", "\u22125"),
    ("-5", "-$5"),
    ("1080", "1,080"),
    ("1080", "1\u202f080"),
    ("20", "20%"),
    ("20", "20 percent"),
    ("0.5", "1/2"),
    ("1 1/2", "1.5"),
    ("1.5", "1\u00bd"),
    ("1000", "1e3"),
    ("30000", "3 x 10^4"),
    ("0.25", ".25"),
    ("2000000", "$2 million"),
    ("72", "72 km/h"),
    ("5", "5 m^2"),
    ("6", "6 \u00b0C"),
    ("5", "**5**."),
    ("5", "x = 5"),
    ("3", "(3)"),
    ("18", "The answer is: 18. I hope this helps."),
    ("18", "#### 18"),
    ("(B)", "B"),
    ("(B)", "b)"),
    ("(B)", "(B) 12/25/1937"),
    ("(B)", "option B"),
    ("True", "yes."),
    ("No", "FALSE"),
    ("The Beatles", "beatles!"),
    ("J. K. Rowling", "J.K. Rowling"),
    ("well-known", "Well known"),
    ("caf\u00e9", "cafe\u0301"),
    ("5:30 PM", "5:30pm"),
    ("[1, 2]", "1 and 2"),
    ("3, 4 and 5", "3.0, 4, 5"),
    ("{1, 2}", "2 and 1"),
    ("{red, blue}", "Blue, Red"),
    ("3/4", r"\frac{3}{4}"),
    ("3/4", r"$\boxed{\dfrac{3}{4}}$"),
]

DIFFERENT = [
    ("18", "19"),
    ("18", "-18"),
    ("18", "18 or 19"),
    ("18", "it is not 18"),
    ("18", ""),
    ("0.2", "20%"),
    ("1/3", "0.333333"),
    ("12 Angry Men", "12"),
    ("12 Angry Men", "12 Monkeys"),
    ("2", "2x"),
    ("5 pm", "5 am"),
    ("50 BC", "50 AD"),
    ("1, 2", "2, 1"),
    ("53", "5-3"),
    ("12", "1 2"),
    ("10", "9+1"),
    ("120", "5!"),
    ("5", "5th"),
    ("x+1", "x-1"),
    ("vitamin", "Vitamin A"),
    ("(B)", "(A) B"),
    ("(A)", "(A) or (B)"),
    ("{1, 2}", "1, 2, 2"),
    ("C", "C++"),
    ("Paris", "The capital is Paris"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold: str, answer: str) -> None:
    assert equal(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold: str, answer: str) -> None:
    assert not equal(gold, answer)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She has 3 and 4.\nThe answer is: 7", "7"),
        ("The answer is: 5\nwait\nThe answer is: 7", "7"),
        ("16 - 3 = 13\n#### 13", "13"),
        ("16 - 3 = 13\nA: 13\n", "13"),
        ("so \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
        ("The answer is: \\boxed{4}", "4"),
        ("Answer:\n\n  Paris \nmore", "Paris"),
        ("The answer is 18. We multiplied 6 by 3.", "18"),
        ("The answer is J. K. Rowling", "J. K. Rowling"),
        ("she pays 18", None),
        ("The answer is:", None),
        ("first #### 4 then ####", None),
        ("\\boxed{4", None),
        ("Plan A: 5 steps", None),
    ],
)
def test_final_answer_is_what_follows_the_last_marker(text: str, expected: str | None) -> None:
    assert final_answer(text) == expected


def test_set_only_if_the_gold_says_so() -> None:
    assert equal("{1, 2, 3}", "3, 2, 1")
    assert not equal("1, 2, 3", "3, 2, 1")
    assert not equal("1, 2, 3", "{3, 2, 1}")


# Properties

_PIECES = [
    *"0123456789abxAB ()[]{}.,;:-+*/^=$%'\"!?&_",
    "the ",
    " and ",
    "yes",
    "True",
    "12 Angry Men",
    "5 pm",
    " million",
    "e5",
    "1/2",
    "\u00bd",
]
_PIECES += [
    " 1 1/2",
    "(B)",
    "B) ",
    "\\frac{1}{2}",
    "\\boxed{",
    "#### ",
    "\nA: ",
    "km",
    " eggs",
    "Paris",
    "option ",
    "1,000",
    "The answer is",
    "\u00b2",
]
answers = st.lists(st.sampled_from(_PIECES), max_size=8).map("".join)
fractions = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6)


@settings(max_examples=300)
@given(answers)
def test_canonical_form_is_a_fixed_point(answer: str) -> None:
    assert normalise(normalise(answer)) == normalise(answer)


@given(answers, answers)
def test_equal_answers_have_equal_forms_and_the_other_way_round(left: str, right: str) -> None:
    assert equal(left, left)
    plain_gold = "{" not in left and "\\" not in left
    if plain_gold:
        assert equal(left, right) == (normalise(left) == normalise(right))


@given(fractions)
def test_numbers_are_read_exactly(value: Fraction) -> None:
    assert quantity(plain(value)) == value
    assert quantity(f"{value.numerator}/{value.denominator}") == value
    assert quantity(f"${value.numerator:,}") == value.numerator
    assert plain(Fraction(plain(value))) == plain(value)


@given(st.decimals(min_value=-(10**6), max_value=10**6, places=4))
def test_decimals_and_their_scientific_notation(value: object) -> None:
    assert quantity(f"{value}") == Fraction(str(value))
    assert quantity(f"{value:e}") == Fraction(str(value))


@given(fractions, fractions)
def test_different_numbers_are_different_answers(left: Fraction, right: Fraction) -> None:
    assert equal(plain(left), plain(right)) == (left == right)


@given(st.text(max_size=40))
def test_any_text_can_be_scored(text: str) -> None:
    assert equal(text, text)
    assert isinstance(equal("18", text), bool)
    assert isinstance(lenient("18", text), bool)


@given(answers, answers)
def test_whatever_the_strict_rule_accepts_the_lenient_rule_accepts(gold: str, answer: str) -> None:
    text = f"We think.\nThe answer is: {answer}"
    found = final_answer(text)
    if found is not None and equal(gold, found):
        assert lenient(gold, text)


# Hostile input

HOSTILE = {
    "digits": "1" * 100_000,
    "exponent": "1e999999999",
    "tower": "10^10^10^10",
    "zero": "1/0",
    "markers": "A: " * 30_000,
    "hashes": "#" * 100_000,
    "boxes": "\\boxed{" * 10_000,
    "commas": "1," * 50_000,
    "brackets": "(" * 4_000 + "5" + ")" * 4_000,
    "superscripts": "\u00b2" * 9_000,
    "surrogate": "\ud800 5",
    "null": "5\x00",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_answers_are_wrong_and_harmless(text: str) -> None:
    if text != HOSTILE["null"]:
        assert not equal("7", text)
        assert not equal(r"\sqrt{2}", text)
    assert not lenient("7", text)


def test_too_many_digits_are_no_number_but_still_equal_themselves() -> None:
    long = "7" * (MAX_DIGITS + 1)
    assert quantity(long) is None
    assert equal(long, long)
    assert not equal(long, long + "7")


# LaTeX

needs_math_verify = pytest.mark.skipif(not latex.has_math_verify(), reason="math-verify is not installed")


@needs_math_verify
@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        (r"x^{2}+1", "1+x^2", True),
        (r"\frac{\sqrt{2}}{2}", r"\sqrt{2}", False),
        (r"x^{2}+1", "x^2-1", False),
    ],
)
def test_latex_gold(gold: str, answer: str, same: bool) -> None:
    assert equal(gold, answer) == same


@needs_math_verify
def test_latex_in_a_thread() -> None:
    """math-verify's own timeouts use a signal that only the main thread may set."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(equal, r"x^{2}+1", "1+x^2").result()


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9}}",
        "99999!",
        r"\sum_{k=1}^{10} k",
        "((9^99)^99)^99",
        "1" * 13,
        r"\input{x}",
        r"\sin(x)",
        "(x+1)^{999}",
        "a+b+c+d+e",
        "((((((x))))))",
        "x" * 201,
        "",
        "9**9",
    ],
)
def test_untamed_expressions_are_not_evaluated(text: str) -> None:
    assert not latex.is_tame(text)


# The lenient rule and the released labels


def test_lenient_takes_any_token() -> None:
    text = "He has 18 <<6*3=18>>eggs and eats 4.\nA: 14"
    assert lenient("18", text)
    assert not equal("18", text)
    assert not lenient("6", text), "what stands only inside a calculation mark does not count"
    assert lenient("3", "about 3.75 in all"), "tokens are cut at their first point, as the released scorers do"


def test_no_gold_answer_is_an_error_with_a_remedy() -> None:
    with pytest.raises(DataError, match="has no gold answer"):
        gold_answer(Problem(id="7", question="?"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_agreement_with_all_released_gsm8k_labels(system: str) -> None:
    folder = os.environ.get("CLEAVE_DATA")
    if not folder:
        pytest.skip("set CLEAVE_DATA to the folder with gsm8k/example_model_solutions.jsonl")
    path = Path(folder) / "gsm8k" / "example_model_solutions.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    strict, loose, labels = [], [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gold, text = final_answer(row["ground_truth"]) or "", row[system]["solution"]
        found = final_answer(text)
        strict.append(found is not None and equal(gold, found))
        loose.append(lenient(gold, text))
        labels.append(row[system]["is_correct"])
    assert len(labels) == 1319
    assert strict == labels
    assert not any(s and not loosely for s, loosely in zip(strict, loose, strict=True))
    shares = tuple(round(100 * sum(hits) / 1319, 2) for hits in (strict, loose))
    assert shares == SYSTEMS[system]
