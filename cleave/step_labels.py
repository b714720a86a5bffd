"""Which step of a solution is the first wrong one, and the beginnings of solutions that a verifier learns it from.

A step is right if it answers as the gold step that asks the same. In a solution whose answer is wrong, the first step that is not right
is where it went wrong: it answers wrongly, or asks what nobody should have asked. In a solution whose answer is right, steps that gold
does not ask prove nothing, and what follows the first of them is not judged. Left out: problems without gold steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cleave.reasons import gold_is_known, marks_of
from cleave.solutions import render_step
from cleave.types import Plan, Problem, Solution


def first_wrong(problem: Problem, plan: Plan | None, solution: Solution, right: bool) -> int | None:
    """The place of the first wrong step in `solution.steps`, from 0. None: there is none, or it cannot be known."""
    return next((k for k, label in enumerate(labels(problem, plan, solution, right)) if not label), None)


def labels(problem: Problem, plan: Plan | None, solution: Solution, right: bool) -> Iterator[bool]:
    """For each beginning of 1, 2, … steps, as far as it can be known, whether all of its steps are right. `right`: the answer is."""
    if plan is None or not gold_is_known(problem):
        return
    marks = marks_of(problem, plan, solution.steps)
    so_far = True
    for step in solution.steps:
        mark = marks.get(step.id, "")
        if so_far and right and not mark:
            return
        so_far = so_far and mark == "right"
        yield so_far


def beginning(solution: Solution, steps: int) -> Solution:
    """Its first `steps` steps as a solution without an answer."""
    kept = solution.steps[:steps]
    return replace(solution, steps=kept, answer=None, text="".join(f"{render_step(step)}\n" for step in kept))


def pointed_at(scores: Sequence[float]) -> int:
    """The step at which a verifier says that a solution went wrong, from 0: the first that is likelier wrong than right, else the one with
    the lowest score. `scores` are of beginnings of 1, 2, … steps, at least one."""
    doubtful = (k for k, score in enumerate(scores) if score < 0.5)
    return next(doubtful, min(range(len(scores)), key=scores.__getitem__))
