"""Scored traces in, figures out: accuracy with intervals by task, depth and skill, cost per role, failures by type, paired differences.

Everything is a counter: memory does not grow with the number of problems. What counts as what:
  right, wrong   the problem has a gold answer and the trace an answer
  failed         a typed error and no answer; counts as not solved, and is listed under `failures`
  abstained      an answer was withheld for being too unsure; counts as not solved, and the precision is over the others
  unjudged       the verifier failed and no answer could be chosen; listed, and left out of every accuracy
  unlabelled     there is no gold answer; left out of every accuracy
A verdict that is missing costs no answer and moves none of these; it is listed under `failures` too.
Left out: how a single answer is scored (tasks/scoring.py) and how the figures are shown (report.py, pipelines/evaluate.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal

from cleave.intervals import Interval, Pairs, paired_difference, wilson
from cleave.traces import ScoredTrace
from cleave.types import Failure, Trace, Usage

By = Literal["overall", "task", "depth", "skill", "task and depth"]
OVERALL = "all"
VERDICT_MISSING = Failure(
    "VerdictMissing", "a solution got no verdict and votes as if scored nothing; check max_model_len and prompts.", "verifier"
)
"""Of why a solution could not be judged the trace keeps only that it was not."""
_JUDGES_SOME = ("adaptive",)
"""Strategies that leave solutions unjudged on purpose."""


@dataclass
class Tally:
    """Counts of one group of problems; `n` = right + wrong + failed + abstained is what an accuracy is over."""

    n: int = 0
    right: int = 0
    lenient: int = 0
    failed: int = 0
    abstained: int = 0
    unjudged: int = 0
    unlabelled: int = 0

    def add(self, row: ScoredTrace) -> None:
        outcome = row.outcome
        if outcome == "unjudged":
            self.unjudged += 1
        elif outcome == "unlabelled":
            self.unlabelled += 1
        else:
            self.n += 1
            self.right += outcome == "right"
            self.failed += outcome == "failed"
            self.abstained += outcome == "abstained"
            self.lenient += bool(row.lenient)

    @property
    def answered(self) -> int:
        """Problems with an answer, right or wrong."""
        return self.n - self.failed - self.abstained

    def precision(self, confidence: float = 0.95) -> Interval:
        """Share of the answers that are right, with Wilson's interval."""
        return wilson(self.right, self.answered, confidence)

    def accuracy(self, confidence: float = 0.95) -> Interval:
        """Share solved by the strict rule, with Wilson's interval."""
        return wilson(self.right, self.n, confidence)


@dataclass
class Cost:
    """What one variant's problems cost: usage by role, and wall seconds summed over problems (they overlap in time)."""

    problems: int = 0
    wall_seconds: float = 0.0
    usage: dict[str, Usage] = field(default_factory=dict)

    def add(self, row: ScoredTrace) -> None:
        self.problems += 1
        self.wall_seconds += row.trace.timings.get("total", 0.0)
        for role, usage in row.trace.usage.items():
            self.usage[role] = self.usage.get(role, Usage()) + usage

    @property
    def asked(self) -> dict[str, Usage]:
        """Usage of the roles whose model was asked at all."""
        return {role: usage for role, usage in self.usage.items() if usage.calls}

    @property
    def total(self) -> Usage:
        return sum(self.usage.values(), Usage())


@dataclass
class Failures:
    """How often one type of failure happened, with the first message as an example."""

    count: int = 0
    unsolved: int = 0
    message: str = ""


@dataclass(frozen=True)
class Difference:
    """Accuracy of variant `a` minus that of `b` on the problems that both answered."""

    a: str
    b: str
    task: str
    pairs: Pairs
    interval: Interval


