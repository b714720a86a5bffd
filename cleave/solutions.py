"""Solutions as text: one line per step, `k. text`, and a last line `The answer is: X`.

A step's short answer is what follows the last `=` of its line, else the whole line without a final full stop. The final answer is
what follows the last marker; without a marker a solution has no answer, and nothing is guessed from its steps. Model output is
untrusted: the size and the number of steps that are read are bounded. A text is never refused, only read as far as it keeps the form.
Left out: whether an answer is right (tasks/scoring.py) and asking a model for a solution (actors/solver.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cleave.tasks.scoring import final_answer
from cleave.types import Finish, Solution, SolutionStep, Usage

ANSWER_MARKER = "The answer is:"
_LINE = re.compile(r"[ \t]*([0-9]{1,6})[.)][ \t]+(.*)\Z", re.DOTALL)


@dataclass(frozen=True)
class SolutionLimits:
    """How much of a solution is read: steps, and characters of the whole text (a longer text is cut and has no answer)."""

    steps: int = 64
    text: int = 65_536


DEFAULT_LIMITS = SolutionLimits()
_FREE = Usage()


def parse_solution(
    text: str,
    *,
    logprob: float | None = None,
    usage: Usage = _FREE,
    finish: Finish = "stop",
    limits: SolutionLimits = DEFAULT_LIMITS,
) -> Solution:
    """Read a solution. Steps are the lines numbered 1, 2, … in order; other lines are skipped. No marker: `answer` is None.

    Where `finish` is 'length', the last line may have been cut short, so no answer is read from it.
    """
    kept = text[: limits.text]
    whole = text.rpartition("\n")[0] if finish == "length" else text
    answer = final_answer(whole) if len(text) <= limits.text else None
    return Solution(steps=parse_steps(kept, limits.steps), answer=answer, text=kept, logprob=logprob, usage=usage, finish=finish)


def parse_steps(text: str, most: int = SolutionLimits.steps, first: int = 1) -> tuple[SolutionStep, ...]:
    """The lines numbered `first`, `first` + 1, … in order, at most `most` of them."""
    steps: list[SolutionStep] = []
    for line in text.split("\n"):
        match = _LINE.match(line.rstrip())
        if match is None or int(match.group(1)) != first + len(steps) or not match.group(2).strip():
            continue
        written = match.group(2).strip()
        steps.append(SolutionStep(first + len(steps), written, short_answer(written)))
        if len(steps) == most:
            break
    return tuple(steps)


def parse_step(text: str, step_id: int) -> SolutionStep | None:
    """Read one step's line, with or without its number; None for an empty text and for one that starts with another number.

    `1. 45 + 12 = 57` and `45 + 12 = 57` read the same. Of several lines the one with the step's number counts, else the first.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        return None
    for line in lines:
        match = _LINE.match(line)
        if match is not None and int(match.group(1)) == step_id:
            return SolutionStep(step_id, match.group(2), short_answer(match.group(2)))
    if _LINE.match(lines[0]):
        return None
    return SolutionStep(step_id, lines[0], short_answer(lines[0]))


def short_answer(text: str) -> str:
    """`45 + 12 = 57` → `57`; `Bela.` → `Bela`; `12, 7, 30` stays."""
    after = text.rpartition("=")[2].strip()
    return _without_full_stop(after) or _without_full_stop(text.strip())


def render_solution(steps: Sequence[SolutionStep], answer: str) -> str:
    """The written form, the inverse of `parse_solution`; no newline at its end."""
    return "\n".join([*(render_step(step) for step in steps), f"{ANSWER_MARKER} {answer}"])


def render_step(step: SolutionStep) -> str:
    """One line, `k. text`, without its newline."""
    return f"{step.id}. {step.text}"


def _without_full_stop(text: str) -> str:
    return text.removesuffix(".").rstrip() if text != "." else text
