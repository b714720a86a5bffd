"""Traces on disk: one Parquet row per (variant, problem), flat columns for tables and the whole Trace as JSON for everything else.

While a program runs, rows go to small shard files, each complete once it exists; at the end `merge` streams them into one file. A
reader never holds more than one batch. Rows are in order of completion. Left out: when to write (pipelines/) and what the
rows mean together (evaluation.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from cleave.errors import Abstained, StorageError
from cleave.runs import RunFolder
from cleave.types import Problem, Trace, from_json, to_dict, to_json

TRACES = "traces.parquet"
SHARDS = "shards"
VERSION = "2"
BATCH_ROWS = 512
READERS = 16
AHEAD = 4 * READERS
"""Files whose columns are in memory at once."""

Outcome = Literal["right", "wrong", "failed", "abstained", "unjudged", "unlabelled"]

SCHEMA = pa.schema(
    [
        ("variant", pa.string()),
        ("task", pa.string()),
        ("index", pa.int64()),
        ("problem_id", pa.string()),
        ("problem_key", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),
        ("depth", pa.int32()),
        ("skills", pa.list_(pa.string())),
        ("strategy", pa.string()),
        ("seed", pa.int64()),
        ("answer", pa.string()),
        ("confidence", pa.float64()),
        ("outcome", pa.string()),
        ("correct", pa.bool_()),
        ("lenient", pa.bool_()),
        ("error_type", pa.string()),
        ("error_role", pa.string()),
        ("error_message", pa.string()),
        ("calls", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("model_seconds", pa.float64()),
        ("flops", pa.float64()),
        ("price", pa.float64()),
        ("wall_seconds", pa.float64()),
        ("trace", pa.string()),
    ],
    metadata={"cleave.traces": VERSION},
)


@dataclass(frozen=True)
class ScoredTrace:
    """A trace with its place in the run and its score. Produced by pipelines, consumed by evaluation and reports.

    `task` is the task's label in the config, `index` the problem's position in that task's stream. `correct` (strict rule) and
    `lenient` are None where the problem has no gold answer.
    """

    variant: str
    task: str
    index: int
    trace: Trace
    correct: bool | None = None
    lenient: bool | None = None

    @property
    def outcome(self) -> Outcome:
        """right or wrong where there is an answer, whatever else went wrong.

        abstained: an answer was withheld; failed: an error and no answer; unjudged: the verifier's error and no answer;
        unlabelled: no gold answer to compare with.
        """
        error = self.trace.error if self.trace.answer is None else None
        if error is not None and error.type == Abstained.__name__ and self.correct is not None:
            return "abstained"
        if error is not None and error.role == "verifier":
            return "unjudged"
        if self.correct is None:
            return "unlabelled"
        if error is not None:
            return "failed"
        return "right" if self.correct else "wrong"


def problem_key(problem: Problem) -> str:
    """Sixteen hexadecimal digits for what a problem asks and what answer counts: two problems of one key are the same problem."""
    content = json.dumps([problem.id, problem.context, problem.question, problem.answer])
    return blake2b(content.encode(), digest_size=8).hexdigest()


def write_traces(folder: RunFolder, name: str, rows: Sequence[ScoredTrace]) -> None:
    """Write some rows as one Parquet file. Raises StorageError."""
    with _writer(folder, name) as writer:
        writer.write_table(_table(rows))


def write_shard(folder: RunFolder, name: str, rows: Sequence[ScoredTrace]) -> None:
    """Write some rows as one shard. Raises StorageError."""
    write_traces(folder, f"{SHARDS}/{name}.parquet", rows)


def shard_names(folder: RunFolder) -> list[str]:
    """Names of the shards that are complete."""
    return [name for name in folder.names(SHARDS) if name.endswith(".parquet")]


def read_traces(folder: RunFolder, names: Sequence[str] = (TRACES,), *, problem_id: str | None = None) -> Iterator[ScoredTrace]:
    """Stream the rows of some files, of one problem or of all. Raises StorageError for a file that is not what it should be."""
    for row in read_rows(folder, names, ["variant", "task", "index", "problem_id", "correct", "lenient", "trace"]):
        if problem_id is not None and row["problem_id"] != problem_id:
            continue
        trace = from_json(Trace, row["trace"])
        yield ScoredTrace(row["variant"], row["task"], row["index"], trace, row["correct"], row["lenient"])


def read_rows(folder: RunFolder, names: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Stream some columns (None: all) of some files as dicts."""
    for batch in _batches(folder, names, columns):
        yield from batch.to_pylist()


