"""Which of a teacher's traces a student learns from (arXiv 2402.15000: S_D-T, S_D-R, S_E-T, S_E-A).

A kept trace becomes the problem as the teacher sees it: its plan, steps and answer stand where gold ones would, so that whatever can be
learned from gold can be learned from a teacher. Left out: writing examples (pipelines/formats.py), reading traces (collection.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cleave.traces import ScoredTrace
from cleave.types import Plan, Problem, Solution, Trace

Keep = Literal["all", "answered"]
Answers = Literal["teacher", "gold"]
Score = Callable[[Problem, str], bool]
"""Whether an answer to a problem is right."""


@dataclass(frozen=True)
class Screen:
    """The rules. `keep` all: every plan or solution that can be read; answered: those that led to the right answer.

    `second_chance`: a plan whose first solution is wrong is kept for a later one that is right. `answers` gold: the final answer that is
    learned is the problem's own, whatever the teacher concluded.
    """

    keep: Keep = "answered"
    answers: Answers = "teacher"
    second_chance: bool = True


@dataclass
class Counts:
    """What became of the traces: `plans` that could be read, how many were kept, and why the others were not."""

    traces: int = 0
    plans: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Kept plans as a share of those that could be read; 0 without any."""
        return self.kept / self.plans if self.plans else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"traces": self.traces, "plans": self.plans, "kept": self.kept, "rejected": dict(self.rejected)}


def screened(rows: Iterable[ScoredTrace], screen: Screen, score: Score, counts: Counts | None = None) -> Iterator[Problem]:
    """The problems as the teacher sees them, one per kept plan (strategies without plans: one per kept solution), in order."""
    counts = Counts() if counts is None else counts
    for row in rows:
        counts.traces += 1
        for plan, solutions in attempts(row.trace):
            counts.plans += 1
            chosen, reason = _choose(row.trace.problem, solutions, screen, score)
            if reason:
                counts.rejected[reason] += 1
                continue
            counts.kept += 1
            yield _as_the_teacher_sees(row.trace.problem, plan, chosen, screen)


def attempts(trace: Trace) -> Iterator[tuple[Plan | None, list[Solution]]]:
    """Each distinct plan with the solutions that followed it; one pair without a plan for strategies that make none."""
    if not trace.plans:
        yield None, list(trace.solutions)
        return
    of_plan: dict[Plan, list[Solution]] = {plan: [] for plan in trace.plans}
    for i, solution in enumerate(trace.solutions):
        of_plan[trace.plans[i] if len(trace.plans) == len(trace.solutions) else trace.plans[0]].append(solution)
    yield from of_plan.items()


def _choose(problem: Problem, solutions: list[Solution], screen: Screen, score: Score) -> tuple[Solution | None, str]:
    """The solution to learn from, and why there is none."""
    if screen.keep == "all":
        return (solutions[0], "") if solutions else (None, "")
    if problem.answer is None:
        return None, "no gold answer"
    tries = solutions if screen.second_chance else solutions[:1]
    for solution in tries:
        if solution.answer is not None and score(problem, solution.answer):
            return solution, ""
    return None, "no answer" if all(solution.answer is None for solution in tries) else "wrong answer"


def _as_the_teacher_sees(problem: Problem, plan: Plan | None, solution: Solution | None, screen: Screen) -> Problem:
    steps = solution.steps if solution is not None else ()
    answer = solution.answer if solution is not None else None
    if screen.answers == "gold":
        answer = problem.answer
    return replace(problem, gold_plan=plan, gold_steps=steps, answer=answer)
