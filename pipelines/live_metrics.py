"""Metrics of a training on Ray Train while it runs: workers report each log, Ray's controller writes it down, the driver shows it.

The run folder gets the rows as metrics.jsonl within seconds, and TensorBoard's events. At the end the worker's own metrics.jsonl, which
travels with the checkpoints, replaces the live one (ray_train.py).

Left out: checkpoints (ray_train.py), what is measured (training.py, heldout.py).
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import ray.train
from ray.train import UserCallback
from transformers import TrainerCallback

from cleave.callbacks import metrics_row, progress_line
from cleave.console import LINE_EVERY_S, say
from cleave.errors import ConfigError, StorageError
from cleave.runs import METRICS, PROBE, RunFolder

if TYPE_CHECKING:
    Row = dict[str, Any]

ROW = "row"
"""Key of a log line among the metrics of a report."""


class ReportLogs(TrainerCallback):
    """Worker side: each log is reported, from every rank because reporting is a barrier."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "train_runtime" not in logs:  # the parent's summary at the end
            ray.train.report({ROW: metrics_row(state, logs)})


class LiveMetrics(UserCallback):
    """Controller side: rank 0's rows into metrics.jsonl, at most every `every_s` seconds, and into TensorBoard's events."""

    def __init__(self, storage_path: str, name: str, *, tensorboard: bool, every_s: float = LINE_EVERY_S) -> None:
        self._place = (storage_path, name)
        self._tensorboard, self._every_s = tensorboard, every_s
        self._rows: list[Row] | None = None
        self._events: Any = None
        self._written = 0.0

    def after_report(self, run_context: Any, metrics: Sequence[Mapping[str, Any]], checkpoint: Any) -> None:
        if ROW in metrics[0]:
            self.add(dict(metrics[0][ROW]))

    def add(self, row: Row) -> None:
        """Take one row. Rows of steps that are done again, from a checkpoint, replace the old ones."""
        folder = RunFolder.open(*self._place)
        if self._rows is None:
            self._rows = read_rows(folder)
            self._open_events(folder, row)
        elif self._rows and _place(self._rows[-1]) >= _place(row):
            self._open_events(folder, row)
        self._rows = [kept for kept in self._rows if _place(kept) < _place(row)] + [row]
        if self._events is not None:
            for name, value in _scalars(row):
                self._events.add_scalar(name, value, row["step"])
        if time.monotonic() - self._written >= self._every_s or "loss" not in row:
            self._flush(folder)

    def _flush(self, folder: RunFolder) -> None:
        folder.write_lines(METRICS, self._rows or [])
        if self._events is not None:
            self._events.flush()
        self._written = time.monotonic()

    def _open_events(self, folder: RunFolder, row: Row) -> None:
        """A new file of events that voids those of an earlier attempt from this step on."""
        if not self._tensorboard:
            return
        from torch.utils.tensorboard import SummaryWriter

        if self._events is not None:
            self._events.close()
        self._events = SummaryWriter(events_place(folder), purge_step=row["step"])


@contextmanager
def following(folder: RunFolder, steps: int, every_s: float = LINE_EVERY_S, label: str = "") -> Iterator[None]:
    """Driver side: while the body runs, say the newest row of the run folder every `every_s` seconds, and every evaluation.

    `label` begins each line, to tell trainings apart that run at the same time.
    """
    done = threading.Event()
    newest = max((row["time"] for row in read_rows(folder)), default=-math.inf)  # by the clock of the worker, which may not be ours

    def follow() -> None:
        said = newest
        while not done.wait(every_s):
            with suppress(StorageError):  # the folder may be out of reach for a moment; training itself does not depend on this
                fresh = [row for row in read_rows(folder) if row["time"] > said]
                for row in [row for row in fresh[:-1] if "loss" not in row] + fresh[-1:]:
                    say(f"{label}: {progress_line(row, steps)}" if label else progress_line(row, steps))
                said = max((row["time"] for row in fresh), default=said)

    thread = threading.Thread(target=follow, name="live-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def events_place(folder: RunFolder) -> str:
    """Where TensorBoard's events of a run go."""
    return folder.path("tensorboard") if folder.is_local else f"{folder.location}/tensorboard"


def check_events(folder: RunFolder) -> None:
    """Raise ConfigError where TensorBoard, which has file systems of its own, cannot write to the run folder."""
    from tensorboard.compat import tf

    place = events_place(folder)
    try:
        tf.io.gfile.makedirs(place)
        with tf.io.gfile.GFile(f"{place}/{PROBE}", "wb") as file:
            file.write(b"x")
        folder.remove([f"tensorboard/{PROBE}"])
    except Exception as error:  # each of those file systems raises its own kind
        raise ConfigError(
            f"TensorBoard cannot write to {place} ({' '.join(str(error).split())[:200]}); install the file system's fsspec package, or "
            "remove tensorboard from train.report_to."
        ) from error


def read_rows(folder: RunFolder) -> list[Row]:
    """The rows of metrics.jsonl, none if there is no such file yet."""
    if not folder.exists(METRICS):
        return []
    return [json.loads(line) for line in folder.read_text(METRICS).splitlines()]


def _place(row: Row) -> tuple[int, bool]:
    """Order of rows: by step, a step's training row before its evaluation."""
    return row["step"], "loss" not in row


def _scalars(row: Row) -> list[tuple[str, float]]:
    """Names as transformers' TensorBoard callback writes them: eval/… and train/…."""
    named = {name: value for name, value in row.items() if name not in ("step", "time") and isinstance(value, int | float)}
    return [(f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}", value) for name, value in named.items()]
