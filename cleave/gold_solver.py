"""A perfect solver for problems with gold steps: it answers what a plan asks as the task does, and nothing that the task does not ask.

With it in the solver's place, what is still lost is the plans' fault. A plan that reaches the answer by other sub-questions than the
task's own counts as lost, so the figure is a lower bound. Left out: solving without a plan.
"""

from __future__ import annotations

from cleave.errors import DataError
from cleave.reasons import gold_answers, gold_is_known, meanings
from cleave.roles import SolveReply, SolveRequest
from cleave.solutions import render_solution
from cleave.types import Plan, Problem, Solution, SolutionStep, Usage


def gold_reply(request: SolveRequest) -> SolveReply:
    """The same gold solution for every sample. Raises DataError for a problem without gold steps."""
    problem = request.problem
    if request.plan is None or not gold_is_known(problem):
        raise DataError(f"{problem.id} has no gold steps to answer a plan with; choose a task that has them, or set gold_steps=false.")
    solution = gold_solution(problem, request.plan)
    return SolveReply((solution,) * request.sampling.n, Usage())


def gold_solution(problem: Problem, plan: Plan) -> Solution:
    """The steps that gold asks too, and the answer if the last of them is the one that answers the problem."""
    assert problem.gold_plan is not None
    wanted, asked = gold_answers(problem), meanings(plan)
    steps = tuple(SolutionStep(number, wanted[asks], wanted[asks]) for number, asks in asked.items() if asks in wanted)
    reached = list(asked.values())[-1:] == list(meanings(problem.gold_plan).values())[-1:]
    answer = problem.answer if reached and len(steps) == len(plan.steps) else None
    return Solution(steps, answer, render_solution(steps, answer) if answer is not None else "")