def read_columns(folder: RunFolder, names: Sequence[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Stream a few narrow columns of many files, some files at a time: on remote storage the waiting is most of it."""
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(names), AHEAD):
            for rows in pool.map(lambda name: list(read_rows(folder, [name], columns)), names[start : start + AHEAD]):
                yield from rows


def merge(folder: RunFolder) -> int:
    """Stream all shards into one file; returns its number of rows. The first row of a (variant, problem) counts. Shards stay."""
    names = shard_names(folder)
    seen = Positions()
    rows = 0
    with _writer(folder, TRACES) as writer:
        for batch in _batches(folder, names, None):
            keys = zip(*(batch.column(name).to_pylist() for name in ("variant", "task", "index")), strict=True)
            mask = pa.array([seen.add(*key) for key in keys], pa.bool_())
            kept = batch.filter(mask)
            writer.write_batch(kept)
            rows += kept.num_rows
    return rows


class Positions:
    """A set of (variant, task, index) that needs one bit per problem."""

    def __init__(self) -> None:
        self._bits: dict[tuple[str, str], bytearray] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: tuple[str, str, int]) -> bool:
        variant, task, index = key
        bits = self._bits.get((variant, task), b"")
        return index >> 3 < len(bits) and bool(bits[index >> 3] >> (index & 7) & 1)

    def add(self, variant: str, task: str, index: int) -> bool:
        """Add a position; whether it was new."""
        if (variant, task, index) in self:
            return False
        bits = self._bits.setdefault((variant, task), bytearray())
        if index >> 3 >= len(bits):
            bits.extend(bytes((index >> 3) + 1 - len(bits)))
        bits[index >> 3] |= 1 << (index & 7)
        self._count += 1
        return True


@contextmanager
def _writer(folder: RunFolder, name: str) -> Iterator[pq.ParquetWriter]:
    with folder.writing(name) as stream, pq.ParquetWriter(stream, SCHEMA, compression="zstd") as writer:
        yield writer


def _batches(folder: RunFolder, names: Iterable[str], columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    for name in names:
        try:
            with folder.filesystem.open_input_file(folder.path(name)) as stream, pq.ParquetFile(stream) as file:
                _check_version(file, name, folder)
                yield from file.iter_batches(batch_size=BATCH_ROWS, columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise StorageError(f"cannot read {name} in {folder.location} ({reason}); delete it and run the same command again.") from error


def _check_version(file: pq.ParquetFile, name: str, folder: RunFolder) -> None:
    found = (file.schema_arrow.metadata or {}).get(b"cleave.traces", b"").decode()
    if found != VERSION:
        raise StorageError(f"{name} in {folder.location} was written by another version of Cleave; choose another name=… for this run.")


def _table(rows: Sequence[ScoredTrace]) -> pa.Table:
    return pa.Table.from_pylist([{key: _encodable(value) for key, value in _row(row).items()} for row in rows], schema=SCHEMA)


def _encodable(value: Any) -> Any:
    """Parquet text is UTF-8; a lone surrogate, which a JSON reply can smuggle in, becomes a question mark."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) and not value.isascii() else value


def _json(trace: Trace) -> str:
    """The trace in UTF-8, or, where it holds lone surrogates, in ASCII escapes that keep them."""
    text = to_json(trace)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(to_dict(trace))
    return text


def _row(row: ScoredTrace) -> dict[str, Any]:
    trace, usage, error = row.trace, row.trace.total_usage, row.trace.error
    return {
        "variant": row.variant,
        "task": row.task,
        "index": row.index,
        "problem_id": trace.problem.id,
        "problem_key": problem_key(trace.problem),
        "question": trace.problem.question,
        "gold": trace.problem.answer,
        "depth": trace.problem.depth,
        "skills": list(trace.problem.skills),
        "strategy": trace.strategy,
        "seed": trace.seed,
        "answer": trace.answer,
        "confidence": trace.confidence,
        "outcome": row.outcome,
        "correct": row.correct,
        "lenient": row.lenient,
        "error_type": error.type if error else None,
        "error_role": error.role if error else None,
        "error_message": error.message if error else None,
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "model_seconds": usage.seconds,
        "flops": usage.flops,
        "price": usage.price,
        "wall_seconds": trace.timings.get("total"),
        "trace": _json(trace),
    }
