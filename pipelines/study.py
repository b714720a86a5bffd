"""`cleave study CONFIG`: collect a teacher's traces, train students on them, measure pairs of roles, print which part is worth distilling.

    python -m cleave study configs/studies/which_part.yaml

Every part is a run in the study's folder (collection, one training per student and seed, one evaluation per row and seed) by the
programs that also stand alone, so a stopped study goes on where it was. Left out: the figures (cleave/pair_table.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from cleave.config.base import dump
from cleave.config.study import StudyConfig
from cleave.console import print_table, say
from cleave.pair_table import Measured, PairRow, PairTable
from cleave.runs import CONFIG, METRICS, RunFolder
from pipelines import collect, distill, evaluate
from pipelines.evaluation_summary import points


def main(config: StudyConfig, *, dry_run: bool = False, as_json: bool = False) -> int:
    """Run, or go on with, a study; returns the exit code. Raises CleaveError for what the user has to put right."""
    if dry_run:
        return check(config, as_json=as_json)
    folder = RunFolder.open(config.storage_path, config.name)
    folder.prepare()
    folder.write_text(CONFIG, dump(config))
    code = gather(config) or train(config) or measure(config)
    if code:
        return code
    publish(config, folder, as_json=as_json)
    return 0


def gather(config: StudyConfig) -> int:
    """The teacher's traces, if a student learns from them."""
    if not any(config.student(name, config.seeds[0]).source == "collection" for name in config.students):
        return 0
    say("study: collect")
    return collect.main(config.collection(), quiet=True)


def train(config: StudyConfig) -> int:
    """Every student with every seed."""
    for seed in config.seeds:
        for name in config.students:
            say(f"study: train {name}, seed {seed}")
            if code := distill.main(config.student(name, seed), quiet=True):
                return code
    return 0


def measure(config: StudyConfig) -> int:
    """Every row, with every seed if a student plays in it."""
    for name in config.rows:
        for seed in seeds_of(config, name):
            say(f"study: measure {name}, seed {seed}")
            if code := evaluate.main(config.row(name, seed, checkpoints(config, seed)), quiet=True):
                return code
    return 0


def seeds_of(config: StudyConfig, row: str) -> tuple[int, ...]:
    """The seeds that a row is measured with: one is enough where nothing was trained."""
    return config.seeds if config.depends_on_seed(row) else config.seeds[:1]


def checkpoints(config: StudyConfig, seed: int) -> dict[str, str]:
    """Where the students' checkpoints are."""
    found = {}
    for name in config.students:
        student = config.student(name, seed)
        folder = RunFolder.open(student.storage_path, student.name)
        found[name] = str(json.loads(folder.read_text("result.json"))["checkpoint"])
    return found


def table_of(config: StudyConfig) -> PairTable:
    """The figures of all rows."""
    table = PairTable(config.baseline, config.confidence)
    for name, row in config.rows.items():
        runs = [config.row(name, seed, checkpoints(config, seed)) for seed in seeds_of(config, name)]
        measured = [Measured.read(RunFolder.open(run.storage_path, run.name)) for run in runs]
        table.add(name, row.decomposer, row.solver, measured)
    return table


def publish(config: StudyConfig, folder: RunFolder, *, as_json: bool) -> None:
    """Write metrics.jsonl and show the table."""
    table = table_of(config)
    rows = list(table.rows())
    figures = [as_figures(table, row) for row in rows]
    folder.write_lines(METRICS, figures)
    if as_json:
        print(json.dumps({"run": folder.location, "rows": figures}))
        return
    tasks = sorted({task for row in rows for task in row.by_task})
    columns = ["row", "n", "seeds", "all", *tasks, f"against {config.baseline}", "tokens", "cost", "decomposer", "solver"]
    print_table(columns, lines(table, rows, tasks), title="Solved, %, and cost relative to the baseline, %", numbers=columns[1:])
    say(f"results are in {folder.location}/{METRICS}")


def lines(table: PairTable, rows: list[PairRow], tasks: list[str]) -> Iterator[list[str]]:
    """The printed table."""
    for row in rows:
        accuracies = [str(row.by_task[task]) if task in row.by_task else "-" for task in tasks]
        tokens = row.total.prompt_tokens + row.total.completion_tokens
        costs = [table.relative_cost(row, role) for role in (None, "decomposer", "solver")]
        shown = ["-" if cost is None else f"{100 * cost:.0f}" for cost in costs]
        against = "-" if row.difference is None else points(row.difference)
        yield [row.name, str(row.n), str(row.seeds), str(row.accuracy), *accuracies, against, f"{tokens:.0f}", *shown]


def as_figures(table: PairTable, row: PairRow) -> dict[str, object]:
    """A row as plain JSON."""
    return {
        "kind": "pair",
        "row": row.name,
        "decomposer": row.decomposer,
        "solver": row.solver,
        "n": row.n,
        "seeds": row.seeds,
        "accuracy": vars(row.accuracy),
        "by_task": {task: vars(interval) for task, interval in row.by_task.items()},
        "difference": None if row.difference is None else vars(row.difference),
        "cost": {role: vars(cost) for role, cost in row.cost.items()},
        "relative_cost": {role or "all": table.relative_cost(row, role) for role in (None, "decomposer", "solver")},
    }


def check(config: StudyConfig, *, as_json: bool) -> int:
    """What a study would do, for --dry-run."""
    trainings = len(config.students) * len(config.seeds)
    rows = sum(len(seeds_of(config, name)) for name in config.rows)
    tokens = sum(config.student(name, seed).train.max_tokens or 0 for name in config.students for seed in config.seeds)
    plan = {"run": config.folder, "trainings": trainings, "training_tokens": tokens, "evaluations": rows}
    if as_json:
        print(json.dumps(plan | {"config": config.model_dump(mode="json")}))
    else:
        print(dump(config), end="")
        say(f"would collect once, train {trainings} times on {tokens:,} tokens in all, and evaluate {rows} times into {config.folder}")
    return 0
