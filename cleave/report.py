"""`report.html` of an evaluation: figures, tables, sample traces, config and manifest in one file without links, so that it survives.

    cleave report runs/demo           # draws it again from traces.parquet

Whatever a model wrote is escaped by the template engine. Left out: reports of training runs.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from cleave.confidence import ConfidenceTable
from cleave.config.base import validate
from cleave.config.evaluate import EvaluateConfig
from cleave.config.task import TaskConfig
from cleave.console import say
from cleave.errors import ConfigError
from cleave.evaluation import Evaluation
from cleave.page import page
from cleave.runs import CONFIG, MANIFEST, METRICS, REPORT, RunFolder
from cleave.sample_tree import SampleTree, sample_tree
from cleave.selection import Options
from cleave.selection_table import SelectionTable
from cleave.tasks.registry import get_task
from cleave.tasks.task import Task
from cleave.traces import TRACES, ScoredTrace, read_traces

SAMPLES = 20
TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Results:
    """What is known of a finished run. `selections` compares selection rules where several solutions were sampled, else it is empty;
    `confidence` says how far confidences can be believed, of variants that state any."""

    evaluation: Evaluation
    selections: SelectionTable
    confidence: ConfidenceTable

    def rows(self) -> Iterator[dict[str, Any]]:
        """All figures as flat JSON rows."""
        yield from self.evaluation.rows()
        yield from self.selections.rows()
        yield from self.confidence.rows()


def main(run: Path | str, *, as_json: bool = False) -> int:
    """Draw the report of a finished run again; returns the exit code. Raises ConfigError where there is nothing to draw."""
    folder = RunFolder.at(str(run))
    results = write_results(folder)
    if as_json:
        print(json.dumps({"run": folder.location, "report": f"{folder.location}/{REPORT}", "traces": results.evaluation.problems}))
    else:
        say(f"wrote {folder.location}/{REPORT}")
    return 0


def write_results(folder: RunFolder, *, report: bool = True) -> Results:
    """Count a run's traces in one pass and write metrics.jsonl and, if wanted, report.html. Returns the figures."""
    config = read_config(folder)
    wanted = config.bootstrap
    variants = list(config.strategies())
    evaluation = Evaluation(variants, confidence=wanted.confidence, resamples=wanted.resamples, seed=wanted.seed)
    samples = Samples(variants)
    scorers = Scorers(config)
    selections = Selections(config, scorers)
    confidence = ConfidenceTable(variants, wanted.confidence)
    for row in read_traces(folder):
        evaluation.add(row)
        selections.add(row)
        confidence.add(row, scorers.of(row))
        samples.add(row)
    results = Results(evaluation, selections.table, confidence)
    folder.write_lines(METRICS, results.rows())
    if report:
        folder.write_text(REPORT, render(folder, config, results, [sample_tree(row) for row in samples.rows()]))
    return results


class Scorers:
    """Judges answers by the run's tasks, each loaded when it is first needed: most traces are scored already."""

    def __init__(self, config: EvaluateConfig) -> None:
        self._named = {share.title: share.task for share in config.tasks}
        self._tasks: dict[str, Task] = {}

    def of(self, row: ScoredTrace) -> Callable[[str], bool]:
        """What says whether an answer to a trace's problem is right."""
        return lambda answer: self._task(row.task).score(row.trace.problem, answer)

    def _task(self, title: str) -> Task:
        if title not in self._tasks:
            self._tasks[title] = get_task(self._named[title])
        return self._tasks[title]


class Selections:
    """Counts the selection rules of variants that sample several solutions."""

    def __init__(self, config: EvaluateConfig, scorers: Scorers) -> None:
        self._sampled = {name: strategy for name, strategy in config.strategies().items() if strategy.n > 1}
        self._scorers = scorers
        self.table = SelectionTable(config.bootstrap.confidence)

    def add(self, row: ScoredTrace) -> None:
        strategy = self._sampled.get(row.variant)
        if strategy is not None:
            options = Options(strategy.rerank_top_k, strategy.majority_top_n)
            self.table.add(row, self._scorers.of(row), strategy.n, options)


def read_config(folder: RunFolder) -> EvaluateConfig:
    """The config of a finished evaluation. Raises ConfigError."""
    if not folder.exists(CONFIG) or not folder.exists(TRACES):
        raise ConfigError(f"{folder.location} holds no finished evaluation; run `cleave evaluate CONFIG` (again, if it was stopped).")
    data = yaml.safe_load(folder.read_text(CONFIG))
    config = validate(EvaluateConfig, data if isinstance(data, dict) else {}, source=f"{folder.location}/{CONFIG}")
    shares = (share.model_copy(update={"task": _as_written(share.task)}) for share in config.tasks)
    return config.model_copy(update={"tasks": tuple(shares)})


def _as_written(task: TaskConfig) -> TaskConfig:
    """A task of a saved config, which names every option: those at their defaults count as left out, as they were before."""
    return TaskConfig.model_validate(task.model_dump(exclude_defaults=True))


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


def render(folder: RunFolder, config: EvaluateConfig, results: Results, samples: list[SampleTree]) -> str:
    """The page."""
    from cleave import confidence_figures, figures

    evaluation, confidence = results.evaluation, results.confidence
    manifest = json.loads(folder.read_text(MANIFEST)) if folder.exists(MANIFEST) else {}
    return page(
        TEMPLATE,
        name=config.name,
        config=config,
        strategies=config.strategies(),
        evaluation=evaluation,
        rows=list(results.rows()),
        samples=samples,
        figures={
            "by task": figures.accuracy_by_task(evaluation),
            "by depth": figures.accuracy_by_depth(evaluation),
            "tokens": figures.tokens_by_role(evaluation),
            "by samples": {variant: figures.accuracy_by_samples(results.selections, variant) for variant in results.selections.variants},
            "reliability": confidence_figures.reliability(confidence),
            "risk and coverage": confidence_figures.risk_coverage(confidence),
        },
        manifest=manifest,
        config_text=folder.read_text(CONFIG),
        manifest_text=json.dumps(manifest, indent=2, ensure_ascii=False),
    )
