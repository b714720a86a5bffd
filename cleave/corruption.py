"""A right solution made wrong by one slip: hard negatives for a verifier, after TInt's dynamic noise (arXiv 2402.04004).

A number that a step answers becomes another one near it; the steps that follow work on with the wrong number, their calculations done
again, down to the final answer. So every other line stays as right as it was, and only the slip gives the solution away.
Left out: solutions whose answer is no number or does not change, and steps that are no calculation (they keep what they say); noise in
a reference task's own steps (tasks/reference/node.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from cleave.solutions import render_solution
from cleave.types import Solution, SolutionStep

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w|\.\d)")
_TERM = re.compile(r"\s*([-+*/×÷])?\s*(\d+(?:\.\d+)?)\s*")
_SHIFTS = (1, 2, 3, 10)
_MOST_DIGITS = 12


def corrupted(solution: Solution, rng: random.Random) -> Solution | None:
    """The solution with one slip, its last step's number as answer. None where no slip leads to another final answer."""
    steps = solution.steps
    if not steps or solution.answer is None or _value(solution.answer) is None or _value(steps[-1].answer) != _value(solution.answer):
        return None
    places = [i for i, step in enumerate(steps) if _value(step.answer) is not None]
    for place in rng.sample(places, len(places)):
        changed = _slip(steps, place, rng)
        if changed and _value(changed[-1].answer) != _value(solution.answer):
            return Solution(changed, changed[-1].answer, render_solution(changed, changed[-1].answer))
    return None


def _slip(steps: tuple[SolutionStep, ...], place: int, rng: random.Random) -> tuple[SolutionStep, ...]:
    """All steps, the one at `place` with a wrong number, those after it with what follows from it; empty where a number would become
    negative or a fraction, which would give the slip away."""
    before = steps[place].answer.strip()
    changed = {before: _near(before, rng)}
    found = [*steps[:place], _answering(steps[place], changed[before])]
    for step in steps[place + 1 :]:
        followed = _follow(step, changed)
        if followed is None:
            return ()
        found.append(followed)
    return tuple(found)


def _follow(step: SolutionStep, changed: dict[str, str]) -> SolutionStep | None:
    """The step with the wrong numbers in its work, and its answer, if that can be calculated, noted in `changed`."""
    work, equals, said = step.text.rpartition("=")
    now = _replaced(work, changed)
    if now == work:
        return step
    value = calculate(now)
    if value is None or calculate(work) != _value(step.answer):
        return replace(step, text=now + equals + said)
    if value < 0 or value.denominator != 1:
        return None
    changed[step.answer.strip()] = str(value)
    return _answering(replace(step, text=now + equals + said), str(value))


def calculate(text: str) -> Fraction | None:
    """The value of numbers joined by + - * / (no brackets), products first; None for anything else, and for a division by zero."""
    terms: list[Fraction] = []
    end = 0
    while end < len(text):
        found = _TERM.match(text, end)
        if found is None or bool(found.group(1)) != bool(terms) or len(found.group(2)) > _MOST_DIGITS:
            return None
        sign, number = found.group(1), Fraction(found.group(2))
        if sign in ("*", "×"):
            terms[-1] *= number
        elif sign in ("/", "÷"):
            if not number:
                return None
            terms[-1] /= number
        else:
            terms.append(-number if sign == "-" else number)
        end = found.end()
    return sum(terms, Fraction()) if terms else None


def _answering(step: SolutionStep, answer: str) -> SolutionStep:
    """A step whose text ends in another answer."""
    work, equals, said = step.text.rpartition("=")
    return SolutionStep(step.id, work + equals + _replaced(said, {step.answer.strip(): answer}), answer)


def _replaced(text: str, changed: Mapping[str, str]) -> str:
    return _NUMBER.sub(lambda found: changed.get(found.group(), found.group()), text)


def _near(number: str, rng: random.Random) -> str:
    value, shift = Fraction(number), rng.choice(_SHIFTS)
    return _written(value + shift if rng.random() < 0.5 or value < shift else value - shift)


def _value(answer: str) -> Fraction | None:
    """Of an answer that is one plain number."""
    text = answer.strip()
    return Fraction(text) if _NUMBER.fullmatch(text) and len(text) <= _MOST_DIGITS else None


def _written(value: Fraction) -> str:
    """As people write it: whole, or with two decimals."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.2f}".rstrip("0").rstrip(".")
