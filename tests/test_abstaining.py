"""Withholding an answer that is too unsure: in the loop, in the figures, over HTTP, on the command line."""

import json
from dataclasses import replace
from typing import Any

import pytest

from actors.judge import Judge
from actors.local import LocalHandle
from actors.solver import Solver
from cleave.asking import exit_code
from cleave.calibration import Calibration, VerifierCalibration, VoteCalibration
from cleave.config.reasoning import ReasoningConfig
from cleave.evaluation import Evaluation
from cleave.events import Event, Failed, Selected
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.selection import Choice, select
from cleave.trace_view import confidence_sentence
from cleave.traces import ScoredTrace
from cleave.types import Problem, Solution, Trace, Verdict
from serve.completion import of_traces
from serve.generation import answered
from serve.solve_routes import trace_response
from tests.puppet import Puppet
from tests.test_judge import TEXT, Scorer

PROBLEM = Problem("p", "What is 3 + 4 + 1?", answer="8")


async def solved(probability: float, seen: list[Event] | None = None, **options: Any) -> Trace:
    """By a solver that always says 8, of whose solutions the judge is as sure as `probability`."""
    n = options.get("n", 1)
    solver = LocalHandle(Solver(Puppet(lambda prompt, i: "The answer is: 8"), TEXT))
    judge = LocalHandle(Judge(Scorer(*[probability] * n), TEXT, VerifierCalibration(votes=VoteCalibration({2: Calibration(1.0, -1.0)}))))
    config = ReasoningConfig.model_validate({"strategy": "single", "temperature": 1.0, **options})
    return await reason(PROBLEM, Roles(solver, solver, judge), config, on_event=None if seen is None else seen.append)  # type: ignore[arg-type]


async def test_an_answer_is_given_at_the_threshold_and_withheld_below() -> None:
    given = await solved(0.75, abstain_below=0.7)
    assert (given.answer, given.error) == ("8", None)
    assert given.confidence == pytest.approx(0.75)
    seen: list[Event] = []
    withheld = await solved(0.75, seen, abstain_below=0.8)
    assert withheld.answer is None
    assert withheld.error is not None
    assert (withheld.error.type, withheld.error.role) == ("Abstained", "")
    assert "confidence of the best answer is 0.75, below abstain_below=0.8" in withheld.error.message
    assert (withheld.chosen, withheld.confidence) == (0, pytest.approx(0.75)), "what it was and how sure stay"
    assert not any(isinstance(event, Selected) for event in seen)
    assert isinstance(seen[-1], Failed)
    assert exit_code(withheld.error) == 3


async def test_the_confidence_of_a_vote_is_calibrated() -> None:
    trace = await solved(0.9, n=2, selection="weighted")
    assert trace.confidence == pytest.approx(0.9 / (0.9 + 0.1 * 2.718281828), abs=1e-6), "log-odds of the support, minus 1"
    assert (await solved(0.9, n=2, selection="weighted", abstain_below=0.8)).answer is None


async def test_a_confidence_says_where_it_comes_from() -> None:
    calibrated, voted = await solved(0.9, n=2, selection="weighted"), await solved(0.9, n=3, selection="majority")
    assert confidence_sentence(calibrated) == f"{calibrated.confidence:.2f} (puppet)"
    assert "puppet" in confidence_sentence(await solved(0.75))
    some = replace(voted, confidence=2 / 3, solutions=(*voted.solutions[:2], Solution(answer="9")))
    assert confidence_sentence(some) == "0.67 (share of 3 solutions that agree)"
    fewer = replace(voted, confidence=2 / 5, solutions=voted.solutions[:2])
    assert confidence_sentence(fewer) == "0.40 (share of 2 solutions that agree)", "three of five samples never came"


def test_support_counts_all_that_were_asked_for() -> None:
    some = [Solution(answer=answer) for answer in ("8", "9", "8")]
    verdicts = (Verdict(0.9), Verdict(0.2), None)
    votes = VoteCalibration({4: Calibration()})
    found = select("weighted", some, verdicts, asked=4, votes=votes)
    assert found == Choice(0, "8", pytest.approx(0.9 / 4))
    assert select("weighted", some, (), asked=4, votes=votes) == Choice(0, "8", 0.5), "without verdicts the share that agrees"


async def test_an_unknown_confidence_is_below_any() -> None:
    solver = LocalHandle(Solver(Puppet(lambda prompt, i: "The answer is: 8"), TEXT))
    config = ReasoningConfig.model_validate({"strategy": "single", "abstain_below": 0.1})
    trace = await reason(PROBLEM, Roles(solver, solver, None), config)  # type: ignore[arg-type]
    assert trace.error is not None
    assert "confidence of the best answer is unknown" in trace.error.message


async def test_figures_tell_coverage_from_precision() -> None:
    withheld, given = await solved(0.5, abstain_below=0.6), await solved(0.7, abstain_below=0.6)
    evaluation = Evaluation(["v"])
    for i in range(6):
        evaluation.add(ScoredTrace("v", "t", i, withheld, correct=False, lenient=False))
    for i in range(6, 10):
        evaluation.add(ScoredTrace("v", "t", i, given, correct=i != 9, lenient=True))
    tally = evaluation.tally("v")
    assert (tally.n, tally.abstained, tally.failed, tally.answered, tally.right) == (10, 6, 0, 4, 3)
    assert tally.accuracy().value == 0.3
    assert tally.precision().value == 0.75
    assert ScoredTrace("v", "t", 0, replace(withheld, problem=replace(PROBLEM, answer=None))).outcome == "unlabelled"


async def test_http_says_so_without_an_error_status() -> None:
    withheld = await solved(0.5, abstain_below=0.6)
    response = trace_response(withheld, retry_after_s=1)
    assert response.status_code == 200
    body = json.loads(response.body)
    assert (body["answer"], body["error"]["type"]) == (None, "Abstained")
    reply = of_traces("cleave", [answered(withheld), await solved(0.9)], [])
    first, second = (choice.message for choice in reply.choices)
    assert first.content is None
    assert "below abstain_below=0.6" in (first.refusal or "")
    assert (second.content, second.refusal) == ("The answer is: 8", None)
