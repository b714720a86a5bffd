"""Selection: votes over canonical answers, ties broken by likelihood and never by arrival."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.selection import Choice, select
from cleave.types import Solution, Verdict


def solutions(*answers: tuple[str | None, float | None]) -> list[Solution]:
    return [Solution(answer=answer, logprob=logprob) for answer, logprob in answers]


def test_first_is_the_first_that_has_an_answer() -> None:
    assert select("first", solutions((None, -0.1), ("5", -9.0), ("7", -0.1))) == Choice(1, "5", pytest.approx(1 / 3))


def test_majority_counts_canonical_answers() -> None:
    found = select("majority", solutions(("8", -0.1), ("1,000", -2.0), ("1000", -1.0), (None, -0.1)))
    assert found == Choice(2, "1000", 0.5)


def test_what_has_no_answer_does_not_vote() -> None:
    assert select("majority", solutions((None, -0.1), (None, -0.1), ("8", -0.1))) == Choice(2, "8", pytest.approx(1 / 3))
    assert select("majority", solutions((None, -0.1), (None, None))) is None
    assert select("first", []) is None


def test_a_tie_goes_to_the_higher_summed_probability() -> None:
    tied = solutions(("3", -1.0), ("4", -0.2), ("3", -1.0), ("4", -3.0))  # 0.37 + 0.37 < 0.82 + 0.05
    assert select("majority", tied) == Choice(1, "4", 0.5)


def test_a_tie_in_everything_goes_to_the_form_that_sorts_first() -> None:
    for logprob in (None, -0.5):
        assert select("majority", solutions(("b", logprob), ("a", logprob))) == Choice(1, "a", 0.5)


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.sampled_from([-0.5, -1.0, -2.0, None])), max_size=8), st.randoms())
def test_the_majority_does_not_depend_on_the_order(drawn: list[tuple[str | None, float | None]], shuffle: random.Random) -> None:
    one = select("majority", solutions(*drawn))
    shuffle.shuffle(drawn)
    other = select("majority", solutions(*drawn))
    assert (one and (one.answer, one.confidence)) == (other and (other.answer, other.confidence))
    if one is not None:
        count = sum(answer == one.answer for answer, _ in drawn)
        assert all(sum(answer == rival for answer, _ in drawn) <= count for rival in ("1", "2", "3"))
        assert one.confidence == pytest.approx(count / len(drawn)) or len(drawn) == 1


@pytest.mark.parametrize(("verdicts", "confidence"), [((), None), ((Verdict(0.3),), 0.3), ((Verdict(1.7),), 1.0), ((Verdict(-2.0),), 0.0)])
def test_one_solution_is_as_sure_as_its_verdict(verdicts: tuple[Verdict, ...], confidence: float | None) -> None:
    assert select("first", solutions(("8", -0.1)), verdicts) == Choice(0, "8", confidence)


def test_solutions_that_never_came_lower_the_confidence() -> None:
    found = select("majority", solutions(("8", -0.1), ("8", -0.1)), (), asked=8)
    assert found is not None
    assert found.confidence == 0.25
    alone = select("majority", solutions(("8", -0.1)), (Verdict(0.9),), asked=8)
    assert alone is not None
    assert alone.confidence is not None
    assert math.isclose(alone.confidence, 1 / 8)
