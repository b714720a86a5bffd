"""A trace as a tree to look at: the answer at the root, under it the steps that led to it, each marked right or wrong where gold tells.

How a step is compared with gold is in reasons.py; steps that gold does not have stay unmarked. Everything here was written by a
model; templates must escape it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cleave.reasons import Mark, gold_answers, marks_of, meanings
from cleave.traces import ScoredTrace
from cleave.types import Plan, Problem, Solution


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
    gold, meaning = gold_answers(problem), meanings(plan)
    marks = marks_of(problem, plan, solution.steps)
    steps = {step.id: step for step in plan.steps}
    drawn: set[int] = set()

    def node(number: int) -> Node:
        step, reply = steps[number], answered.get(number)
        answer, text = (reply.answer, reply.text) if reply else ("", "")
        mark = marks[number]
        wanted = gold[meaning[number]] if mark == "wrong" else ""
        again = number in drawn
        drawn.add(number)
        children = () if again else tuple(node(needed) for needed in step.needs if needed in steps)
        return Node(number, step.question, text, answer, mark, wanted, again, children)

    needed = {j for step in plan.steps for j in step.needs}
    return tuple(node(step.id) for step in reversed(plan.steps) if step.id not in needed)
