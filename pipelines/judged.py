"""Where a verifier's examples come from: the solver's own samples in a collection, each right or wrong by the task's scorer.

Each time a problem comes up, `per_problem` units are drawn anew from its distinct solutions: pairs of a right and a wrong one (margin), or
single ones, half of them right where there are as many (cross-entropy). Solutions without an answer teach nothing: selection never sees
them. Left out: what a unit becomes (cleave/verdict_examples.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cleave.config.judge import JudgeConfig
from cleave.config.screening import CollectionConfig
from cleave.console import say
from cleave.distributions import Key
from cleave.errors import DataError
from cleave.examples import Example, TopK
from cleave.tasks.task import Task
from cleave.traces import ScoredTrace
from cleave.types import Problem
from cleave.verdict_examples import JudgedSolution, VerdictEncoder
from pipelines.screened import is_held_out, traces_of

CHUNK = 64
"""Problems per chunk; each gives several examples."""
Unit = tuple[Problem, Sequence[JudgedSolution]]


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
        """At most `per_problem` of them, all different; none of a problem that has only one kind where pairs are wanted."""
        if judge.loss == "margin":
            pairs = [(a, b) for a in self.right for b in self.wrong]
            return [(self.problem, pair) for pair in rng.sample(pairs, min(len(pairs), judge.per_problem))]
        half = min(len(self.right), max(judge.per_problem - len(self.wrong), (judge.per_problem + rng.randint(0, 1)) // 2))
        chosen = rng.sample(self.right, half) + rng.sample(self.wrong, min(len(self.wrong), judge.per_problem - half))
        return [(self.problem, (each,)) for each in chosen]


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
        units = [some[k] for k in range(self.judge.per_problem) for some in rounds if k < len(some)]
        return self.encoder(units[:count])


def judged(config: CollectionConfig, label: str, task: Task) -> list[JudgedProblem]:
    """All problems of one task in the config's collections. Raises ConfigError for a collection or teacher that is not there."""
    rows = (row for path in (config.path, *config.also) for row in traces_of(config, path, label))
    return [problem for row in rows if (problem := _judged(row, task)).solutions]


def split(problems: Sequence[JudgedProblem], config: CollectionConfig) -> tuple[list[JudgedProblem], list[JudgedProblem]]:
    """Those to train on, and those held out."""
    held = [each for each in problems if is_held_out(each.problem, config.held_out)]
    return [each for each in problems if not is_held_out(each.problem, config.held_out)], held


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


def _judged(row: ScoredTrace, task: Task) -> JudgedProblem:
    trace = row.trace
    seen: dict[tuple[str, str], JudgedSolution] = {}
    samples: list[JudgedSolution | None] = []
    for i, solution in enumerate(trace.solutions if trace.problem.answer is not None else ()):
        if solution.answer is None:
            samples.append(None)
            continue
        plan = trace.plan_of(i)
        key = solution.text.strip(), plan.text if plan else ""
        if key not in seen:
            seen[key] = JudgedSolution(solution, plan, task.score(trace.problem, solution.answer))
        samples.append(seen[key])
    right, wrong = (tuple(each for each in seen.values() if each.right is kind) for kind in (True, False))
    return JudgedProblem(trace.problem, right, wrong, tuple(samples))
