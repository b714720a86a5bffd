"""Which of a teacher's traces a student learns from (arXiv 2402.15000: S_D-T, S_D-R, S_E-T, S_E-A; arXiv 2106.07174: a ranking).

A kept trace becomes the problem as the teacher sees it: its plan, steps and answer stand where gold ones would, so that whatever can be
learned from gold can be learned from a teacher. Left out: writing examples (pipelines/formats.py), reading traces (collection.py),
asking how likely a question is (pipelines/reconstructor.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

from cleave.reasons import Reason, gold_is_known, reason_of, wrong_share
from cleave.traces import ScoredTrace
from cleave.types import Plan, Problem, Solution, Trace

Keep = Literal["all", "answered"]
Answers = Literal["teacher", "gold"]
Prefer = Literal["first", "most_often"]
Score = Callable[[Problem, str], bool]
"""Whether an answer to a problem is right."""
Likelihood = Callable[[Problem], float]
"""Mean log-probability per token of a problem's question, given its plan, steps and answer."""


@dataclass(frozen=True)
class Screen:
    """The rules. `keep` all: every plan or solution that can be read; answered: those that led to the right answer.

    `second_chance`: a plan whose first solution is wrong is kept for a later one that is right. `prefer` most_often: of the right solutions
    of a plan the one whose steps were sampled most often is kept, not the first. `answers` gold: the final answer that is learned is the
    problem's own, whatever the teacher concluded.
    """

    keep: Keep = "answered"
    answers: Answers = "teacher"
    second_chance: bool = True
    prefer: Prefer = "first"


@dataclass(frozen=True)
class Ranking:
    """Of the right attempts at a problem, whatever their plans, the `keep` from which its question follows best are kept. They differ
    in nothing but what led to the answer, so the one that says least of the question is the likeliest to be right by accident."""

    likelihood: Likelihood
    keep: int = 1


@dataclass
class Counts:
    """What became of the attempts: `plans` that could be read (with a ranking: those and every distinct right solution of them), how many
    were kept, and why the others were not.

    Where gold steps are known: the reasons of all solutions with the right answer, and of those among them that were kept.
    """

    traces: int = 0
    plans: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)
    kept_reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Kept plans as a share of those that could be read; 0 without any."""
        return self.kept / self.plans if self.plans else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types. `reasons` only where some are known."""
        found = {"traces": self.traces, "plans": self.plans, "kept": self.kept, "rejected": dict(self.rejected)}
        if wrong_share(self.reasons) is not None:
            found["reasons"] = {"right_answers": dict(self.reasons), "kept": dict(self.kept_reasons)}
        return found


@dataclass(frozen=True)
class Attempt:
    """A plan with a solution: the problem as the teacher sees it, and the reason, None where the answer is wrong or gold unknown."""

    problem: Problem
    reason: Reason | None = None


def screened(
    rows: Iterable[ScoredTrace], screen: Screen, score: Score, counts: Counts | None = None, ranking: Ranking | None = None
) -> Iterator[Problem]:
    """The problems as the teacher sees them, one per kept plan (strategies without plans: one per kept solution), in order; with a
    ranking at most `ranking.keep` per trace."""
    counts = Counts() if counts is None else counts
    for row in rows:
        counts.traces += 1
        found = _attempted(row.trace, screen, score, counts, every=ranking is not None)
        for attempt in found if ranking is None else _best(found, ranking, counts):
            counts.kept += 1
            if attempt.reason is not None:
                counts.kept_reasons[attempt.reason] += 1
            yield attempt.problem


def rivals(rows: Iterable[ScoredTrace], screen: Screen, score: Score, keep: int) -> Iterator[Problem]:
    """The problems, as the teacher sees them, whose likelihood a ranking will ask for: where more than `keep` compete."""
    for row in rows:
        found = _attempted(row.trace, screen, score, Counts(), every=True)
        if len(found) > keep:
            yield from (attempt.problem for attempt in found)


