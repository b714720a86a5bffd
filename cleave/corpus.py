"""Texts to count n-grams in, or to take prefixes from: files and task splits, streamed.

    texts(["notes.txt", "web.jsonl", "task:arithmetic/train"], limit=20_000)

NAME.txt: a text per paragraph, which blank lines separate. NAME.jsonl: a text per row, in the field `field`. task:NAME/SPLIT: the gold plan
and the gold solution of each problem as a prompt set of plain text writes them, prompt and reply together: what the roles read and write.
Left out: tokens (ngram_counts.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

from cleave.errors import ConfigError, DataError
from cleave.prompts import PromptSet, load_prompts
from cleave.tasks.registry import REFERENCE, get_task
from cleave.tasks.rows import read_jsonl
from cleave.tasks.task import Task, check_split
from cleave.types import Problem

TASK = "task:"


def texts(sources: Sequence[str], *, limit: int | None = None, field: str = "text", prompts: str = "reference-v1") -> Iterator[str]:
    """The texts of all sources in turn, at most `limit` texts or problems of each.

    Raises ConfigError for a source that cannot be, before any is read, DataError for a file that cannot be read.
    """
    if not sources:
        raise ConfigError("there are no texts; name a .txt or .jsonl file, or task:NAME/SPLIT.")
    return _chained([_reader(source, limit, field, prompts) for source in sources])


def problem_texts(problem: Problem, prompts: PromptSet) -> list[str]:
    """A problem as the roles see it: with its plan, and with its solution; the bare question where both are unknown."""
    found = []
    if problem.gold_plan is not None:
        found.append(_joined(prompts.decompose(problem).text, prompts.decompose_target(problem.gold_plan)))
    if problem.gold_steps and problem.answer is not None:
        prompt = prompts.solve(problem, "steps", problem.gold_plan)
        found.append(_joined(prompt.text, prompts.solve_target(problem.gold_steps, problem.answer)))
    return found or [_joined(problem.text, f"\n{problem.answer}" if problem.answer is not None else "")]


def _reader(source: str, limit: int | None, field: str, prompts: str) -> Iterator[str]:
    if source.startswith(TASK):
        return _problems(source, limit, prompts)
    path = Path(source).expanduser()
    if path.suffix not in (".txt", ".jsonl"):
        raise ConfigError(f"{source} is no source of texts; give a .txt or .jsonl file, or task:NAME/SPLIT.")
    if not path.is_file():
        raise ConfigError(f"there is no file {source}; check the path.")
    if path.suffix == ".txt":
        return islice(_paragraphs(path), limit)
    return (row.text(field) for row in islice(read_jsonl(path), limit))


def _problems(source: str, limit: int | None, name: str) -> Iterator[str]:
    task, split = _task_and_split(source)
    if limit is None and task.name in REFERENCE:
        raise ConfigError(f"{source} has no end; give the number of problems with --limit.")
    prompts = load_prompts(name)
    if prompts.kind != "text":
        raise ConfigError(f"the prompts {name} are chat messages and no text to count; use a set of plain text such as reference-v1.")
    return (text for problem in task.problems(split, limit) for text in problem_texts(problem, prompts))


def _task_and_split(source: str) -> tuple[Task, str]:
    name, slash, split = source.removeprefix(TASK).rpartition("/")
    if not slash:
        raise ConfigError(f"{source} names no split; write task:NAME/SPLIT, such as task:arithmetic/train.")
    task = get_task(name)
    check_split(task, split)
    return task, split


def _paragraphs(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            for is_blank, group in groupby(lines, key=lambda line: not line.strip()):
                if not is_blank:
                    yield "".join(group)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}); check its permissions.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save the file as UTF-8.") from error


def _joined(prompt: str | None, reply: str) -> str:
    return (prompt or "") + reply


def _chained(readers: Sequence[Iterator[str]]) -> Iterator[str]:
    for reader in readers:
        yield from reader
