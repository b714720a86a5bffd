"""What an evaluation shows at its end: tables on stdout (or JSON), metrics.jsonl and report.html in the run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cleave.confidence import TARGETS, ConfidenceTable
from cleave.config.base import dump
from cleave.config.evaluate import EvaluateConfig
from cleave.console import print_table, say
from cleave.evaluation import OVERALL, By, Evaluation, Tally
from cleave.intervals import Interval, wilson
from cleave.report import write_results
from cleave.runs import METRICS, REPORT
from cleave.selection_table import BASE, SelectionTable
from pipelines.evaluation_folder import EvaluationFolder
from pipelines.samples import RecordedWorkload
from pipelines.workload import Workload

MESSAGE_WIDTH = 90
MOST_TARGETS = 3
"""Lines per variant on what abstaining would bring."""


def publish(config: EvaluateConfig, run: EvaluationFolder, *, as_json: bool, quiet: bool = False) -> None:
    """Count the finished traces, write metrics and report, and show the figures unless `quiet`."""
    results = write_results(run.folder, report=config.report)
    if as_json:
        figures = list(results.rows())
        print(json.dumps({"run": run.folder.location, "traces": results.evaluation.problems, "figures": figures}, ensure_ascii=False))
    elif not quiet:
        print_summary(results.evaluation)
        print_selections(results.selections)
        print_confidence(results.confidence, results.evaluation)
    say(f"results are in {run.folder.location}/{REPORT if config.report else METRICS}")


def print_summary(evaluation: Evaluation) -> None:
    """Tables of accuracy, differences, cost and failures."""
    percent = f"{100 * evaluation.confidence:g} %"
    columns = ["problems", "n", *evaluation.variants]
    print_table(columns, accuracy_rows(evaluation), title=f"Solved, % [{percent} interval]", numbers=columns[1:])
    if len(evaluation.variants) > 1:
        columns = ["difference", "problems", "n", f"points [{percent} interval]"]
        print_table(columns, difference_rows(evaluation), title="Paired differences", numbers=columns[2:])
    columns = ["variant", "role", "calls", "tokens in", "tokens out", "tokens / problem", "model s / problem", "TFLOP", "price"]
    print_table(columns, cost_rows(evaluation), title="Cost", numbers=columns[2:])
    if evaluation.failures:
        columns = ["variant", "role", "failure", "problems", "unsolved", "for example"]
        print_table(columns, failure_rows(evaluation), title="Failures", numbers=columns[3:5])


def print_selections(table: SelectionTable) -> None:
    """For each variant that samples: every rule on the same samples, by their number."""
    for variant in table.variants:
        sizes = table.sizes(variant)
        columns = ["rule", *(f"n = {n}" for n in sizes), "points above majority"]
        title = f"Solved by selection rule, %: {variant}" if len(table.variants) > 1 else "Solved by selection rule, %"
        print_table(columns, selection_rows(table, variant), title=title, numbers=columns[1:])


def print_confidence(table: ConfidenceTable, evaluation: Evaluation) -> None:
    """How far confidences can be believed, and thresholds that would make answers more often right; nothing without confidences."""
    percent = f"{100 * table.level:g} %"
    if table.variants:
        columns = ["variant", "answers", "mean confidence, %", f"right, % [{percent} interval]", "ECE", "Brier", "AUC"]
        print_table(columns, confidence_rows(table), title="How far confidences can be believed", numbers=columns[1:])
    if rows := list(abstention_rows(table, evaluation)):
        columns = ["variant", "right, at least %", "abstain_below", "answered, %", f"right, % [{percent} interval]"]
        title = "What abstaining would bring (choose the threshold on a validation split)"
        print_table(columns, rows, title=title, numbers=columns[1:])


def confidence_rows(table: ConfidenceTable) -> Iterator[list[str]]:
    """A row per variant that states confidences."""
    for row in table.rows():
        if row["kind"] == "confidence":
            right = str(Interval(row["accuracy"], row["low"], row["high"]))
            auc = "-" if row["auc"] is None else f"{row['auc']:.3f}"
            yield [row["variant"], str(row["n"]), f"{100 * row['mean']:.1f}", right, f"{row['ece']:.3f}", f"{row['brier']:.3f}", auc]


def abstention_rows(table: ConfidenceTable, evaluation: Evaluation) -> Iterator[list[str]]:
    """A row per variant and target that its answers do not meet as they are and some threshold does."""
    for variant in table.variants:
        present = evaluation.tally(variant).precision().value
        wanted = [target for target in TARGETS if not present >= target]  # with no answers at all, present is nan
        found = [(target, reached) for target in wanted if (reached := table[variant].threshold_for(target)) is not None]
        for target, reached in found[:MOST_TARGETS]:
            yield [
                variant,
                f"{100 * target:g}",
                f"{reached.abstain_below:g}",
                f"{100 * reached.coverage:.1f}",
                str(reached.precision(table.level)),
            ]


def selection_rows(table: SelectionTable, variant: str) -> Iterator[list[str]]:
    """A row per rule and oracle; the difference is at the most samples."""
    sizes = table.sizes(variant)
    for rule in table.rules(variant):
        shares = (f"{100 * table.interval(variant, rule, n).value:.1f}" for n in sizes)
        yield [rule, *shares, "-" if rule == BASE else points(table.ahead(variant, rule, sizes[-1]))]


def accuracy_rows(evaluation: Evaluation) -> Iterator[list[str]]:
    """A row per group of problems, a column per variant."""
    groups: list[tuple[str, By, str]] = [("all", "overall", OVERALL)]
    if len(evaluation.keys("task")) > 1:
        groups += [(task, "task", task) for task in evaluation.keys("task")]
    groups += [(f"depth {depth}", "depth", depth) for depth in evaluation.keys("depth")]
    for name, by, key in groups:
        tallies = [evaluation.tally(variant, by, key) for variant in evaluation.variants]
        yield [name, _range([tally.n for tally in tallies]), *(_cell(tally, evaluation.confidence) for tally in tallies)]
    tallies = [evaluation.tally(variant) for variant in evaluation.variants]
    if any(tally.abstained for tally in tallies):
        yield [
            "answered",
            _range([tally.n for tally in tallies]),
            *(str(wilson(tally.answered, tally.n, evaluation.confidence)) for tally in tallies),
        ]
        yield [
            "right if answered",
            _range([tally.answered for tally in tallies]),
            *(_precision(tally, evaluation.confidence) for tally in tallies),
        ]
    yield ["all, lenient rule", _range([tally.n for tally in tallies]), *(_lenient(tally) for tally in tallies)]


def difference_rows(evaluation: Evaluation) -> Iterator[list[str]]:
    """A row per pair of variants and group of problems."""
    for found in evaluation.differences():
        yield [f"{found.a} - {found.b}", found.task, str(found.pairs.n), points(found.interval) if found.pairs.n else "-"]


def cost_rows(evaluation: Evaluation) -> Iterator[list[str]]:
    """A row per variant and role."""
    for variant, cost in evaluation.costs.items():
        for role, usage in cost.asked.items():
            many = max(1, cost.problems)
            yield [
                variant,
                role,
                f"{usage.calls:,}",
                f"{usage.prompt_tokens:,}",
                f"{usage.completion_tokens:,}",
                f"{usage.tokens / many:.1f}",
                f"{usage.seconds / many:.4f}",
                f"{usage.flops / 1e12:.3f}",
                f"{usage.price:.4f}" if usage.price else "-",
            ]


def failure_rows(evaluation: Evaluation) -> Iterator[list[str]]:
    """A row per variant, role and type of failure, commonest first."""
    for (variant, kind, role), failures in sorted(evaluation.failures.items(), key=lambda entry: -entry[1].count):
        message = " ".join(failures.message.split())
        short = message if len(message) <= MESSAGE_WIDTH else message[: MESSAGE_WIDTH - 1] + "…"
        yield [variant, role or "-", kind, str(failures.count), str(failures.unsolved), short]


def print_plan(config: EvaluateConfig, workload: Workload | RecordedWorkload, *, as_json: bool) -> None:
    """What a run would do, for --dry-run: nothing is loaded, started or written."""
    plan: dict[str, Any] = {
        "run": f"{config.storage_path.rstrip('/')}/{config.name}",
        "backend": config.backend,
        "tasks": workload.sizes(),
        "variants": {name: strategy.strategy for name, strategy in workload.strategies.items()},
        "traces": workload.total,
    }
    if as_json:
        print(json.dumps(plan | {"config": config.model_dump(mode="json")}, ensure_ascii=False))
        return
    print(dump(config), end="")
    tasks = ", ".join(f"{size if size is not None else 'all'} {label}" for label, size in plan["tasks"].items())
    say(f"would ask {tasks} under {', '.join(plan['variants'])} into {plan['run']} ({plan['traces'] or 'an unknown number of'} traces)")


def points(interval: Interval) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _cell(tally: Tally, confidence: float) -> str:
    return str(tally.accuracy(confidence)) if tally.n else "-"


def _precision(tally: Tally, confidence: float) -> str:
    return str(tally.precision(confidence)) if tally.answered else "-"


def _lenient(tally: Tally) -> str:
    return f"{100 * tally.lenient / tally.n:.1f}" if tally.n else "-"


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{high}" if low == high else f"{low}-{high}"
