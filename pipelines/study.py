"""`cleave study CONFIG`: collect a teacher's traces, train students on them, measure pairs of roles, print which part is worth distilling.

    python -m cleave study configs/studies/which_part.yaml

Every part is a run in the study's folder (collection, one training per student and seed, one evaluation per row and seed) by the
programs that also stand alone, so a stopped study goes on where it was. Left out: the figures (cleave/pair_table.py), the page
(cleave/pair_report.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from cleave.advice import advise
from cleave.config.base import dump
from cleave.config.study import StudyConfig
from cleave.config.study_students import StudyStudents
from cleave.console import print_table, say
from cleave.pair_report import render
from cleave.pair_table import EVERYTHING, Measured, PairRow, PairTable
from cleave.runs import CONFIG, MANIFEST, METRICS, REPORT, RunFolder
from pipelines import collect, evaluate, students
from pipelines.evaluation_summary import points
from pipelines.sizes import FREEZING_COLUMNS, SIZE_COLUMNS, freezing_lines, size_lines, sizes_of


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
    if config.collect is None or not any(config.student(name, config.seeds[0]).source == "collection" for name in config.students):
        return 0
    say("study: collect")
    return collect.main(config.collection(), quiet=True)


def train(config: StudyStudents) -> int:
    """Every student with every seed; those that start where others end come after them."""
    for names in config.generations():
        some = [config.student(name, seed) for name in names for seed in config.seeds_of(name)]
        if code := students.train(some):
            return code
    return 0


def measure(config: StudyConfig) -> int:
    """Every row, with every seed if a student plays in it."""
    trained = {seed: checkpoints(config, seed) for seed in config.seeds}
    for name in config.rows:
        for seed in config.row_seeds(name):
            say(f"study: measure {name}, seed {seed}")
            if code := evaluate.main(config.row(name, seed, trained[seed]), quiet=True):
                return code
    return 0


def checkpoints(config: StudyStudents, seed: int) -> dict[str, str]:
    """Where the checkpoints of the students that have this seed are."""
    found = {}
    for name in config.students:
        if seed in config.seeds_of(name):
            student = config.student(name, seed)
            folder = RunFolder.open(student.storage_path, student.name)
            found[name] = str(json.loads(folder.read_text("result.json"))["checkpoint"])
    return found


def table_of(config: StudyConfig) -> PairTable:
    """The figures of all rows."""
    table = PairTable(config.confidence)
    trained = {seed: checkpoints(config, seed) for seed in config.seeds}
    for name, row in config.rows.items():
        runs = [config.row(name, seed, trained[seed]) for seed in config.row_seeds(name)]
        measured = [Measured.read(RunFolder.open(run.storage_path, run.name)) for run in runs]
        table.add(name, {"decomposer": row.decomposer, "solver": row.solver}, measured, config.against(name))
    return table


def publish(config: StudyConfig, folder: RunFolder, *, as_json: bool) -> None:
    """Write metrics.jsonl and report.html, and show the table under one sentence of advice."""
    table = table_of(config)
    rows = {row.name: row for row in table.rows()}
    advice = advise({role: rows[name] for role, name in config.advice.items()}, config.tolerance, table.unit)
    figures = [as_figures(row, table.unit) for row in rows.values()]
    tables = size_tables(config, folder, rows.values(), figures) if config.sizes else {}
    folder.write_lines(METRICS, figures)
    folder.write_text(REPORT, render(config, folder, list(rows.values()), table.unit, advice, screening(config), tables))
    if as_json:
        print(json.dumps({"run": folder.location, "advice": advice, "unit": table.unit, "rows": figures}))
        return
    if advice:
        print(advice + "\n")
    tasks = sorted({task for row in rows.values() for task in row.by_task})
    columns = ["row", "n", "seeds", "all", *tasks, "difference", "p", "tokens", "cost", "decomposer", "solver"]
    print_table(columns, lines(rows.values(), tasks), title="Solved, %, and cost relative to the row compared with, %", numbers=columns[1:])
    for title, (heading, *found) in tables.items():
        print_table(heading, found, title=title, numbers=heading[2:])
    say(f"results are in {folder.location}/{REPORT}")


def size_tables(
    config: StudyConfig, folder: RunFolder, rows: Iterable[PairRow], figures: Iterable[dict[str, Any]]
) -> dict[str, list[list[str]]]:
    """Tables by title, heading first: the sizes of what rows differ in, which are added to their figures, and what gates came to."""
    sizes = sizes_of(config, folder, checkpoints(config, config.seeds[0]))
    for one in figures:
        role, player = config.part(one["row"])
        one |= {"part": role, "size": sizes[role].get(player)}
    tables = {"Size of what differs, and share of the baseline's": [SIZE_COLUMNS, *size_lines(config, rows, sizes)]}
    if gates := list(freezing_lines(config)):
        tables["Gates when they were frozen, on held-out examples"] = [FREEZING_COLUMNS, *gates]
    return tables


def lines(rows: Iterable[PairRow], tasks: list[str]) -> Iterator[list[str]]:
    """The printed table."""
    for row in rows:
        accuracies = [str(row.by_task[task]) if task in row.by_task else "-" for task in tasks]
        found = row.difference
        costs = [f"{100 * found.cost[role]:.0f}" if found and role in found.cost else "-" for role in (EVERYTHING, "decomposer", "solver")]
        compared = ["-", "-"] if found is None else [points(found.interval), f"{found.p:.3f}"]
        tokens = f"{row.total.tokens / row.asked:.0f}"
        yield [row.name, str(row.n), str(row.seeds), str(row.accuracy), *accuracies, *compared, tokens, *costs]


def as_figures(row: PairRow, unit: str | None) -> dict[str, Any]:
    """A row as plain JSON."""
    found = row.difference
    return {
        "kind": "pair",
        "row": row.name,
        **row.players,
        "n": row.n,
        "seeds": row.seeds,
        "accuracy": vars(row.accuracy),
        "by_task": {task: vars(interval) for task, interval in row.by_task.items()},
        "difference": None if found is None else {"against": found.against, "n": found.n, **vars(found.interval), "p": found.p},
        "relative_cost": {} if found is None else dict(found.cost),
        "unit": unit,
        "usage": {role: {name: value / row.asked for name, value in vars(used).items()} for role, used in row.usage.items()},
    }


def screening(config: StudyConfig) -> dict[str, Any]:
    """What became of the teacher's traces, by student that learned from them and by task."""
    found = {}
    for name in config.students:
        student = config.student(name, config.seeds[0])
        folder = RunFolder.open(student.storage_path, student.name)
        manifest = json.loads(folder.read_text(MANIFEST)) if folder.exists(MANIFEST) else {}
        if "screening" in manifest:
            found[name] = manifest["screening"]
    return found


def check(config: StudyConfig, *, as_json: bool) -> int:
    """What a study would do, for --dry-run."""
    trained = [config.student(name, seed) for name in config.students for seed in config.seeds_of(name)]
    trainings = len(trained)
    rows = sum(len(config.row_seeds(name)) for name in config.rows)
    tokens = sum(student.train.max_tokens or 0 for student in trained)
    plan = {"run": config.folder, "trainings": trainings, "training_tokens": tokens, "evaluations": rows}
    if as_json:
        print(json.dumps(plan | {"config": config.model_dump(mode="json")}))
    else:
        print(dump(config), end="")
        first = "collect once, " if config.collect else ""
        say(f"would {first}train {trainings} times on {tokens:,} tokens in all, and evaluate {rows} times into {config.folder}")
    return 0
