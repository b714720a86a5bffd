"""Reasons: whether a right answer came from right steps, on gold and on the noise of the reference tasks."""

from collections import Counter
from dataclasses import replace

import pytest

from bench.spurious import Choice, figures, noisy_traces
from cleave.config.base import validate
from cleave.config.collect import CollectConfig
from cleave.errors import ConfigError
from cleave.plans import parse_plan
from cleave.reasons import gold_is_known, reason_of, wrong_share
from cleave.screening import Counts, Screen, screened
from cleave.tasks.reference import reference_task
from cleave.traces import ScoredTrace
from cleave.types import Plan, Problem, Solution, SolutionStep, Trace

GOLD = parse_plan("1. How many cats?\n2. How many dogs?\n3. What is #1 plus #2?")
FAMILIES = ("arithmetic", "lookup", "reading")


def steps(*answers: str) -> tuple[SolutionStep, ...]:
    return tuple(SolutionStep(k, f"… = {answer}", answer) for k, answer in enumerate(answers, start=1))


PROBLEM = Problem("p", "How many pets?", answer="7", gold_plan=GOLD, gold_steps=steps("3", "4", "7"))


@pytest.mark.parametrize(
    ("plan", "answers", "reason"),
    [
        (GOLD, ("3", "4", "7"), "right"),
        (GOLD, ("3.0", "4", "7"), "right"),
        (GOLD, ("4", "3", "7"), "wrong"),
        (parse_plan("1. How many dogs?\n2. How many cats?\n3. What is #2 plus #1?"), ("4", "3", "7"), "right"),
        (parse_plan("1. How many dogs?\n2. How many cats?\n3. What is #1 plus #2?"), ("4", "3", "7"), "unknown"),
        (parse_plan("1. How many dogs?\n2. How many cats?\n3. What is #1 plus #2?"), ("3", "4", "7"), "wrong"),
        (parse_plan("1. How many pets?"), ("7",), "unknown"),
        (parse_plan("1. How many cats?\n2. How many dogs?"), ("3", "4"), "unknown"),
        (GOLD, ("3", "4"), "unknown"),
        (GOLD, ("3", "5"), "wrong"),
        (Plan(), (), "unknown"),
        (None, ("3", "4", "7"), "unknown"),
    ],
)
def test_a_reason_is_right_if_every_step_answers_as_the_gold_step_that_asks_the_same(
    plan: Plan | None, answers: tuple[str, ...], reason: str
) -> None:
    assert reason_of(PROBLEM, plan, steps(*answers)) == reason


def test_without_gold_nothing_is_known() -> None:
    for problem in (replace(PROBLEM, gold_plan=None), replace(PROBLEM, gold_steps=())):
        assert not gold_is_known(problem)
        assert reason_of(problem, GOLD, steps("3", "4", "7")) == "unknown"


def test_the_wrong_share_is_of_those_that_can_be_judged() -> None:
    assert wrong_share(Counter(right=3, wrong=1, unknown=100)) == 0.25
    assert wrong_share(Counter(unknown=5)) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_gold_steps_are_their_own_right_reason(family: str) -> None:
    for problem in reference_task(family).problems("train", 50):
        assert reason_of(problem, problem.gold_plan, problem.gold_steps) == "right"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_noise_leaves_the_problem_and_its_true_steps_alone(family: str, kind: str) -> None:
    """The truth of a noisy problem is the same problem without noise; its steps are judged against that, never against themselves."""
    noisy = reference_task(family, noise=kind, noise_share=1.0, noise_intensity=0.5)
    drawn = list(noisy.noisy_steps("train", 3, 60))
    assert [problem for problem, _ in drawn] == list(reference_task(family).problems("train", 60))
    found = Counter(reason_of(problem, problem.gold_plan, each) for problem, draws in drawn for each in draws)
    assert min(found["right"], found["wrong"]) > 0 == found["unknown"]
    for problem, draws in drawn:
        for each in draws:
            clean = [step.answer for step in each] == [step.answer for step in problem.gold_steps]
            assert clean == (reason_of(problem, problem.gold_plan, each) == "right")
    assert [draws[0] for _, draws in drawn] == [problem.gold_steps for problem in noisy.problems("train", 60)]


@pytest.mark.parametrize("keep", ["answered", "all"])
def test_screening_counts_the_reasons_of_right_answers_before_and_after(keep: str) -> None:
    def solution(*answers: str) -> Solution:
        return Solution(steps(*answers), answers[-1])

    lucky, good, bad = solution("4", "3", "7"), solution("3", "4", "7"), solution("3", "4", "8")
    rows = [
        ScoredTrace("teacher", "own", i, Trace(PROBLEM, "static", plans=(GOLD,), solutions=solutions))
        for i, solutions in enumerate([(lucky, good, good), (bad, good), (good,)])
    ]
    counts = Counts()
    list(screened(rows, Screen(keep), lambda problem, answer: answer == problem.answer, counts))  # type: ignore[arg-type]
    if keep == "answered":
        assert (counts.reasons, counts.kept_reasons) == (Counter(right=4, wrong=1), Counter(right=2, wrong=1))
        assert counts.to_dict()["reasons"] == {"right_answers": {"wrong": 1, "right": 4}, "kept": {"wrong": 1, "right": 2}}
    else:
        assert counts.reasons == counts.kept_reasons == Counter(right=1, wrong=1)


def test_where_gold_is_unknown_counts_say_nothing_of_reasons() -> None:
    rows = [ScoredTrace("t", "own", 0, Trace(replace(PROBLEM, gold_steps=()), "static", plans=(GOLD,), solutions=(Solution((), "7"),)))]
    counts = Counts()
    assert len(list(screened(rows, Screen(), lambda problem, answer: True, counts))) == 1
    assert counts.to_dict() == {"traces": 1, "plans": 1, "kept": 1, "rejected": {}}


def test_the_noisy_teacher_keeps_true_steps_in_its_problems() -> None:
    task = reference_task("reading", noise="static", noise_share=1.0, noise_intensity=0.5)
    rows = list(noisy_traces(task, 30, 4, seed=2))  # type: ignore[arg-type]
    assert [row.trace.problem for row in rows] == list(reference_task("reading").problems("train", 30, seed=2))
    counts = Counts()
    kept = list(screened(rows, Screen(), task.score, counts))
    assert 0 < len(kept) <= 30
    assert min(counts.kept_reasons["right"], counts.kept_reasons["wrong"]) > 0 == counts.reasons["unknown"]


def test_figures_of_the_ranking_are_paired_with_the_first_right_trace() -> None:
    found = [Choice(True, False, False, 0.5)] * 30 + [Choice(False, False, False, 0.0)] * 60 + [Choice(True, True, True, 1.0)] * 10
    row = figures(found)
    assert (row["n"], row["where traces differ"]["n"], row["at best"]) == (100, 30, "10.0")
    assert row["first"].startswith("40.0 [")
    assert row["any distinct"] == "25.0"
    assert row["ranked"].startswith("10.0 [")
    assert row["ranked - first"].startswith("-30.0 [")
    assert row["where traces differ"]["ranked"].startswith("0.0 [")


def test_noise_is_not_collected() -> None:
    """A teacher never sees gold steps; noise in them would only spoil what judges its reasons."""
    tasks = [{"task": {"name": "arithmetic", "dials": {"noise": "static", "noise_share": 0.5}}}]
    with pytest.raises(ConfigError, match="noise is in gold steps, which no teacher sees"):
        validate(CollectConfig, {"name": "x", "tasks": tasks}, "test")
