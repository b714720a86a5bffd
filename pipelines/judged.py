"""Where a verifier's examples come from: the solver's own samples in a collection, each right or wrong by the task's scorer.

Each time a problem comes up, `per_problem` units are drawn anew from its distinct solutions: pairs of a right and a wrong one (margin), or
single ones, half of them right where there are as many (cross-entropy). Solutions without an answer teach nothing: selection never sees
them. `judge.extra` adds one solution to each problem that nobody sampled; `judge.steps_per_problem` adds units of beginnings of
solutions, right as long as no step is wrong. Left out: what a unit becomes (cleave/verdict_examples.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from cleave.config.judge import JudgeConfig, Loss
from cleave.config.screening import CollectionConfig
from cleave.console import say
from cleave.corruption import corrupted
from cleave.distributions import Key
from cleave.errors import DataError
from cleave.examples import Example, TopK
from cleave.reasons import gold_is_known
from cleave.solutions import render_solution
from cleave.step_labels import beginning, labels
from cleave.tasks.task import Task
from cleave.traces import ScoredTrace
from cleave.types import Plan, Problem, Solution
from cleave.verdict_examples import JudgedSolution, VerdictEncoder
from pipelines.screened import is_held_out, traces_of

CHUNK = 64
"""Problems per chunk; each gives several examples."""
Unit = tuple[Problem, Sequence[JudgedSolution]]
ExtraSolution = Literal["noised", "gold"]


@dataclass(frozen=True)
class JudgedProblem:
    """A problem with its distinct solutions that have an answer. `samples` are the solutions as they were drawn, repeats included, None
    where one had no answer."""

    problem: Problem
    right: tuple[JudgedSolution, ...]
    wrong: tuple[JudgedSolution, ...]
    samples: tuple[JudgedSolution | None, ...] = ()

    @property
    def solutions(self) -> tuple[JudgedSolution, ...]:
        return (*self.right, *self.wrong)

    def units(self, judge: JudgeConfig, rng: random.Random) -> list[Unit]:
        """Drawn anew with each call; none of a problem that has only one kind where pairs are wanted."""
        drawn = drawn_units(judge.loss, self.right, self.wrong, judge.per_problem, rng)
        if judge.steps_per_problem:
            drawn += drawn_units(judge.loss, *self.beginnings, judge.steps_per_problem, rng)
        return [(self.problem, unit) for unit in drawn]

    def with_extra(self, kind: ExtraSolution) -> JudgedProblem:
        """With one more solution, the same in every run; as it is where there is none to add."""
        if kind == "gold":
            gold = gold_solutions(self.problem)
            return replace(self, right=_distinct((*self.right, *gold))) if gold else self
        rng = random.Random(self.problem.id)
        for each in rng.sample(self.right, len(self.right)):
            noised = corrupted(each.solution, rng)
            if noised is not None:
                return replace(self, wrong=_distinct((*self.wrong, JudgedSolution(noised, each.plan, False))))
        return self

    @cached_property
    def beginnings(self) -> tuple[tuple[JudgedSolution, ...], tuple[JudgedSolution, ...]]:
        """Those of all solutions that have no wrong step, and those that have one; the whole of a solution is not among them."""
        found: dict[bool, list[JudgedSolution]] = {True: [], False: []}
        for each in self.solutions:
            for k, label in enumerate(labels(self.problem, each.plan, each.solution, each.right), start=1):
                found[label].append(JudgedSolution(beginning(each.solution, k), each.plan, label))
        return _distinct(found[True]), _distinct(found[False])


def drawn_units(
    loss: Loss, right: Sequence[JudgedSolution], wrong: Sequence[JudgedSolution], many: int, rng: random.Random
) -> list[tuple[JudgedSolution, ...]]:
    """At most `many` different ones: pairs (margin), or single ones (cross_entropy), half of them right where there are as many."""
    if loss == "margin":
        pairs = [(a, b) for a in right for b in wrong]
        return list(rng.sample(pairs, min(len(pairs), many)))
    half = min(len(right), max(many - len(wrong), (many + rng.randint(0, 1)) // 2))
    return [(each,) for each in [*rng.sample(right, half), *rng.sample(wrong, min(len(wrong), many - half))]]


def gold_solutions(problem: Problem) -> tuple[JudgedSolution, ...]:
    """The task's own solution; empty where it has none."""
    if not gold_is_known(problem) or problem.answer is None:
        return ()
    solution = Solution(problem.gold_steps, problem.answer, render_solution(problem.gold_steps, problem.answer))
    return (JudgedSolution(solution, problem.gold_plan, True),)


