"""Every selection rule on the same samples: accuracy by the number of samples, and how far each rule is from the plain vote.

    table = SelectionTable()
    table.add(row, right)                  # a trace with its solutions and verdicts, and whether an answer is right
    for figures in table.rows(): ...

For each n = 1, 2, 4, … the N samples of a problem are cut into N // n groups, in the order in which they were drawn; a problem's accuracy
under a rule is the mean over its groups, so that small n use all samples. Only sums are kept: memory does not grow with the traces.
Left out: what the rules are (selection.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from cleave.config.reasoning import RULES, UNSCORED, SelectionName
from cleave.intervals import Interval
from cleave.selection import DEFAULT_OPTIONS, Candidate, Cluster, Options, candidates, choose, clusters, maj_k_at_n, pass_at_n
from cleave.traces import ScoredTrace

PASS_AT_N, MAJ_K_AT_N = "pass@n", "majk@n"
ORACLES = (PASS_AT_N, MAJ_K_AT_N)
BASE: SelectionName = "majority"
ALL = "all"


@dataclass
class Moments:
    """A running mean with its variance (Welford's algorithm)."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        before = value - self.mean
        self.mean += before / self.n
        self.squares += before * (value - self.mean)

    def interval(self, confidence: float) -> Interval:
        """The mean with its normal interval; nothing is known of fewer than two values."""
        if self.n < 2:
            return Interval(self.mean if self.n else math.nan, -math.inf, math.inf)
        half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(self.squares / (self.n - 1) / self.n)
        return Interval(self.mean, self.mean - half, self.mean + half)


@dataclass
class SelectionTable:
    """Figures by (variant, task, n, rule). Problems without a gold answer or with fewer than two samples are left out, and so are traces
    of several stages, whose samples are not alike."""

    confidence: float = 0.95
    _accuracy: dict[tuple[str, str, int, str], Moments] = field(default_factory=dict)
    _ahead: dict[tuple[str, str, int, str], Moments] = field(default_factory=dict)
    _scored: set[str] = field(default_factory=set)
    """Variants whose solutions are judged; a problem without any answer is then wrong under every rule, judged or not."""

    def add(self, row: ScoredTrace, right: Callable[[str], bool], asked: int | None = None, options: Options = DEFAULT_OPTIONS) -> None:
        """Count one trace; `right` judges canonical answers, `asked` samples were wanted (None: as many as there are)."""
        trace = row.trace
        total = asked or len(trace.solutions)
        if trace.problem.answer is None or total < 2 or trace.stages:
            return
        found = candidates(trace.solutions, trace.verdicts)
        if trace.verdicts:
            self._scored.add(row.variant)
        judge = _Judge(RULES if trace.verdicts or not found else UNSCORED, {each.form: right(each.form) for each in found}, options)
        for n in powers(total):
            shares = judge.shares(found, n, total // n)
            for name, share in shares.items():
                for task in (row.task, ALL):
                    self._accuracy.setdefault((row.variant, task, n, name), Moments()).add(share)
                    self._ahead.setdefault((row.variant, task, n, name), Moments()).add(share - shares[BASE])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Flat JSON rows of kind selection: by variant, all problems first, then task, n and rule."""
        for key in sorted(self._accuracy, key=_order):
            variant, task, n, rule = key
            if rule not in self.rules(variant):
                continue
            accuracy, ahead = self._accuracy[key].interval(self.confidence), self._ahead[key].interval(self.confidence)
            yield {
                "kind": "selection",
                "variant": variant,
                "task": task,
                "n": n,
                "rule": rule,
                "problems": self._accuracy[key].n,
                "accuracy": accuracy.value,
                "low": max(0.0, accuracy.low),
                "high": min(1.0, accuracy.high),
                "ahead": ahead.value,
                "ahead_low": max(-1.0, ahead.low),
                "ahead_high": min(1.0, ahead.high),
            }

    @property
    def variants(self) -> list[str]:
        """Those that were counted, in order of their names."""
        return sorted({variant for variant, _, _, _ in self._accuracy})

    def sizes(self, variant: str) -> list[int]:
        """The numbers of samples that a variant is counted for."""
        return sorted({n for name, _, n, _ in self._accuracy if name == variant})

    def rules(self, variant: str) -> list[str]:
        """The rules and oracles that a variant is counted for."""
        return [*(RULES if variant in self._scored else UNSCORED), *ORACLES]

    def interval(self, variant: str, rule: str, n: int, task: str = ALL) -> Interval:
        """One accuracy."""
        return self._accuracy[variant, task, n, rule].interval(self.confidence)

    def ahead(self, variant: str, rule: str, n: int, task: str = ALL) -> Interval:
        """By how much a rule is above the majority on the same samples."""
        return self._ahead[variant, task, n, rule].interval(self.confidence)


@dataclass(frozen=True)
class _Judge:
    """Which rules are right on samples of one problem. `right` says it of every answer."""

    rules: Sequence[SelectionName]
    right: Mapping[str, bool]
    options: Options

    def shares(self, found: Sequence[Candidate], n: int, groups: int) -> dict[str, float]:
        """The share of groups of n samples in which each rule, or oracle, is right. A group without any answer is wrong."""
        hits = dict.fromkeys((*self.rules, *ORACLES), 0)
        for group in range(groups):
            ranked = clusters(each for each in found if group * n <= each.index < (group + 1) * n)
            for name, hit in rule_hits(ranked, self.rules, self.right, self.options).items() if ranked else ():
                hits[name] += hit
        return {name: count / groups for name, count in hits.items()}


def rule_hits(ranked: Sequence[Cluster], rules: Sequence[SelectionName], right: Mapping[str, bool], options: Options) -> dict[str, bool]:
    """Whether each rule, and each oracle, is right on some clusters, of which there is at least one."""
    hits: dict[str, bool] = {rule: right[choose(rule, ranked, options).form] for rule in rules}
    hits[PASS_AT_N] = pass_at_n(ranked, right.__getitem__)
    hits[MAJ_K_AT_N] = maj_k_at_n(ranked, right.__getitem__, options.top_k)
    return hits


def powers(total: int) -> list[int]:
    """1, 2, 4, … and `total` itself."""
    return sorted({2**k for k in range(total.bit_length()) if 2**k <= total} | {total})


def _order(key: tuple[str, str, int, str]) -> tuple[str, bool, str, int, int]:
    variant, task, n, rule = key
    return variant, task != ALL, task, n, (*RULES, *ORACLES).index(rule)
