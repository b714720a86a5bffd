"""Plans as text: parse what a decomposer wrote, put answers in place of references, cut out the part that one step needs.

The written form is one line per step, `k. question`, with k counting from 1; `#j` inside question k refers to the answer of
step j < k. Model output is untrusted: the number of steps, the length of a question, the depth and the size of the whole text
are bounded, and whatever does not fit is a ParseError. Since references only point backwards, a plan that parses has no cycle.
Left out: asking a model for a plan (actors/decomposer.py) and following one (strategies.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cleave.errors import ParseError
from cleave.types import Plan, Step

_LINE = re.compile(r"[ \t]*([0-9]+)[.)](?:[ \t]+(.*))?\Z", re.DOTALL)
_REFERENCE = re.compile(r"#([0-9]+)")
_NO_PLAN = "no decomposition"
NO_MORE = "No more"
"""What a decomposer replies when asked for the next sub-question and none is needed."""
_LONGEST_NUMBER = 6
"""Digits of a step number or reference that are still read; Python refuses to read very long ones."""


@dataclass(frozen=True)
class PlanLimits:
    """How large a plan may be. `characters` is per question, `text` is the characters of the whole reply."""

    steps: int = 16
    characters: int = 500
    depth: int = 16
    text: int = 32_768

    def at_most(self, steps: int | None) -> PlanLimits:
        """The same with no more than `steps` steps; None: as they are."""
        return self if steps is None else replace(self, steps=min(steps, self.steps))


DEFAULT_LIMITS = PlanLimits()


def parse_plan(text: str, limits: PlanLimits = DEFAULT_LIMITS) -> Plan:
    """Read a plan. An empty text or 'No decomposition' is the empty plan.

    Prose before the first numbered line is skipped, and so is prose after the last one if a blank line precedes it.
    Raises ParseError if numbers are not 1, 2, … in order, if a reference points to the step itself or beyond, for a text
    without numbered lines, and for anything beyond `limits`.
    """
    if len(text) > limits.text:
        raise ParseError(f"the plan has {len(text)} characters, more than {limits.text}; limit the decomposer's max_tokens.", text[:200])
    stripped = text.strip()
    if not stripped:
        return Plan()
    questions = _numbered_lines(stripped)
    if not questions:
        if stripped.lower().startswith(_NO_PLAN):
            return Plan()
        raise ParseError("the reply has no numbered line, so it is no plan; ask for lines of the form `k. question`.", stripped)
    if len(questions) > limits.steps:
        raise ParseError(f"the plan has {len(questions)} steps, more than {limits.steps}; ask for fewer sub-questions.", stripped)
    plan = Plan(tuple(Step(k, question, references(question)) for k, question in enumerate(questions, start=1)))
    check_plan(plan, limits)
    return plan


def parse_next(text: str, plan: Plan, limits: PlanLimits = DEFAULT_LIMITS) -> Plan:
    """Read the sub-question that goes on from `plan`: the plan with it at its end, or the plan itself for 'No more'.

    Prose before the numbered line is skipped, and so is whatever follows it: it was written without the answer. Raises ParseError for a
    text without a numbered line, for another number than the next, and where the longer plan does not keep the contract.
    """
    stripped = text.strip()
    if stripped.lower().startswith(NO_MORE.lower()):
        return plan
    k = len(plan.steps) + 1
    match = next((found for line in stripped.split("\n") if (found := _LINE.match(line.rstrip()))), None)
    if match is None:
        raise ParseError(f"the reply has no line `{k}. question` and is not '{NO_MORE}'; ask for one of them.", stripped[: limits.text])
    digits, question = match.groups()
    if len(digits) > _LONGEST_NUMBER or int(digits) != k:
        raise ParseError(f"found sub-question number {digits[:20]} where {k} was due; ask for the next one only.", stripped[: limits.text])
    question = (question or "").strip()
    longer = Plan((*plan.steps, Step(k, question, references(question))))
    check_plan(longer, limits)
    return longer


def check_plan(plan: Plan, limits: PlanLimits = DEFAULT_LIMITS) -> None:
    """Raise ParseError unless `plan` keeps the contract: ids 1..n in order, every reference backwards, all within `limits`.

    For plans that did not come from `parse_plan`: gold plans of a data file, or what a remote decomposer sent.
    """
    if len(plan.steps) > limits.steps:
        raise ParseError(f"the plan has {len(plan.steps)} steps, more than {limits.steps}; ask for fewer sub-questions.")
    for k, step in enumerate(plan.steps, start=1):
        _check_step(k, step, limits)
    if plan.depth > limits.depth:
        raise ParseError(f"the plan is {plan.depth} levels deep, more than {limits.depth}; ask for fewer sub-questions.", plan.text)


def references(question: str) -> tuple[int, ...]:
    """The ids that a question refers to as #j, each once, in order of id. Raises ParseError for a number too long to be an id."""
    found: set[int] = set()
    for digits in _REFERENCE.findall(question):
        if len(digits) > _LONGEST_NUMBER:
            raise ParseError("a reference has too many digits to be a step; write #j for step j.", question[:200])
        found.add(int(digits))
    return tuple(sorted(found))


