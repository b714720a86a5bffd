"""A perfect solver answers what a plan asks as the task does, so that what is still lost is the plan's fault."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from actors.decomposer import build_decomposer
from actors.local import LocalHandle
from actors.solver import build_solver
from cleave.config.reasoning import ReasoningConfig
from cleave.config.roles import RoleConfig
from cleave.gold_solver import gold_solution
from cleave.plans import parse_plan
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.tasks.registry import get_task
from cleave.types import Problem, SolutionStep
from tests.scripted import ScriptedModel

PLAN = parse_plan("1. How many does Ann have?\n2. What is #1 minus 3?\n")
PROBLEM = Problem("p", "?", answer="4", gold_plan=PLAN, gold_steps=(SolutionStep(1, "1 + 6 = 7", "7"), SolutionStep(2, "7 - 3 = 4", "4")))


def test_gold_plans_are_answered_as_the_task_does() -> None:
    for task in ("arithmetic", "lookup", "reading"):
        for problem in get_task(task).problems("test", 20, seed=3):
            assert problem.gold_plan is not None
            found = gold_solution(problem, problem.gold_plan)
            assert found.answer == problem.answer
            assert [step.answer for step in found.steps] == [step.answer for step in problem.gold_steps]


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("1. How many does Ann have?", ["7"]),
        ("1. How many does Bob have?\n2. What is #1 minus 3?", []),
        ("1. How many does Ann have?\n2. What is #1 minus 3?\n3. What is #2 minus 3?", ["7", "4"]),
    ],
)
def test_a_plan_that_asks_otherwise_has_no_answer(text: str, answers: list[str]) -> None:
    found = gold_solution(PROBLEM, parse_plan(text))
    assert found.answer is None
    assert [step.answer for step in found.steps] == answers


def test_order_does_not_matter() -> None:
    three = parse_plan("1. A?\n2. B?\n3. #1 plus #2?")
    problem = Problem(
        "p", "?", answer="3", gold_plan=three, gold_steps=tuple(SolutionStep(i, f"{a}", f"{a}") for i, a in ((1, 1), (2, 2), (3, 3)))
    )
    assert gold_solution(problem, parse_plan("1. B?\n2. A?\n3. #2 plus #1?")).answer == "3"


async def test_the_loop_does_not_ask_the_solver() -> None:
    model = ScriptedModel([PROBLEM], wrong_every=1)
    config = RoleConfig.model_validate({"model": "recorded:nothing", "prompts": "reference-v1"})
    roles = Roles(LocalHandle(build_decomposer(config, model)), LocalHandle(build_solver(config, model)))
    trace = await reason(PROBLEM, roles, ReasoningConfig(gold_steps=True))
    assert (trace.answer, trace.error, model.calls) == ("4", None, 1)
    assert "solver" not in trace.usage
    bare = replace(PROBLEM, gold_steps=())
    trace = await reason(bare, roles, ReasoningConfig(gold_steps=True))
    assert trace.error is not None
    assert (trace.error.type, trace.error.role) == ("DataError", "solver")


def test_only_where_there_is_one_solution_per_plan() -> None:
    with pytest.raises(ValidationError, match="static and n=1"):
        ReasoningConfig(gold_steps=True, strategy="stepwise")
