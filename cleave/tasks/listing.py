"""What `cleave tasks list | show | export` do. Results go to stdout; the command line only passes its arguments on.

print_list(as_json=False)
print_show("gsm8k", split="test", limit=3, as_json=False)
export("arithmetic", "problems.parquet", split="train", limit=100_000, seed=1)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleave.console import Progress, print_table, progress
from cleave.errors import ConfigError, StorageError
from cleave.tasks import bbh
from cleave.tasks.folder import data_folder
from cleave.tasks.registry import FORMS, REFERENCE, get_task, names
from cleave.tasks.task import Task, check_split
from cleave.types import Problem, to_dict, to_json

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".jsonl", ".parquet")
ROWS_PER_WRITE = 1024
"""Problems held in memory while exporting."""


def list_tasks() -> list[dict[str, Any]]:
    """Every task that needs no argument, and the BIG-Bench Hard tasks that are here: name, description, splits, available."""
    return [_row(get_task(name)) for name in (*names(), *_bbh_names())]


def print_list(as_json: bool = False) -> None:
    """Print all tasks as a table, or as JSON lines."""
    rows = list_tasks()
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    print_table(
        ["task", "splits", "available", "what it is"],
        [(row["name"], _splits(row["splits"]), "yes" if row["available"] else "no", row["description"]) for row in rows],
    )
    print(f"Also: {', '.join(FORMS)}. Stored data sets are read from $CLEAVE_DATA.")


def print_show(name: str, split: str | None = None, limit: int = 3, as_json: bool = False, seed: int = 0) -> None:
    """Print some problems of a split (default: the task's first) with gold plan, steps and answer, or as JSON lines."""
    task = get_task(name)
    problems = task.problems(_chosen(task, split), limit, seed)
    if as_json:
        for problem in problems:
            print(to_json(problem))
        return
    print(f"{task.name}: {task.description}\nsplits: {_splits(dict(task.splits))}")
    for problem in problems:
        print(f"\n{written(problem)}")


def written(problem: Problem) -> str:
    """One problem for people."""
    lines = [f"[{problem.id}]" + (f" depth {problem.depth}" if problem.depth else ""), problem.text]
    if problem.gold_plan is not None:
        lines += ["plan:", *(f"  {line}" for line in problem.gold_plan.text.splitlines())]
    if problem.gold_steps:
        lines += ["steps:", *(f"  {step.id}. {step.text}" for step in problem.gold_steps)]
    if problem.skills:
        lines.append(f"skills: {', '.join(problem.skills)}")
    lines.append(f"answer: {'(not labelled)' if problem.answer is None else problem.answer}")
    return "\n".join(lines)


def export(name: str, file: str | Path, split: str | None = None, limit: int | None = None, seed: int = 0) -> int:
    """Write problems to a .jsonl or .parquet file, streaming; return their number. The file appears only when it is complete.

    Raises ConfigError for another suffix or a generated task without a limit, StorageError if the file cannot be written.
    """
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"cannot tell the format of {path}; name it .jsonl or .parquet.")
    task = get_task(name)
    chosen = _chosen(task, split)
    if limit is None and task.name in REFERENCE:
        raise ConfigError(f"{task.name} has no end; give the number of problems with --limit.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        written_rows = _write(task.problems(chosen, limit, seed), partial, path.suffix, limit or task.splits[chosen])
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path} ({error.strerror or error}); choose another place.") from error
    finally:
        partial.unlink(missing_ok=True)
    return written_rows


def _chosen(task: Task, split: str | None) -> str:
    chosen = split if split is not None else next(iter(task.splits))
    check_split(task, chosen)
    return chosen


def _write(problems: Iterator[Problem], path: Path, suffix: str, total: int | None) -> int:
    with progress("export", total) as bar:
        counted = _counted(problems, bar)
        return _write_jsonl(counted, path) if suffix == ".jsonl" else _write_parquet(counted, path)


def _counted(problems: Iterator[Problem], bar: Progress) -> Iterator[Problem]:
    for problem in problems:
        bar.advance()
        yield problem


def _write_jsonl(problems: Iterator[Problem], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for problem in problems:
            file.write(to_json(problem) + "\n")
            count += 1
    return count


def _write_parquet(problems: Iterator[Problem], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = _schema(), 0
    with pq.ParquetWriter(path, schema) as writer:
        while rows := [to_dict(problem) for problem in islice(problems, ROWS_PER_WRITE)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def _schema() -> pa.Schema:
    """The columns of an exported Problem; `parquet:FILE` reads them back with plan and steps."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    plan_step = pa.struct([("id", number), ("question", text), ("needs", pa.list_(number))])
    solution_step = pa.struct([("id", number), ("text", text), ("answer", text)])
    return pa.schema(
        [
            *((name, text) for name in ("id", "question", "context", "answer", "task")),
            ("skills", pa.list_(text)),
            ("depth", number),
            ("gold_plan", pa.struct([("steps", pa.list_(plan_step))])),
            ("gold_steps", pa.list_(solution_step)),
        ],
        metadata={"cleave.problems": "1"},
    )


def _row(task: Task) -> dict[str, Any]:
    return {"name": task.name, "description": task.description, "splits": dict(task.splits), "available": _is_available(task.name)}


def _is_available(name: str) -> bool:
    if name in REFERENCE:
        return True
    try:
        data_folder(name.partition(":")[0].removesuffix("-socratic"))
    except ConfigError:
        return False
    return True


def _bbh_names() -> list[str]:
    try:
        return [f"bbh:{kind}" for kind in bbh.names(data_folder("bbh"))]
    except ConfigError:
        return []


def _splits(splits: dict[str, int | None]) -> str:
    return ", ".join(name if size is None else f"{name} ({size:,})" for name, size in splits.items())