def substitute(question: str, answers: Mapping[int, str]) -> str:
    """Put the answer of step j in the place of #j. A reference without an answer stays; an answer's own `#` is not read again."""

    def answer(match: re.Match[str]) -> str:
        digits = match.group(1)
        return answers.get(int(digits), match.group(0)) if len(digits) <= _LONGEST_NUMBER else match.group(0)

    return _REFERENCE.sub(answer, question)


def ancestors(plan: Plan, step_id: int) -> tuple[int, ...]:
    """The ids of the steps that step `step_id` needs, directly or not, in order. Raises KeyError for an id outside the plan."""
    needs = {step.id: step.needs for step in plan.steps}
    found: set[int] = set()
    waiting = list(needs[step_id])
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(needs[current])
    return tuple(sorted(found))


def subplan(plan: Plan, step_id: int) -> Plan:
    """The step and all that it needs, renumbered from 1 with its references rewritten; the step itself comes last."""
    kept = (*ancestors(plan, step_id), step_id)
    number = {old: new for new, old in enumerate(kept, start=1)}
    renamed = {old: f"#{new}" for old, new in number.items()}
    by_id = {step.id: step for step in plan.steps}
    steps = (
        Step(number[old], substitute(by_id[old].question, renamed), tuple(sorted(number[j] for j in by_id[old].needs))) for old in kept
    )
    return Plan(tuple(steps))


def _numbered_lines(text: str) -> list[str]:
    """The questions of the numbered lines. Raises ParseError for numbers out of order and for loose text between the steps."""
    questions: list[str] = []
    after_blank = False
    ended = False
    for line in text.split("\n"):
        match = _LINE.match(line.rstrip())
        if match is None:
            if not line.strip():
                after_blank = True
            elif questions and not (after_blank or ended):
                raise ParseError("a line of the plan has no number; write one line per step, `k. question`.", text)
            elif questions:
                ended = True
            continue
        digits, question = match.groups()
        expected = len(questions) + 1
        if ended or len(digits) > _LONGEST_NUMBER or int(digits) != expected:
            raise ParseError(f"found step number {digits[:20]} where {expected} was due; number the steps 1, 2, … in order.", text)
        questions.append((question or "").strip())
        after_blank = False
    return questions


def _check_step(k: int, step: Step, limits: PlanLimits) -> None:
    if step.id != k:
        raise ParseError(f"found step number {step.id} where {k} was due; number the steps 1, 2, … in order.")
    if not step.question:
        raise ParseError(f"step {k} has no question; write one line per step, `k. question`.")
    if len(step.question) > limits.characters:
        raise ParseError(f"step {k} has {len(step.question)} characters, more than {limits.characters}; ask for shorter sub-questions.")
    if step.needs != references(step.question):
        raise ParseError(f"what step {k} needs differs from the references in its question; write #j for the answer of step j.")
    if any(not 1 <= j < k for j in step.needs):
        raise ParseError(f"step {k} refers to a step that is not before it; #j needs j < {k}.", step.question)
