"""`cleave compare OLD NEW`: two finished evaluations on the same problems, and whether the new version may replace the old one.

Shows per task what is won and lost (flips.py) and what a problem costs, and names the problems that only the old version solves.
With --max-nfr or --min-gain it refuses an upgrade beyond them (exit code 1). Left out: running the evaluations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cleave.agreement import Agreement
from cleave.config.evaluate import EvaluateConfig
from cleave.console import print_table, say
from cleave.errors import ConfigError
from cleave.flips import Flips
from cleave.report import read_config
from cleave.runs import RunFolder
from cleave.tasks.scoring import equal
from cleave.traces import TRACES, read_rows

SHOWN = 10
COLUMNS = ("variant", "task", "index", "problem_id", "problem_key", "question", "gold", "answer", "outcome")
COSTS = ("prompt_tokens", "completion_tokens", "model_seconds", "price")
ALL = "all"

Problem = tuple[str, int]
"""Task and index."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """How much worse, or how different, an upgrade may be, as shares; None: any amount."""

    max_nfr: float | None = None
    min_gain: float | None = None
    max_changed: float | None = None

    def broken_by_agreement(self, agreement: Agreement) -> list[str]:
        """Which limits are exceeded on requests without a known answer; nothing of none."""
        broken = []
        if self.max_nfr is not None and agreement.lost_share > self.max_nfr:
            broken.append(
                f"{100 * agreement.lost_share:.1f} % of the requests have no answer any more, at most {100 * self.max_nfr:g} % may"
            )
        if self.max_changed is not None and agreement.changed_share > self.max_changed:
            shares = f"{100 * agreement.changed_share:.1f} % of the requests", f"at most {100 * self.max_changed:g} % may"
            broken.append(f"{shares[0]} have another answer or none, {shares[1]}")
        return broken

    def broken_by(self, flips: Flips) -> list[str]:
        """Which limits are exceeded, in words."""
        broken = []
        if self.max_nfr is not None and flips.nfr > self.max_nfr:
            broken.append(f"{100 * flips.nfr:.1f} % of the problems are lost, at most {100 * self.max_nfr:g} % may be")
        if self.min_gain is not None and (gain := flips.gain().value) < self.min_gain:
            broken.append(f"the gain is {100 * gain:+.1f} points, at least {100 * self.min_gain:+g} are asked for")
        return broken


@dataclass
class Comparison:
    """Flips by task and over `all`, the mean cost of a problem by version, and the rows (old, new) of the problems lost."""

    tasks: dict[str, Flips] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    lost: list[tuple[Row, Row]] = field(default_factory=list)


def main(
    old: Path | str,
    new: Path | str,
    *,
    variant: str | None = None,
    max_nfr: float | None = None,
    min_gain: float | None = None,
    as_json: bool = False,
) -> int:
    """Compare, show and judge; the exit code is 1 for an upgrade beyond the limits. Limits are in percent and points."""
    limits = Limits(*(None if limit is None else limit / 100 for limit in (max_nfr, min_gain)))
    folders = (RunFolder.at(str(old)), RunFolder.at(str(new)))
    configs = (read_config(folders[0]), read_config(folders[1]))
    found = compare(rows_of(folders[0], configs[0], variant), rows_of(folders[1], configs[1], variant))
    broken = limits.broken_by(found.tasks[ALL])
    if as_json:
        print(json.dumps(as_dict(found) | {"refused": broken}, ensure_ascii=False))
    else:
        show(found, configs[0].bootstrap.confidence)
    for reason in broken:
        say(f"refused: {reason}.")
    return 1 if broken else 0


def rows_of(folder: RunFolder, config: EvaluateConfig, variant: str | None) -> Iterator[Row]:
    """The rows of one variant. Raises ConfigError where it is not clear which."""
    known = list(config.strategies())
    if variant is None and len(known) > 1:
        raise ConfigError(f"{folder.location} holds {', '.join(known)}; choose one of them by --variant.")
    if variant is not None and variant not in known:
        raise ConfigError(f"{folder.location} has no variant {variant!r}; it holds {', '.join(known)}.")
    wanted = variant or known[0]
    return (row for row in read_rows(folder, [TRACES], [*COLUMNS, *COSTS]) if row["variant"] == wanted)


def compare(old: Iterator[Row], new: Iterator[Row]) -> Comparison:
    """Pair the rows by problem. Problems that only one version was asked are left out, with a word. Raises ConfigError where none is shared
    or one stands for another problem in the other run."""
    before: dict[Problem, Row] = {(row["task"], row["index"]): row for row in old}
    found, alone, sums = Comparison(), 0, _Sums()
    for row in new:
        earlier = before.pop((row["task"], row["index"]), None)
        if earlier is None:
            alone += 1
            continue
        if earlier["problem_key"] != row["problem_key"]:
            raise ConfigError(f"{row['task']} {row['index']} is another problem in the other run; compare runs of the same tasks and seed.")
        _count(found, earlier, row)
        sums.add(earlier, row)
    if not found.tasks:
        raise ConfigError("the two runs share no problem; compare runs of the same tasks, split and seed.")
    if before or alone:
        say(f"{len(before)} problems of the old run and {alone} of the new one are left out: the other was not asked them.")
    found.costs = sums.means()
    found.tasks = {ALL: found.tasks.pop(ALL)} | dict(sorted(found.tasks.items()))
    return found


def _count(found: Comparison, old: Row, new: Row) -> None:
    rights = {"old_right": old["outcome"] == "right", "new_right": new["outcome"] == "right"}
    same = _same(old["answer"], new["answer"])
    for task in (ALL, new["task"]):
        found.tasks.setdefault(task, Flips()).add(**rights, same=same)
    if rights["old_right"] and not rights["new_right"]:
        found.lost.append((old, new))


def _same(old: str | None, new: str | None) -> bool:
    return old is None and new is None if old is None or new is None else equal(old, new)


class _Sums:
    """Costs of the problems that both versions were asked."""

    def __init__(self) -> None:
        self._n, self._sums = 0, {version: dict.fromkeys(COSTS, 0.0) for version in ("old", "new")}

    def add(self, old: Row, new: Row) -> None:
        self._n += 1
        for version, row in (("old", old), ("new", new)):
            for cost in COSTS:
                self._sums[version][cost] += row[cost] or 0

    def means(self) -> dict[str, dict[str, float]]:
        return {version: {cost: total / self._n for cost, total in costs.items()} for version, costs in self._sums.items()}


def as_dict(found: Comparison) -> dict[str, Any]:
    """What --json prints: shares, not percent; intervals as [value, low, high]."""
    return {
        "tasks": {task: asdict(flips) | _measures(flips) for task, flips in found.tasks.items()},
        "costs": found.costs,
        "lost": [
            {"problem": new["problem_id"], "question": new["question"], "gold": new["gold"], "old": old["answer"], "new": new["answer"]}
            for old, new in found.lost
        ],
    }


def _measures(flips: Flips) -> dict[str, Any]:
    gain = flips.gain()
    return {"nfr": flips.nfr, "nfr_mc": flips.nfr_mc, "p_value": flips.p_value, "gain": [gain.value, gain.low, gain.high]}


def show(found: Comparison, confidence: float) -> None:
    """Print the tables."""
    columns = ("task", "n", "old %", "new %", "gain", "won", "lost", "NFR %", "NFR_mc %", "p")
    rows = [
        (task, f.n, f.old(confidence), f.new(confidence), f.gain(confidence=confidence), f.won, f.lost, *_percents(f))
        for task, f in found.tasks.items()
    ]
    print_table(columns, rows, numbers=columns[1:], title="Upgrade, on the same problems")
    print_table(
        ("per problem", "old", "new"),
        [(cost, *(f"{found.costs[v][cost]:.4g}" for v in ("old", "new"))) for cost in COSTS],
        numbers=("old", "new"),
    )
    lost = [(new["problem_id"], new["gold"], old["answer"], new["answer"]) for old, new in found.lost[:SHOWN]]
    if lost:
        more = f", the first {SHOWN} of {len(found.lost)}" if len(found.lost) > SHOWN else ""
        print_table(("problem", "gold", "old", "new"), lost, title=f"Lost{more} (all: --json)")


def _percents(flips: Flips) -> tuple[str, str, str]:
    return f"{100 * flips.nfr:.1f}", f"{100 * flips.nfr_mc:.1f}", f"{flips.p_value:.2g}"
