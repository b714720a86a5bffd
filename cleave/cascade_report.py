"""`cleave cascade RUN`: the best cascade of the variants of a finished evaluation, found without asking any model.

Half of the problems are searched, the other half measures what was found, beside the variants alone. Results go to stdout: tables and a
`reasoning:` section to paste, or one JSON object. Left out: reading samples (vote_records.py), the search (cascade_search.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import yaml

from cleave.cascade import Cascade, Point, Rung, as_reasoning, choose, replay, survival, thinned
from cleave.cascade_search import search
from cleave.config.evaluate import EvaluateConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.console import print_table, progress, say
from cleave.errors import ConfigError
from cleave.intervals import Interval, Pairs, paired_difference, wilson
from cleave.report import read_config
from cleave.runs import RunFolder
from cleave.tasks.registry import get_task
from cleave.traces import read_traces
from cleave.vote_records import CostName, VoteRecords, VoteTable

RESAMPLES = 10
"""Bootstrap runs of the search, as many as in the paper (arXiv 2310.01446)."""


@dataclass(frozen=True)
class Measured:
    """A cascade, or a stage alone, on the held-out problems; `ahead`: the accuracy of the chosen cascade minus its own."""

    cascade: Cascade
    cost: float
    solved: Interval
    ahead: Interval


@dataclass(frozen=True)
class Findings:
    """`front` and `best` as searched, `kept`: in how many resamples each stage of the best was chosen too; the rest is held out."""

    searched: int
    held_out: int
    front: list[Point]
    best: Point
    kept: list[int]
    measured: Measured
    alone: list[Measured]


def main(
    run: Path | str, *, cost: str = "tokens", max_cost: float | None = None, min_accuracy: float | None = None, as_json: bool = False
) -> int:
    """Search, measure and show; returns the exit code. Raises ConfigError where there is nothing to search or nothing found."""
    if cost not in get_args(CostName):
        raise ConfigError(f"--cost {cost} is none of {', '.join(get_args(CostName))}; name one of them.")
    folder = RunFolder.at(str(run))
    config = read_config(folder)
    variants = searchable(config.strategies())
    table = read_votes(folder, config, variants, cost)  # type: ignore[arg-type]
    found = find(table, config, max_cost=max_cost, min_accuracy=min_accuracy)
    reasoning = as_reasoning(found.best.cascade, variants)
    if as_json:
        print(json.dumps({"run": folder.location, "cost": cost, **as_dict(found), "reasoning": reasoning}, ensure_ascii=False))
    else:
        show(found, cost, config.bootstrap.confidence)
        print(yaml.safe_dump({"reasoning": reasoning}, sort_keys=False, allow_unicode=True), end="")
    return 0


def searchable(strategies: Mapping[str, ReasoningConfig]) -> dict[str, ReasoningConfig]:
    """The variants whose samples can be drawn again; says which are left out. Raises ConfigError if none of them has several."""
    reasons = {name: _unsuited(config) for name, config in strategies.items()}
    for name, reason in reasons.items():
        if reason:
            say(f"{name} is left out: {reason}.")
    fit = {name: config for name, config in strategies.items() if not reasons[name]}
    if all(config.n == 1 for config in fit.values()):
        raise ConfigError("no variant has several samples that could agree; evaluate with n=8 temperature=0.7 first.")
    return fit


def _unsuited(config: ReasoningConfig) -> str:
    if config.strategy == "adaptive":
        return "it has stages of its own"
    if config.gold_plan or config.gold_steps:
        return "it reads the task's own solution"
    return "how many samples it drew depends on what they said (stop_early)" if config.stop_early is not None else ""


def read_votes(folder: RunFolder, config: EvaluateConfig, variants: Mapping[str, ReasoningConfig], cost: CostName) -> VoteTable:
    """One pass over the traces. Raises ConfigError where the run knows nothing of such a cost."""
    tasks = {share.title: get_task(share.task) for share in config.tasks}
    records = VoteRecords(variants, cost)
    with progress("read") as shown:
        for row in read_traces(folder):
            records.add(row, partial(tasks[row.task].score, row.trace.problem))
            shown.advance()
    table = records.table()
    if len(table) and not any(draws.cost.any() for each in table.by_window.values() for draws in each.values()):
        raise ConfigError(f"the run's models report no {cost}; choose another --cost, such as tokens.")
    return table


def find(table: VoteTable, config: EvaluateConfig, *, max_cost: float | None = None, min_accuracy: float | None = None) -> Findings:
    """Search one half of the problems, measure on the other."""
    searched, held_out = table.of(table.searched), table.of(~table.searched)
    if not len(searched) or not len(held_out):
        raise ConfigError(f"{len(table)} problems were asked under every variant, too few to halve; evaluate more of them, to the end.")
    front, *resampled = search(searched, resamples=RESAMPLES, seed=config.bootstrap.seed)
    best = choose(front, max_cost=max_cost, min_accuracy=min_accuracy)
    others = [each for each in (_chosen(points, max_cost, min_accuracy) for points in resampled) if each is not None]
    rivals = alone(searched, best.cost)
    return Findings(
        searched=len(searched),
        held_out=len(held_out),
        front=thinned(front),
        best=best,
        kept=survival(best.cascade, others),
        measured=measure(best.cascade, best.cascade, held_out, config),
        alone=[measure(cascade, best.cascade, held_out, config) for cascade in rivals],
    )


def _chosen(front: Sequence[Point], max_cost: float | None, min_accuracy: float | None) -> Cascade | None:
    try:
        return choose(front, max_cost=max_cost, min_accuracy=min_accuracy).cascade
    except ConfigError:  # this resample has no such cascade
        return None


def alone(table: VoteTable, cost: float) -> list[Cascade]:
    """Each variant as the only stage: the most samples that cost no more than this, the fewest if all do, and as many as there are."""
    found: list[Cascade] = []
    for variant in table.by_window:
        sizes = table.sizes(variant)
        paid = [n for n in sizes if table.draws(variant, 0, n).cost.mean() <= cost]
        found += [(Rung(variant, n),) for n in dict.fromkeys([paid[-1] if paid else sizes[0], sizes[-1]])]
    return found


def measure(cascade: Cascade, best: Cascade, table: VoteTable, config: EvaluateConfig) -> Measured:
    """One cascade against the best, on the same problems."""
    wanted = config.bootstrap
    one, other = replay(best, table), replay(cascade, table)
    pairs = Pairs(len(table), int((one.right & ~other.right).sum()), int((other.right & ~one.right).sum()))
    ahead = paired_difference(pairs, resamples=wanted.resamples, seed=wanted.seed, confidence=wanted.confidence)
    return Measured(cascade, float(np.mean(other.cost)), wilson(int(other.right.sum()), len(table), wanted.confidence), ahead)


def show(found: Findings, cost: str, confidence: float) -> None:
    """Tables of the front, of the choice on the held-out half, and of its stages."""
    columns = ["cascade", f"{cost} / problem", "solved, %"]
    rows = [[named(point.cascade), f"{point.cost:.4g}", f"{100 * point.accuracy:.1f}"] for point in found.front]
    print_table(columns, rows, title=f"Front of the {found.searched} problems that were searched", numbers=columns[1:])
    percent = f"{100 * confidence:g} %"
    columns = ["on the other problems", f"{cost} / problem", f"solved, % [{percent} interval]", "the cascade is ahead by, points"]
    everything = sorted([found.measured, *found.alone], key=lambda each: (each is not found.measured, each.cost))
    rows = [[named(each.cascade), f"{each.cost:.4g}", str(each.solved), _ahead(each, found.measured)] for each in everything]
    print_table(columns, rows, title=f"The choice and its rivals, on {found.held_out} problems that were not searched", numbers=columns[1:])
    columns = ["stage of the choice", f"in the choice of how many of {RESAMPLES} resamples"]
    rows = [[_named(rung), str(kept)] for rung, kept in zip(found.best.cascade, found.kept, strict=True)]
    print_table(columns, rows, numbers=columns[1:])


def named(cascade: Cascade) -> str:
    """A cascade in one line."""
    return " → ".join(map(_named, cascade))


def _named(rung: Rung) -> str:
    return f"{rung.n} × {rung.variant}" + (f" if {rung.votes} agree" if rung.votes else "")


def _ahead(each: Measured, best: Measured) -> str:
    points = each.ahead
    return "-" if each is best else f"{100 * points.value:+.1f} [{100 * points.low:+.1f}, {100 * points.high:+.1f}]"


def as_dict(found: Findings) -> dict[str, Any]:
    """Plain JSON types."""
    return {
        "searched": found.searched,
        "held_out": found.held_out,
        "front": [_point(point) for point in found.front],
        "best": _point(found.best) | {"kept": found.kept, "resamples": RESAMPLES},
        "measured": _measured(found.measured),
        "alone": [_measured(each) for each in found.alone],
    }


def _point(point: Point) -> dict[str, Any]:
    return {"stages": [asdict(rung) for rung in point.cascade], "cost": point.cost, "accuracy": point.accuracy}


def _measured(each: Measured) -> dict[str, Any]:
    stages = [asdict(rung) for rung in each.cascade]
    return {"stages": stages, "cost": each.cost, "solved": asdict(each.solved), "ahead": asdict(each.ahead)}
