"""What happens beside training: metrics as JSON lines, progress for people, evaluation every so often, stopping on a signal."""

from __future__ import annotations

import json
import math
import signal
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from cleave.console import say
from cleave.errors import ConfigError, StorageError

_NOT_LOGGED = ("total_flos", "train_runtime", "train_samples_per_second", "train_steps_per_second", "epoch")


class MetricsFile(TrainerCallback):
    """Appends one JSON line per log to a file; on resume, lines of steps that will be repeated are dropped first."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= state.global_step]
            self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics_row(state, logs or {})) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error}; free space and run again to resume.") from error


class ProgressLines(TrainerCallback):
    """One line for people on stderr per log, at most every `every_s` seconds; evaluations always."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._said = -math.inf

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        logs = logs or {}
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        is_training = "loss" in logs
        if not is_training or time.monotonic() - self._said >= self._every_s:
            self._said = time.monotonic() if is_training else self._said
            say(progress_line(metrics_row(state, logs), state.max_steps))


class EvaluateEvery(TrainerCallback):
    """Asks for an evaluation every `steps` steps, but not at the last, which is evaluated after training."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        if state.global_step % self._steps == 0 and state.global_step < state.max_steps:
            control.should_evaluate = True
        return control


class EvaluateStages(TrainerCallback):
    """Asks for an evaluation after the step in which a stage of the curriculum ends; `ends` are shares of the progress in [0, 1]. The last
    stage ends with training, after which all is evaluated anyway. Of the step itself a part may belong to the next stage already."""

    def __init__(self, progress: Callable[[], float], ends: Sequence[float]) -> None:
        self._progress, self._ends = progress, tuple(ends)
        self._known = 0

    def finished(self) -> int:
        """How many stages have ended."""
        return bisect_right(self._ends, self._progress())

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._known = self.finished()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        before, self._known = self._known, self.finished()
        if self._known > before and state.global_step < state.max_steps:
            control.should_evaluate = True
        return control


class StopOnSignal(TrainerCallback):
    """SIGTERM or Ctrl-C: finish the step, save a checkpoint, stop. A second signal ends the process the usual way.

    Use as a context manager around training, in the main thread.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        if self.stopped:
            control.should_save = control.should_training_stop = True
        return control

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        self._restore()
        say("stopping after this step; once more to stop at once.")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def check_trackers(names: Iterable[str]) -> None:
    """Raise ConfigError for a tracker that transformers does not know, or whose package is not installed."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(f"report_to: {name!r} is no tracker; there are {', '.join(sorted(INTEGRATION_TO_CALLBACK))}.")
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise ConfigError(f"report_to: {name} is not installed on this machine; `pip install {name}`, or remove it.") from error


def metrics_row(state: TrainerState, logs: Mapping[str, Any]) -> dict[str, Any]:
    """A line of metrics.jsonl: the step, the time in seconds since 1970, and what was logged."""
    kept = {name: value for name, value in logs.items() if name not in _NOT_LOGGED}
    return {"step": state.global_step, "time": round(time.time(), 1)} | kept


def progress_line(row: Mapping[str, Any], max_steps: int) -> str:
    """A row of metrics for people; the time left goes by the mean tokens per step so far and the speed since the last row."""
    measured = {name.removeprefix("eval_"): value for name, value in row.items() if name.startswith("eval_") and "/" not in name}
    if measured:
        return f"step {row['step']} held out: " + "  ".join(f"{name} {value:.4g}" for name, value in measured.items())
    tokens, speed = row.get("tokens", 0), row.get("tokens_per_second", 0.0)
    left = (max_steps - row["step"]) * tokens / max(row["step"], 1) / max(speed, 1e-9)
    accuracy = f"  accuracy {row['accuracy']:.3f}" if "accuracy" in row else ""
    progress = f"step {row['step']}/{max_steps}  loss {row['loss']:.4f}{accuracy}  {tokens:,} tokens"
    return f"{progress}  {speed:,.0f} tokens/s  {left / 60:.0f} min left"


def _step(line: str) -> float:
    """The step of a metrics line; infinite for a line that a kill cut short, so that it is dropped."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