@dataclass
class JudgedSource:
    """Examples of some problems; a Source of curriculum/sampler.py. Every chunk is some of the problems of one epoch."""

    name: str
    problems: Sequence[JudgedProblem]
    judge: JudgeConfig
    encoder: VerdictEncoder
    seed: int = 0
    teacher: int = field(default=0, init=False)
    distributions: dict[Key, TopK] | None = field(default=None, init=False)

    def chunk(self, index: int) -> list[Example]:
        """Examples of 64 problems, shuffled."""
        chunks = -(-len(self.problems) // CHUNK)
        order = list(self.problems)
        random.Random(f"{self.seed}/{self.name}/{index // chunks}").shuffle(order)
        rng = random.Random(f"{self.seed}/{self.name}/{index}")
        some = order[CHUNK * (index % chunks) :][:CHUNK]
        units = [unit for each in some for unit in each.units(self.judge, rng)]
        rng.shuffle(units)
        return self.encoder(units)

    def every(self) -> Iterator[Example]:
        """Of stored distributions only, which verifiers do not learn."""
        return iter(())

    def examples(self, count: int) -> list[Example]:
        """`count` examples at most, one of each problem first."""
        rng = random.Random(f"{self.seed}/{self.name}")
        rounds = [each.units(self.judge, rng) for each in self.problems]
        units = [some[k] for k in range(max(map(len, rounds), default=0)) for some in rounds if k < len(some)]
        return self.encoder(units[:count])


def judged(config: CollectionConfig, label: str, task: Task) -> list[JudgedProblem]:
    """All problems of one task in the config's collections. Raises ConfigError for a collection or teacher that is not there."""
    rows = (row for path in (config.path, *config.also) for row in traces_of(config, path, label))
    return [problem for row in rows if (problem := _judged(row, task)).solutions]


def split(problems: Sequence[JudgedProblem], config: CollectionConfig) -> tuple[list[JudgedProblem], list[JudgedProblem]]:
    """Those to train on, and those held out."""
    held = [each for each in problems if is_held_out(each.problem, config)]
    return [each for each in problems if not is_held_out(each.problem, config)], held


def check_judged(config: CollectionConfig, label: str, problems: Sequence[JudgedProblem], judge: JudgeConfig) -> None:
    """Raise DataError where nothing can be learned; say what is there."""
    right, wrong = (sum(len(getattr(each, kind)) for each in problems) for kind in ("right", "wrong"))
    both = sum(bool(each.right and each.wrong) for each in problems)
    if not problems or not right or not wrong or (judge.loss == "margin" and not both):
        raise DataError(
            f"{config.path} has {right:,} right and {wrong:,} wrong distinct solutions of {label}, {both:,} problems with both: a verifier "
            "needs both; collect with reasoning.n=8 and a temperature, on problems that the solver solves sometimes."
        )
    say(f"{label}: {right:,} right and {wrong:,} wrong distinct solutions of {len(problems):,} problems, {both:,} with both.")


def with_extras(problems: Sequence[JudgedProblem], label: str, judge: JudgeConfig) -> list[JudgedProblem]:
    """The problems to train on with what `judge.extra` adds. Raises DataError where gold steps are needed that are not there."""
    if (judge.extra == "gold" or judge.steps_per_problem) and not any(gold_is_known(each.problem) for each in problems):
        wanted = "extra=gold" if judge.extra == "gold" else f"steps_per_problem={judge.steps_per_problem}"
        raise DataError(f"{label} has no gold steps, which judge.{wanted} needs; remove it.")
    if judge.extra == "none":
        return list(problems)
    more = [each.with_extra(judge.extra) for each in problems]
    added = sum(len(after.solutions) > len(before.solutions) for before, after in zip(problems, more, strict=True))
    say(f"{label}: a {judge.extra} solution is added to {added:,} of {len(more):,} problems.")
    return more


def _distinct(solutions: Iterable[JudgedSolution]) -> tuple[JudgedSolution, ...]:
    """One of each (text, plan), the first."""
    found: dict[tuple[str, str], JudgedSolution] = {}
    for each in solutions:
        found.setdefault(_text(each.solution, each.plan), each)
    return tuple(found.values())


def _text(solution: Solution, plan: Plan | None) -> tuple[str, str]:
    return solution.text.strip(), plan.text if plan else ""


def _judged(row: ScoredTrace, task: Task) -> JudgedProblem:
    trace = row.trace
    seen: dict[tuple[str, str], JudgedSolution] = {}
    samples: list[JudgedSolution | None] = []
    for i, solution in enumerate(trace.solutions if trace.problem.answer is not None else ()):
        if solution.answer is None:
            samples.append(None)
            continue
        plan = trace.plan_of(i)
        key = _text(solution, plan)
        if key not in seen:
            seen[key] = JudgedSolution(solution, plan, task.score(trace.problem, solution.answer))
        samples.append(seen[key])
    right, wrong = (tuple(each for each in seen.values() if each.right is kind) for kind in (True, False))
    return JudgedProblem(trace.problem, right, wrong, tuple(samples))
