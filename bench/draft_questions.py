"""What drafts are measured on: plans, short sub-answers and answers of the reference tasks, each with the rule that says what is right.

    [question, *_] = questions("step", "arithmetic", 100, load_prompts("reference-v1"))
    question.is_right(" 24 - 17 = 7")

Problems come from the test split. Left out: who continues them (continuations.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from cleave.errors import ParseError
from cleave.plans import ancestors, parse_plan, subplan
from cleave.prompts import PromptSet
from cleave.solutions import parse_step
from cleave.tasks.registry import get_task
from cleave.tasks.scoring import equal, final_answer
from cleave.types import Plan, Problem, Prompt

Kind = Literal["plan", "step", "answer"]
SPLIT = "test"
MAX_TOKENS: dict[Kind, int] = {"plan": 160, "step": 48, "answer": 16}


@dataclass(frozen=True)
class Question:
    """One prompt, the strings that end a reply to it, and whether a reply is right."""

    prompt: Prompt
    stop: tuple[str, ...]
    is_right: Callable[[str], bool]


def questions(kind: Kind, task: str, count: int, prompts: PromptSet) -> list[Question]:
    """One question per problem. plan: the gold plan word for word; step: the answer to one of its sub-questions, those that it needs
    answered; answer: the problem's answer at once, as in closed-book question answering."""
    write = {"plan": _plan, "step": _step, "answer": _answer}[kind]
    return [write(problem, i, prompts) for i, problem in enumerate(get_task(task).problems(SPLIT, count))]


def _plan(problem: Problem, place: int, prompts: PromptSet) -> Question:
    assert problem.gold_plan is not None
    return Question(prompts.decompose(problem, place), prompts.stops("decompose"), partial(_is_plan, problem.gold_plan))


def _step(problem: Problem, place: int, prompts: PromptSet) -> Question:
    """The sub-questions of all places are asked for in turn."""
    assert problem.gold_plan is not None
    plan = problem.gold_plan
    step = plan.steps[place % len(plan.steps)]
    gold = {each.id: each for each in problem.gold_steps}
    known = tuple(replace(gold[old], id=new) for new, old in enumerate(ancestors(plan, step.id), start=1))
    part = subplan(plan, step.id)
    right = partial(_is_step, gold[step.id].answer, part.steps[-1].id)
    return Question(prompts.solve(problem, "step", part, known, place), prompts.stops("solve_step"), right)


def _answer(problem: Problem, place: int, prompts: PromptSet) -> Question:
    assert problem.answer is not None
    return Question(prompts.solve(problem, "answer", seed=place), prompts.stops("solve_answer"), partial(_is_answer, problem.answer))


def _is_plan(gold: Plan, text: str) -> bool:
    try:
        return parse_plan(text) == gold
    except ParseError:
        return False


def _is_step(gold: str, number: int, text: str) -> bool:
    step = parse_step(text, number)
    return step is not None and equal(gold, step.answer)


def _is_answer(gold: str, text: str) -> bool:
    answer = final_answer(text)
    return answer is not None and equal(gold, answer)
