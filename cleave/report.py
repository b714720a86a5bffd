"""`report.html` of an evaluation: figures, tables, sample traces, config and manifest in one file without links, so that it survives.

    cleave report runs/demo           # draws it again from traces.parquet

Whatever a model wrote is escaped by the template engine. Left out: reports of training runs.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import yaml

from cleave.config.base import validate
from cleave.config.evaluate import EvaluateConfig
from cleave.console import say
from cleave.errors import ConfigError
from cleave.evaluation import Evaluation
from cleave.page import page
from cleave.runs import CONFIG, MANIFEST, METRICS, REPORT, RunFolder
from cleave.sample_tree import SampleTree, sample_tree
from cleave.traces import TRACES, ScoredTrace, read_traces

SAMPLES = 20
TEMPLATE = "report.html.j2"


def main(run: Path | str, *, as_json: bool = False) -> int:
    """Draw the report of a finished run again; returns the exit code. Raises ConfigError where there is nothing to draw."""
    folder = RunFolder.at(str(run))
    evaluation = write_results(folder)
    if as_json:
        print(json.dumps({"run": folder.location, "report": f"{folder.location}/{REPORT}", "traces": evaluation.problems}))
    else:
        say(f"wrote {folder.location}/{REPORT}")
    return 0


def write_results(folder: RunFolder, *, report: bool = True) -> Evaluation:
    """Count a run's traces in one pass and write metrics.jsonl and, if wanted, report.html. Returns the figures."""
    config = read_config(folder)
    wanted = config.bootstrap
    variants = list(config.strategies())
    evaluation = Evaluation(variants, confidence=wanted.confidence, resamples=wanted.resamples, seed=wanted.seed)
    samples = Samples(variants)
    for row in read_traces(folder):
        evaluation.add(row)
        samples.add(row)
    folder.write_lines(METRICS, evaluation.rows())
    if report:
        folder.write_text(REPORT, render(folder, config, evaluation, [sample_tree(row) for row in samples.rows()]))
    return evaluation


def read_config(folder: RunFolder) -> EvaluateConfig:
    """The config of a finished evaluation. Raises ConfigError."""
    if not folder.exists(CONFIG) or not folder.exists(TRACES):
        raise ConfigError(f"{folder.location} holds no finished evaluation; run `cleave evaluate CONFIG` (again, if it was stopped).")
    data = yaml.safe_load(folder.read_text(CONFIG))
    return validate(EvaluateConfig, data if isinstance(data, dict) else {}, source=f"{folder.location}/{CONFIG}")


class Samples:
    """A few traces of every variant, half of them unsolved if there are, chosen by a hash: the same ones in whatever order traces come."""

    def __init__(self, variants: Sequence[str], size: int = SAMPLES) -> None:
        self._each = max(2, size // max(1, len(variants)))
        self._heaps: dict[str, dict[bool, list[tuple[int, int, ScoredTrace]]]] = {variant: {False: [], True: []} for variant in variants}
        self._serial = 0

    def add(self, row: ScoredTrace) -> None:
        heap = self._heaps[row.variant][row.outcome == "right"]
        self._serial += 1
        # Problems are drawn by their own hash, so that variants tend to show the same ones.
        rank = int.from_bytes(sha256(f"{row.task}/{row.index}".encode("utf-8", "replace")).digest()[:8])
        heapq.heappush(heap, (-rank, self._serial, row))
        if len(heap) > self._each:
            heapq.heappop(heap)

    def rows(self) -> list[ScoredTrace]:
        """The chosen traces, by variant, unsolved ones first."""
        chosen: list[ScoredTrace] = []
        for heaps in self._heaps.values():
            unsolved, solved = ([row for _, _, row in sorted(heap, reverse=True)] for heap in (heaps[False], heaps[True]))
            half = max(self._each // 2, self._each - len(solved))
            chosen += unsolved[:half] + solved[: self._each - len(unsolved[:half])]
        return chosen


def render(folder: RunFolder, config: EvaluateConfig, evaluation: Evaluation, samples: list[SampleTree]) -> str:
    """The page."""
    from cleave import figures

    manifest = json.loads(folder.read_text(MANIFEST)) if folder.exists(MANIFEST) else {}
    return page(
        TEMPLATE,
        name=config.name,
        config=config,
        strategies=config.strategies(),
        evaluation=evaluation,
        rows=list(evaluation.rows()),
        samples=samples,
        figures={
            "by task": figures.accuracy_by_task(evaluation),
            "by depth": figures.accuracy_by_depth(evaluation),
            "tokens": figures.tokens_by_role(evaluation),
        },
        manifest=manifest,
        config_text=folder.read_text(CONFIG),
        manifest_text=json.dumps(manifest, indent=2, ensure_ascii=False),
    )
