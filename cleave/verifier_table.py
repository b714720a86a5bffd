"""What verifiers say of the same samples: how well each tells right from wrong, and what each selection rule solves with it.

    found = Judgements.read(folder, scorers, rules, options)      # one verifier, one seed: a run of `cleave evaluate` with `samples`

Rules are judged at all samples of a problem. Left out: running anything (pipelines/verifier_study.py), paired intervals (pair_table.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from cleave.calibration import auc, brier, ece
from cleave.config.reasoning import SelectionName
from cleave.pair_table import Measured, Place
from cleave.report import Scorers
from cleave.runs import RunFolder
from cleave.selection import Options, candidates, clusters
from cleave.selection_table import ORACLES, rule_hits
from cleave.traces import TRACES, ScoredTrace, read_traces
from cleave.types import Usage


@dataclass
class Judgements:
    """One verifier's verdicts on the samples of a run. `solved` is by rule, oracles included; `scores` are those of all solutions that
    were judged, `confidences` those of the chosen answers, each beside whether it is right."""

    solved: dict[str, dict[Place, bool]] = field(default_factory=dict)
    usage: dict[Place, Mapping[str, Usage]] = field(default_factory=dict)
    scores: list[tuple[float, float, bool]] = field(default_factory=list)
    """(raw, probability, right)."""
    confidences: list[tuple[float, bool]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: RunFolder, scorers: Scorers, rules: Sequence[SelectionName], options: Options) -> Judgements:
        """A finished run of one variant. Problems without a gold answer are left out."""
        found = cls({rule: {} for rule in (*rules, *ORACLES)})
        for row in read_traces(folder, [TRACES]):
            if row.trace.problem.answer is not None:
                found.add(row, scorers.of(row), rules, options)
        return found

    def add(self, row: ScoredTrace, judge: Callable[[str], bool], rules: Sequence[SelectionName], options: Options) -> None:
        """Count one trace, whose answers `judge` calls right or not. A problem without any answer is solved by no rule."""
        trace, place = row.trace, (row.task, row.index)
        every = candidates(trace.solutions, trace.verdicts)
        right = {form: judge(form) for form in {each.form for each in every}}
        ranked = clusters(every)
        hits = rule_hits(ranked, rules, right, options) if ranked else {}
        for rule, solved in self.solved.items():
            solved[place] = hits.get(rule, False)
        self.usage[place] = {role: used for role, used in trace.usage.items() if used.calls}
        for each in every:
            verdict = trace.verdicts[each.index] if trace.verdicts else None
            if verdict is not None:
                self.scores.append((verdict.raw, verdict.score, right[each.form]))
        if trace.confidence is not None and trace.answer is not None:
            self.confidences.append((trace.confidence, bool(row.correct)))

    def measured(self, rule: str, roles: Sequence[str] = ("decomposer", "solver", "verifier")) -> Measured:
        """What a rule solves, and what the roles that it needs cost."""
        usage = {place: {role: used for role, used in by_role.items() if role in roles} for place, by_role in self.usage.items()}
        return Measured(self.solved[rule], usage)


@dataclass(frozen=True)
class ArmRow:
    """A verifier, means over its seeds. `auc`: how often a right solution of any problem is scored above a wrong one; `ece` of single
    solutions' probabilities and `ece_answer` of the confidence in the answer that the weighted vote chooses; tokens, FLOPs and seconds are
    the verifier's per problem."""

    name: str
    seeds: int
    solutions: int
    auc: float
    ece: float
    brier: float
    ece_answer: float
    tokens: float
    flops: float
    seconds: float


def arm_row(name: str, runs: Sequence[Judgements]) -> ArmRow:
    """The figures of one verifier, a run per seed."""

    def mean(of: Callable[[Judgements], float]) -> float:
        return fmean(map(of, runs))

    def cost(unit: str) -> Callable[[Judgements], float]:
        return lambda run: sum(float(getattr(used.get("verifier", Usage()), unit)) for used in run.usage.values()) / max(1, len(run.usage))

    return ArmRow(
        name,
        len(runs),
        round(mean(lambda run: len(run.scores))),
        mean(lambda run: auc([raw for raw, _, _ in run.scores], [right for _, _, right in run.scores])),
        mean(lambda run: ece([p for _, p, _ in run.scores], [right for _, _, right in run.scores])),
        mean(lambda run: brier([p for _, p, _ in run.scores], [right for _, _, right in run.scores])),
        mean(lambda run: ece([p for p, _ in run.confidences], [right for _, right in run.confidences])),
        mean(cost("tokens")),
        mean(cost("flops")),
        mean(cost("seconds")),
    )


def as_figures(row: ArmRow) -> dict[str, Any]:
    """A row as plain JSON."""
    return {"kind": "verifier", **vars(row)}
