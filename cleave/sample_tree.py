"""A trace as a tree to look at: the answer at the root, under it the steps that led to it, each marked right or wrong where gold tells.

A step is compared with the gold step that asks the same, whatever its number: questions are compared with their references
followed down. Steps that gold does not have stay unmarked. Everything here was written by a model; templates must escape it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from cleave.tasks.scoring import equal
from cleave.traces import ScoredTrace
from cleave.types import Plan, Problem, Solution

Mark = Literal["right", "wrong", ""]
_REFERENCE = re.compile(r"#(\d+)")


@dataclass(frozen=True)
class Node:
    """One step. `again`: it is drawn in full elsewhere in the tree. `gold` is given where the answer is wrong."""

    id: int
    question: str
    text: str
    answer: str
    mark: Mark = ""
    gold: str = ""
    again: bool = False
    children: tuple[Node, ...] = ()


@dataclass(frozen=True)
class SampleTree:
    """One trace for display."""

    row: ScoredTrace
    mark: Mark
    nodes: tuple[Node, ...]
    reply: str


def sample_tree(row: ScoredTrace) -> SampleTree:
    """The tree of a trace's chosen solution, or of its first one."""
    trace = row.trace
    index = trace.chosen if trace.chosen is not None else 0
    solution = trace.solutions[index] if index < len(trace.solutions) else Solution()
    plan = _plan_of(row, index)
    mark: Mark = "" if row.correct is None else "right" if row.outcome == "right" else "wrong"
    nodes = _tree(plan, solution, trace.problem) if plan is not None and plan.steps else _list(solution)
    return SampleTree(row, mark, nodes, solution.text)


def _plan_of(row: ScoredTrace, index: int) -> Plan | None:
    plans = row.trace.plans
    if not plans:
        return None
    return plans[index] if len(plans) == len(row.trace.solutions) and index < len(plans) else plans[0]


def _list(solution: Solution) -> tuple[Node, ...]:
    """Steps of the solver's own, which say nothing of what they need."""
    return tuple(Node(step.id, "", step.text, step.answer) for step in solution.steps)


def _tree(plan: Plan, solution: Solution, problem: Problem) -> tuple[Node, ...]:
    answered = {step.id: step for step in solution.steps}
    gold = _gold_answers(problem)
    meaning = meanings(plan)
    steps = {step.id: step for step in plan.steps}
    drawn: set[int] = set()

    def node(number: int) -> Node:
        step, reply = steps[number], answered.get(number)
        answer = reply.answer if reply else ""
        wanted = gold.get(meaning[number])
        mark: Mark = "" if wanted is None or reply is None else "right" if equal(wanted, answer) else "wrong"
        again = number in drawn
        drawn.add(number)
        children = () if again else tuple(node(needed) for needed in step.needs if needed in steps)
        text = reply.text if reply else ""
        return Node(number, step.question, text, answer, mark, (wanted or "") if mark == "wrong" else "", again, children)

    needed = {j for step in plan.steps for j in step.needs}
    return tuple(node(step.id) for step in reversed(plan.steps) if step.id not in needed)


def _gold_answers(problem: Problem) -> Mapping[str, str]:
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
