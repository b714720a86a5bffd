"""Selection: clusters of answers, votes and scores over them, ties broken by what was said and never by who said it first."""

import math
import random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.config.reasoning import SelectionName
from cleave.selection import Candidate, Choice, Options, candidates, choose, clusters, maj_k_at_n, pass_at_n, select
from cleave.types import Solution, Verdict

RULES: tuple[SelectionName, ...] = get_args(SelectionName)


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


drawn_candidates = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.2, 0.4])), min_size=1, max_size=12
)


def placed(drawn: list[tuple[str, float, float]]) -> list[Candidate]:
    return [Candidate(i, *each) for i, each in enumerate(drawn)]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "first"])
@given(drawn=drawn_candidates, top=st.integers(1, 6), shuffle=st.randoms())
def test_no_rule_depends_on_the_order(rule: SelectionName, drawn: list[tuple[str, float, float]], top: int, shuffle: random.Random) -> None:
    options = Options(top, top)
    one = choose(rule, clusters(placed(drawn)), options)
    shuffle.shuffle(drawn)
    other = choose(rule, clusters(placed(drawn)), options)
    assert one.form == other.form


@given(drawn=drawn_candidates)
def test_rules_agree_where_they_are_defined_to(drawn: list[tuple[str, float, float]]) -> None:
    found = clusters(placed(drawn))
    everything = Options(top_k=len(found), top_n=len(drawn))
    assert choose("rr_topk", found, everything) == choose("rr_all", found)
    assert choose("weighted_topk", found, everything) == choose("weighted", found)
    for rule in ("rr_topk", "weighted_topk"):
        assert choose(rule, found, Options(top_k=1)).form == choose("majority", found).form
    assert choose("maj_topn", found, Options(top_n=1)).score == choose("rr_all", found).score == max(score for _, score, _ in drawn)
    votes = {cluster.form: len(cluster.members) for cluster in found}
    assert votes[choose("maj_topn", found, everything).form] == max(votes.values())
    level = clusters(Candidate(c.index, c.form, 0.5, c.likelihood) for c in placed(drawn))
    assert choose("weighted", level).form == choose("majority", level).form


@pytest.mark.parametrize("rule", RULES)
@given(drawn=drawn_candidates)
def test_no_rule_beats_the_oracles(rule: SelectionName, drawn: list[tuple[str, float, float]]) -> None:
    found = clusters(placed(drawn))
    for gold in "abcde":
        right = gold.__eq__
        assert right(choose(rule, found).form) <= pass_at_n(found, right)
        assert right(choose("majority", found).form) == maj_k_at_n(found, right, 1)
        reached = [maj_k_at_n(found, right, k) for k in range(1, len(found) + 1)]
        assert reached == sorted(reached)
        assert reached[-1] == pass_at_n(found, right)


def test_scores_move_the_choice_and_the_most_frequent_answers_bound_it() -> None:
    some = [
        Candidate(0, "a", 0.3),
        Candidate(1, "a", 0.4),
        Candidate(2, "a", 0.2),
        Candidate(3, "b", 0.7),
        Candidate(4, "b", 0.6),
        Candidate(5, "c", 0.9),
    ]
    found = clusters(some)
    chosen = {rule: choose(rule, found, Options(top_k=2, top_n=3)).index for rule in RULES}
    assert chosen == {"first": 0, "majority": 0, "rr_all": 5, "rr_topk": 3, "weighted": 3, "weighted_topk": 3, "maj_topn": 3}


def test_answers_that_mean_the_same_by_a_chain_are_one_cluster_in_any_order() -> None:
    def close(one: str, other: str) -> bool:
        return abs(int(one) - int(other)) <= 1

    numbers = ["1", "2", "3", "7", "8", "5"]
    for seed in range(10):
        random.Random(seed).shuffle(numbers)
        found = clusters((Candidate(i, form) for i, form in enumerate(numbers)), close)
        assert sorted(sorted(member.form for member in cluster.members) for cluster in found) == [["1", "2", "3"], ["5"], ["7", "8"]]
        assert [cluster.form for cluster in found] == ["1", "7", "5"]


def test_equal_mathematics_votes_together() -> None:
    pytest.importorskip("math_verify")
    tied = solutions((r"$2\sqrt{2}$", -1.0), ("3", -0.1), ("3", -0.1), (r"$\sqrt{8}$", -1.0), (r"$\sqrt{8}$", -1.0))
    found = select("majority", tied)
    assert found is not None
    assert found.index == 0
    assert found.confidence == 0.6


def test_a_verdict_that_is_no_number_votes_as_if_scored_nothing() -> None:
    some = solutions(("3", -0.1), ("4", -0.2))
    found = select("rr_all", some, (Verdict(math.nan), Verdict(0.1)))
    assert found is not None
    assert found.answer == "4"
    assert select("weighted", some, (Verdict(math.nan), Verdict(math.nan))) == Choice(0, "3", 0.5)


def test_verdicts_belong_to_solutions() -> None:
    with pytest.raises(ValueError, match="1 verdicts for 2 solutions"):
        candidates(solutions(("3", -0.1), ("4", -0.2)), (Verdict(0.5),))


def test_an_answer_of_ten_thousand_characters_is_an_answer() -> None:
    long = "x" * 10_000
    found = select("majority", solutions((long, -1.0), ("3", -0.1), (long, -1.0)))
    assert found is not None
    assert found.answer == long
