"""A trial on several workers: a run of Ray Train inside it, the one of `cleave distill` with `backend: ray` (pipelines/ray_train.py).

The trial's own process starts the run, reads its measurements in metrics.jsonl, tells them, and exports the result. Training goes on while
Ray Tune decides. A trial that is ended early asks its run to end, by a file that Ray's controller looks for, and its process waits until
the workers are gone: if it went first, Ray would kill the controller, and the workers' room would stay taken until a watcher of Ray's finds
out.

Left out: how many such trials have room (placement.py), and training in the trial's own process (trial.py).
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import Checkpoint, UserCallback
from ray.tune.trainable.function_trainable import wrap_function

from cleave.config.base import dump
from cleave.config.distill import DistillConfig
from cleave.errors import StorageError
from cleave.runs import CONFIG, METRICS, RunFolder
from cleave.training import STATE_FILE
from pipelines.capture import capture
from pipelines.difficulty import measure_difficulty
from pipelines.ray_train import FILES, Extras, deliver, last_checkpoint, trainer
from tune.learning_curve import Figures, read_curve
from tune.outcome import OUTCOME
from tune.prefixes import Prefixes, SaveAtEnds, ending
from tune.trial import Tell, final_figures, first_skill

EVERY_S = 0.5
"""Between two looks at a file."""
ENDS_S = 30.0
"""How long a run may take to end."""
END = f"{FILES}/end"
"""File in the trial's folder that asks its run to end."""
_RUNS: dict[Future[None], RunFolder] = {}
"""The runs of this process that have not been waited for, with the folders of their trials."""
_RESULT = "result.json"


def train_on_workers(config: DistillConfig, folder: RunFolder, tell: Tell, prefixes: Prefixes | None) -> Figures:
    """Train, or go on, and export; returns the last point of the learning curve."""
    folder.write_text(CONFIG, dump(config))
    folder.remove([END])
    if not folder.exists(_RESULT):
        measure_difficulty(config, folder)
        extras = extras_of(config, folder, prefixes)
        telling(config, folder, tell, lambda: run(config, folder, extras))
    folder.remove(["trainer"])
    return final_figures(config, folder, json.loads(folder.read_text(_RESULT)))


def extras_of(config: DistillConfig, folder: RunFolder, prefixes: Prefixes | None) -> Extras:
    """What a trial adds to a run of `cleave distill`."""
    here = Path(folder.path("."))
    listeners: list[UserCallback] = [EndWhenAsked(config)]
    if prefixes is None:
        return Extras(listeners=listeners)
    if not folder.exists(FILES):
        prefixes.copy_into(config, here)
    return Extras(
        callbacks=[partial(SaveAtEnds, config, prefixes.missing(config))],
        listeners=[*listeners, KeepReported(prefixes, config)],
        begins=here if folder.exists("trainer") else None,
    )


def run(config: DistillConfig, folder: RunFolder, extras: Extras) -> None:
    """The run from its start to the exported checkpoint. It shows no events: a trial has no TensorBoard."""
    quiet = config.train.model_copy(update={"report_to": tuple(name for name in config.train.report_to if name != "tensorboard")})
    started = trainer(config.model_copy(update={"train": quiet}), folder, capture(config), extras)
    with last_checkpoint(started, folder).as_directory() as files:
        deliver(config, folder, Path(files))


def telling(config: DistillConfig, folder: RunFolder, tell: Tell, work: Callable[[], None]) -> None:
    """Tell the points of the learning curve but the last, those that are known and then each as it comes, while `work` runs beside."""
    metrics, first, steps, told = folder.path(METRICS), first_skill(config), config.train.steps(config.max_workers), 0

    def tell_new() -> None:
        nonlocal told
        for figures in read_curve(metrics, first):
            if told < figures["step"] < steps:
                told = int(figures["step"])
                tell(figures)

    tell_new()
    working = beside(work)
    _RUNS[working] = folder
    try:
        while not working.done():
            time.sleep(EVERY_S)
            tell_new()
    finally:
        ask_to_end()
    working.result()
    tell_new()


def beside(work: Callable[[], None]) -> Future[None]:
    """Run in a thread that keeps no process alive."""
    future: Future[None] = Future()

    def call() -> None:
        try:
            work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=call, name="ray-train", daemon=True).start()
    return future


def ask_to_end() -> None:
    """Ask the runs of this process that go on to end."""
    for working, folder in _RUNS.items():
        if not working.done():
            folder.write_text(END, "")


def let_runs_end() -> None:
    """The same, and wait for it."""
    ask_to_end()
    wait(_RUNS, ENDS_S)
    _RUNS.clear()


def as_trainable(trial: Callable[[dict[str, Any]], None]) -> type:
    """The trial as a trainable of Tune whose process outlives its run."""
    plain: Any = wrap_function(trial)

    class Trial(plain):  # type: ignore[misc]
        def cleanup(self) -> None:
            try:
                super().cleanup()
            finally:
                let_runs_end()

    return Trial


class EndWhenAsked(UserCallback):
    """Controller side: ends the run with its workers, once it has begun to report."""

    def __init__(self, config: DistillConfig) -> None:
        self._place = (config.storage_path, config.name)
        self._looks = False

    def after_report(self, run_context: Any, metrics: Sequence[Mapping[str, Any]], checkpoint: Checkpoint | None) -> None:
        if not self._looks:
            self._looks = True
            controller = ray.get_runtime_context().current_actor
            threading.Thread(target=self._look, args=(controller,), name="end-when-asked", daemon=True).start()

    def _look(self, controller: Any) -> None:
        folder, asked = RunFolder.open(*self._place), False
        while not asked:
            time.sleep(EVERY_S)
            with suppress(StorageError):
                asked = folder.exists(END)
        controller.abort.remote()


class KeepReported(UserCallback):
    """Controller side: of the checkpoints that workers reported, whole now, keeps those at the end of a stage that other orders share."""

    def __init__(self, prefixes: Prefixes, config: DistillConfig) -> None:
        self._prefixes, self._config = prefixes, config

    def after_report(self, run_context: Any, metrics: Sequence[Mapping[str, Any]], checkpoint: Checkpoint | None) -> None:
        for state in [] if checkpoint is None else Path(checkpoint.path).glob(f"checkpoint-*/{STATE_FILE}"):
            saved = state.parent
            for stage in ending(self._config, json.loads(state.read_text(encoding="utf-8"))["stream"]["tokens"]):
                if not self._prefixes.has(self._config, stage):
                    self._prefixes.keep(self._config, stage, saved.parent, saved.name, saved.parent / METRICS)


def sweep(trials: Path) -> None:
    """Remove what runs of Ray Train left of trials that were ended early; they may still have been writing when they were."""
    for files in trials.glob(f"*/{FILES}"):
        if (files.parent / OUTCOME).exists():
            shutil.rmtree(files, ignore_errors=True)
