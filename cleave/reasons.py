"""Whether a right answer has the right reason: a trace's steps compared with the problem's gold steps.

A step is compared with the gold step that asks the same, whatever its number: questions are compared with their references followed
down. Of a step only the answer counts, not the words before it. Left out: steps that gold does not ask, and solutions without a plan,
which cannot be judged; gold steps that are wrong on purpose (a reference task's noise), which are not to be compared with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Literal

from cleave.tasks.scoring import equal
from cleave.types import Plan, Problem, SolutionStep

Mark = Literal["right", "wrong", ""]
"""Of one step; '': gold does not ask it, or it was not answered."""
Reason = Literal["right", "wrong", "unknown"]
"""Of a whole trace whose answer is right."""
_REFERENCE = re.compile(r"#(\d+)")


def gold_is_known(problem: Problem) -> bool:
    """Whether the problem has gold steps to compare with."""
    return problem.gold_plan is not None and bool(problem.gold_steps)


def reason_of(problem: Problem, plan: Plan | None, steps: Sequence[SolutionStep]) -> Reason:
    """wrong: a step answers otherwise than gold; right: every step answers as gold, the one that answers the problem included."""
    if plan is None or problem.gold_plan is None:
        return "unknown"
    marks = marks_of(problem, plan, steps)
    if "wrong" in marks.values():
        return "wrong"
    meaning, wanted = meanings(plan), gold_answers(problem)
    last = list(meanings(problem.gold_plan).values())[-1:]
    complete = bool(last) and last[0] in wanted and last[0] in meaning.values()
    return "right" if complete and all(marks.values()) else "unknown"


def marks_of(problem: Problem, plan: Plan, steps: Sequence[SolutionStep]) -> dict[int, Mark]:
    """Each step of the plan, by id: whether its answer in `steps` is that of the gold step that asks the same."""
    answers = {step.id: step.answer for step in steps}
    wanted = gold_answers(problem)
    marks: dict[int, Mark] = {}
    for number, meaning in meanings(plan).items():
        if number not in answers or meaning not in wanted:
            marks[number] = ""
        else:
            marks[number] = "right" if equal(wanted[meaning], answers[number]) else "wrong"
    return marks


def gold_answers(problem: Problem) -> Mapping[str, str]:
    """The answers of the gold steps by what they ask; empty where there is no gold plan."""
    if problem.gold_plan is None:
        return {}
    meaning = meanings(problem.gold_plan)
    return {meaning[step.id]: step.answer for step in problem.gold_steps if step.id in meaning}


def meanings(plan: Plan) -> dict[int, str]:
    """A digest of what each step asks with its references followed down, so that equal sub-questions of two plans are equal."""
    found: dict[int, str] = {}
    for step in plan.steps:
        text = _REFERENCE.sub(lambda match: found.get(int(match.group(1)), match.group(0)), " ".join(step.question.split()))
        found[step.id] = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return found


def wrong_share(reasons: Counter[Reason]) -> float | None:
    """The wrong as a share of those that can be judged; None where there are none."""
    judged = reasons["right"] + reasons["wrong"]
    return reasons["wrong"] / judged if judged else None