def attempts(trace: Trace) -> Iterator[tuple[Plan | None, list[Solution]]]:
    """Each distinct plan with the solutions that followed it; one pair without a plan for strategies that make none."""
    if not trace.plans:
        yield None, list(trace.solutions)
        return
    of_plan: dict[Plan | None, list[Solution]] = {plan: [] for plan in trace.plans}
    for i, solution in enumerate(trace.solutions):
        of_plan[trace.plan_of(i)].append(solution)
    yield from of_plan.items()


def _attempted(trace: Trace, screen: Screen, score: Score, counts: Counts, *, every: bool) -> list[Attempt]:
    """What passes the rules: the first solution of each plan, or `every` distinct one. Counts what does not, and the reasons."""
    problem, judged = trace.problem, gold_is_known(trace.problem)
    found: list[Attempt] = []
    for plan, solutions in attempts(trace):
        tries = solutions if screen.keep == "answered" and screen.second_chance else solutions[:1]
        most = 1 if screen.prefer == "first" and not every and not judged else None
        right = _right(problem, tries, score, most) if judged or screen.keep == "answered" else []
        counts.reasons.update(reason_of(problem, plan, each.steps) for each in right if judged)
        if complaint := _complaint(trace, tries, right, screen):
            counts.plans += 1
            counts.rejected[complaint] += 1
            continue
        chosen: Sequence[Solution | None] = (tries or [None]) if screen.keep == "all" else right if every else _preferred(right, screen)
        for each in chosen:
            reason = reason_of(problem, plan, each.steps) if judged and each is not None and each in right else None
            attempt = Attempt(_as_the_teacher_sees(problem, plan, each, screen), reason)
            if attempt not in found:
                counts.plans += 1
                found.append(attempt)
    return found


def _right(problem: Problem, solutions: Sequence[Solution], score: Score, most: int | None) -> list[Solution]:
    """The first `most` solutions with the right answer; None: all of them."""
    if problem.answer is None:
        return []
    return list(islice((each for each in solutions if each.answer is not None and score(problem, each.answer)), most))


def _preferred(right: Sequence[Solution], screen: Screen) -> Sequence[Solution]:
    """The one of the right solutions of a plan that is learned from; of equally frequent ones the earlier."""
    if screen.prefer == "first" or not right:
        return right[:1]
    [(steps, _)] = Counter(each.steps for each in right).most_common(1)
    return [next(each for each in right if each.steps == steps)]


def _complaint(trace: Trace, tries: Sequence[Solution], right: Sequence[Solution], screen: Screen) -> str:
    """Why a plan with these solutions is not kept; '' if it is."""
    unanswered = all(solution.answer is None for solution in tries)
    if screen.keep == "answered" and not right:
        return "no gold answer" if trace.problem.answer is None else "no answer" if unanswered else "wrong answer"
    return "unfinished plan" if trace.strategy == "dynamic" and unanswered else ""


def _best(found: list[Attempt], ranking: Ranking, counts: Counts) -> list[Attempt]:
    """Those that the ranking keeps, in their order; of equally likely ones the earlier. Whoever has no rival is not ranked."""
    if len(found) <= ranking.keep:
        return found
    likelihoods = [ranking.likelihood(attempt.problem) for attempt in found]
    order = sorted(range(len(found)), key=lambda i: -likelihoods[i])
    counts.rejected["less likely reason"] += len(found) - ranking.keep
    return [found[i] for i in sorted(order[: ranking.keep])]


def _as_the_teacher_sees(problem: Problem, plan: Plan | None, solution: Solution | None, screen: Screen) -> Problem:
    steps = solution.steps if solution is not None else ()
    answer = solution.answer if solution is not None else None
    if screen.answers == "gold":
        answer = problem.answer
    return replace(problem, gold_plan=plan, gold_steps=steps, answer=answer)
