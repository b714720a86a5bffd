"""What is asked and what is learned: the formats of training examples, each written from a problem's plan, steps and answer.

decompose        the problem → the plan                                            decomposer, static and stepwise
next_question    the problem, the first sub-questions with answers → the next      decomposer, dynamic
steps_with_plan  the problem, the plan → all steps and the answer                  solver, static
step             the problem, what a step needs of the plan → steps up to it       solver, stepwise
next_answer      the problem, the plan up to a step, earlier answers → the step    solver, dynamic
single, direct   the problem → steps and answer, or the answer alone               solver
text             like single, the problem learned too
reconstruct      the plan, the steps and the answer → the problem                  question reconstructor (reconstructor.py)
verify           the problem, a solution → whether it is right                     verifier (judged.py, which writes it)

next_question and next_answer are the two models QG and QA of Socratic CoT (arXiv 2212.00193). `step` is not QA: it leaves out what a
step does not refer to, which is everything where sub-questions have no references, as in GSM8K's Socratic split.
Whose plan and steps these are does not matter here: the task's own (`source: gold`) or a teacher's (`source: collection`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from cleave.config.formats import Format
from cleave.examples import Pair
from cleave.plans import ancestors, subplan
from cleave.prompts import PromptSet
from cleave.types import Plan, Problem, Prompt, SolutionStep


def write_pair(prompts: PromptSet, formats: Mapping[Format, float], problem: Problem, rng: random.Random) -> Pair | None:
    """The problem in one of the formats, drawn by weight; None where it lacks what every one of them needs."""
    usable = {name: weight for name, weight in formats.items() if weight > 0 and has_what_it_needs(problem, name)}
    if not usable:
        return None
    name = rng.choices(list(usable), list(usable.values()))[0]
    prompt, target = _FORMATS[name](prompts, problem, rng)
    skill = problem.skills[0] if problem.skills else ""
    return Pair(prompt, target, problem_id=problem.id, skill=skill, depth=problem.depth, learn_prompt=name == "text")


def has_what_it_needs(problem: Problem, name: Format) -> bool:
    """Whether the problem can be written in a format."""
    if name == "decompose":
        return problem.gold_plan is not None
    if name == "next_question":
        return problem.gold_plan is not None and len(problem.gold_steps) == len(problem.gold_plan.steps)
    if problem.answer is None:
        return False
    if name in ("steps_with_plan", "step", "next_answer"):
        return problem.gold_plan is not None and bool(problem.gold_plan.steps) and len(problem.gold_steps) == len(problem.gold_plan.steps)
    return name == "direct" or bool(problem.gold_steps)


def _plan(problem: Problem) -> Plan:
    assert problem.gold_plan is not None
    return problem.gold_plan


def _answer(problem: Problem) -> str:
    assert problem.answer is not None
    return problem.answer


def _decompose(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    return prompts.decompose(problem), prompts.decompose_target(_plan(problem))


def _next_question(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    """After any number of answers, all of them included: then no more are needed."""
    steps = _plan(problem).steps
    j = rng.randint(0, len(steps))
    asked = steps[j] if j < len(steps) else None
    return prompts.next_question(problem, Plan(steps[:j]), problem.gold_steps[:j]), prompts.next_target(asked)


def _steps_with_plan(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    return prompts.solve(problem, "steps", _plan(problem)), prompts.solve_target(problem.gold_steps, _answer(problem))


def _step(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    """Solve the part of the plan that leads to one step, as the stepwise strategy asks it."""
    asked = rng.choice(_plan(problem).steps)
    part, kept = _part(_plan(problem), problem.gold_steps, asked.id)
    return prompts.solve(problem, "steps", part), prompts.solve_target(kept, kept[-1].answer)


def _next_answer(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    """Solve one step after all that come before it, as the dynamic strategy asks it."""
    steps = _plan(problem).steps
    j = rng.randint(1, len(steps))
    prompt = prompts.solve(problem, "step", Plan(steps[:j]), problem.gold_steps[: j - 1])
    return prompt, prompts.step_target(problem.gold_steps[j - 1])


def _part(plan: Plan, steps: Sequence[SolutionStep], step_id: int) -> tuple[Plan, list[SolutionStep]]:
    kept = (*ancestors(plan, step_id), step_id)
    renumbered = [SolutionStep(new, steps[old - 1].text, steps[old - 1].answer) for new, old in enumerate(kept, start=1)]
    return subplan(plan, step_id), renumbered


def _single(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    return prompts.solve(problem, "steps"), prompts.solve_target(problem.gold_steps, _answer(problem))


def _direct(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    return prompts.solve(problem, "answer"), prompts.solve_target((), _answer(problem))


def _reconstruct(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    return prompts.reconstruct(problem.gold_plan, problem.gold_steps, _answer(problem)), prompts.reconstruct_target(problem)


_FORMATS: dict[Format, Callable[[PromptSet, Problem, random.Random], tuple[Prompt, str]]] = {
    "decompose": _decompose,
    "next_question": _next_question,
    "steps_with_plan": _steps_with_plan,
    "step": _step,
    "next_answer": _next_answer,
    "single": _single,
    "direct": _direct,
    "text": _single,
    "reconstruct": _reconstruct,
}