class Evaluation:
    """Running figures of a run. `add` takes rows in any order; `variants` fixes the order of the tables."""

    def __init__(self, variants: Sequence[str], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> None:
        self.variants = list(variants)
        self.confidence = confidence
        self.resamples = resamples
        self.seed = seed
        self.costs = {variant: Cost() for variant in self.variants}
        self.failures: dict[tuple[str, str, str], Failures] = {}
        self._tallies: dict[tuple[By, str], dict[str, Tally]] = {("overall", OVERALL): {}}
        self._pairing = Pairing(self.variants)

    def add(self, row: ScoredTrace) -> None:
        """Count one trace."""
        for group in groups(row):
            self._tallies.setdefault(group, {}).setdefault(row.variant, Tally()).add(row)
        self.costs[row.variant].add(row)
        self._pairing.add(row)
        if row.trace.error is not None:
            self._list(row.variant, row.trace.error, unsolved=row.outcome == "failed")
        if lacks_verdict(row.trace):
            self._list(row.variant, VERDICT_MISSING, unsolved=False)

    def add_all(self, rows: Iterable[ScoredTrace]) -> Evaluation:
        """Count many traces; returns itself."""
        for row in rows:
            self.add(row)
        return self

    @property
    def problems(self) -> int:
        """Traces counted so far, over all variants."""
        return sum(cost.problems for cost in self.costs.values())

    def tally(self, variant: str, by: By = "overall", key: str = OVERALL) -> Tally:
        """Counts of one group; empty where nothing was counted."""
        return self._tallies.get((by, key), {}).get(variant, Tally())

    def keys(self, by: By) -> list[str]:
        """The groups there are, in order (depths by number)."""
        return sorted((key for kind, key in self._tallies if kind == by), key=_natural)

    def differences(self) -> list[Difference]:
        """All pairs of variants, overall and (where there are several) by task."""
        tasks = self.keys("task")
        found = []
        for a, b in combinations(self.variants, 2):
            for task in [OVERALL, *(tasks if len(tasks) > 1 else [])]:
                pairs = self._pairing.pairs(a, b, task)
                interval = paired_difference(pairs, resamples=self.resamples, seed=self.seed, confidence=self.confidence)
                found.append(Difference(a, b, task, pairs, interval))
        return found

    def rows(self) -> Iterator[dict[str, Any]]:
        """All figures as flat JSON rows: kind accuracy, usage, failure or difference."""
        for by, key in sorted(self._tallies, key=lambda group: (group[0] != "overall", group[0], _natural(group[1]))):
            for variant in self.variants:
                tally = self.tally(variant, by, key)
                yield {"kind": "accuracy", "variant": variant, "by": by, "key": key, **self._accuracy(tally)}
        for variant, cost in self.costs.items():
            for role, usage in cost.asked.items():
                yield {"kind": "usage", "variant": variant, "role": role, "problems": cost.problems, **asdict(usage)}
        for (variant, kind, role), failures in sorted(self.failures.items()):
            yield {"kind": "failure", "variant": variant, "type": kind, "role": role, **asdict(failures)}
        for difference in self.differences():
            yield {
                "kind": "difference",
                "a": difference.a,
                "b": difference.b,
                "task": difference.task,
                **asdict(difference.pairs),
                "difference": _number(difference.interval.value),
                "low": difference.interval.low,
                "high": difference.interval.high,
            }

    def _list(self, variant: str, failure: Failure, *, unsolved: bool) -> None:
        failures = self.failures.setdefault((variant, failure.type, failure.role), Failures(message=failure.message))
        failures.count += 1
        failures.unsolved += unsolved

    def _accuracy(self, tally: Tally) -> dict[str, Any]:
        interval = tally.accuracy(self.confidence)
        return {
            "n": tally.n,
            "right": tally.right,
            "accuracy": _number(interval.value),
            "low": interval.low,
            "high": interval.high,
            "lenient": _number(tally.lenient / tally.n if tally.n else math.nan),
            "failed": tally.failed,
            "abstained": tally.abstained,
            "unjudged": tally.unjudged,
            "unlabelled": tally.unlabelled,
        }


class Pairing:
    """Joins the variants' outcomes on the same problem, keeping a problem only until all variants have reported."""

    def __init__(self, variants: Sequence[str]) -> None:
        self._variants = tuple(variants)
        self._open: dict[tuple[str, int], dict[str, bool | None]] = {}
        self._counts: dict[tuple[str, str, str], list[int]] = {}

    def add(self, row: ScoredTrace) -> None:
        if len(self._variants) < 2:
            return
        counted = row.outcome not in ("unjudged", "unlabelled")
        solved = self._open.setdefault((row.task, row.index), {})
        solved[row.variant] = row.outcome == "right" if counted else None
        if len(solved) == len(self._variants):
            self._close(row.task, self._open.pop((row.task, row.index)))

    def pairs(self, a: str, b: str, task: str = OVERALL) -> Pairs:
        """Counts of the problems that both have answered. Problems that a variant has not reached yet are not in it."""
        return Pairs(*self._counts.get((a, b, task), (0, 0, 0)))

    def _close(self, task: str, solved: Mapping[str, bool | None]) -> None:
        for a, b in combinations(self._variants, 2):
            one, other = solved[a], solved[b]
            if one is None or other is None:
                continue
            for key in (OVERALL, task):
                counts = self._counts.setdefault((a, b, key), [0, 0, 0])
                counts[0] += 1
                counts[1] += one and not other
                counts[2] += other and not one


def groups(row: ScoredTrace) -> list[tuple[By, str]]:
    """The groups that a trace counts in. A problem with several skills counts under each; depth 0 means unknown."""
    problem = row.trace.problem
    found: list[tuple[By, str]] = [("overall", OVERALL), ("task", row.task)]
    if problem.depth:
        found += [("depth", str(problem.depth)), ("task and depth", f"{row.task} {problem.depth}")]
    return found + [("skill", skill) for skill in dict.fromkeys(problem.skills)]


def lacks_verdict(trace: Trace) -> bool:
    """Whether the verifier judged, but could not judge every solution."""
    return None in trace.verdicts and trace.strategy not in _JUDGES_SOME


def _natural(key: str) -> tuple[str, int]:
    head, _, last = key.rpartition(" ")
    return (head, int(last)) if last.isdigit() else (key, 0)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
