"""One trial: a training in this process, which tells its learning curve while it goes on and leaves its outcome behind.

It is `cleave distill` on one worker without the command around it: the same folder, the same files, and a trial that died goes on from its
last checkpoint. Nothing here knows Ray, so that a trial can be run, tested and timed without it; where several workers train, workers.py
takes the training's place.

    outcome = run_trial(config, tell=lambda figures: print(figures["step"], figures["average_accuracy"]))

Left out: who decides that a trial ends early: `tell` does not return then.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from cleave.callbacks import MetricsFile
from cleave.config.base import dump
from cleave.config.distill import DistillConfig
from cleave.errors import CleaveError, TrainingError
from cleave.runs import CONFIG, MANIFEST, METRICS, RunFolder
from pipelines.assembly import build_trainer
from pipelines.capture import capture
from pipelines.difficulty import measure_difficulty
from pipelines.distill import deliver_result, describe, summarise
from pipelines.pruned import DETAILS, ratios
from tune.learning_curve import Figures, read_curve
from tune.outcome import Outcome
from tune.prefixes import KeepPrefixes, Prefixes

Tell = Callable[[Figures], None]
_OF_RESULT = ("average_accuracy", "forgetting", "f_score")
"""Figures that `cleave distill` itself names at the end."""


class Measured(TrainerCallback):
    """Tells each point of the learning curve but the last, which is told once everything is on disk."""

    def __init__(self, metrics: Path, first_skill: str | None, tell: Tell) -> None:
        self._metrics, self._first_skill, self._tell = metrics, first_skill, tell

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What was measured before this start, by this trial or by one that began alike."""
        for figures in read_curve(self._metrics, self._first_skill):
            self._tell(figures)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < state.max_steps:
            self._tell(read_curve(self._metrics, self._first_skill)[-1])


def run_trial(config: DistillConfig, tell: Tell, prefixes: Prefixes | None = None, beside: Figures | None = None) -> Outcome:
    """Train to the end, or go on, and tell the last figures; a trial that has an outcome only tells it. `beside` are figures that are known
    already, which are told with the others. Raises TrainingError for one that cannot go on, whatever the reason."""
    known = beside or {}
    folder = RunFolder.open(config.storage_path, config.name)
    folder.prepare()
    with alone(Path(folder.path("."))):
        outcome = Outcome.read(folder) or attempt(config, folder, tell, prefixes, known)
        outcome.write(folder)
    if outcome.status == "failed":
        raise TrainingError(outcome.reason)
    tell(dict(outcome.values))
    return outcome


def attempt(config: DistillConfig, folder: RunFolder, tell: Tell, prefixes: Prefixes | None, known: Figures) -> Outcome:
    """Train, and say how it went. A bug is no outcome."""
    started, train = time.monotonic(), train_here
    if config.max_workers > 1:
        from tune.workers import train_on_workers

        train = train_on_workers
    try:
        values = known | train(config, folder, lambda figures: tell(known | figures), prefixes)
    except CleaveError as error:
        return Outcome("failed", last_figures(config, folder), str(error), time.monotonic() - started)
    return Outcome("finished", values, seconds=time.monotonic() - started)


def train_here(config: DistillConfig, folder: RunFolder, tell: Tell, prefixes: Prefixes | None) -> Figures:
    """The training itself; returns the last point of the learning curve."""
    run, first = Path(folder.path(".")), first_skill(config)
    folder.write_text(CONFIG, dump(config))
    measure_difficulty(config, folder)
    if prefixes is not None:
        prefixes.copy_into(config, run)
    callbacks: list[TrainerCallback] = [MetricsFile(run / METRICS), Measured(run / METRICS, first, tell)]
    trainer, data = build_trainer(config, run / "trainer", callbacks=callbacks, distributions=capture(config))
    if prefixes is not None:
        trainer.add_callback(KeepPrefixes(prefixes, config, run, trainer.stream))
    if not folder.exists(MANIFEST):
        folder.write_text(MANIFEST, json.dumps(describe(config, data), indent=2) + "\n")
    trainer.fit()
    result = summarise(config, trainer)
    deliver_result(config, folder, trainer.best_dir, result)
    folder.remove(["trainer"])
    return final_figures(config, folder, result)


def final_figures(config: DistillConfig, folder: RunFolder, result: Mapping[str, Any]) -> Figures:
    """The last point of the learning curve, with what the result says."""
    values = last_figures(config, folder) | {name: result[name] for name in _OF_RESULT if name in result}
    return values if config.prune is None else values | pruned_figures(config, folder, result["best_step"])


def pruned_figures(config: DistillConfig, folder: RunFolder, best_step: int) -> Figures:
    """What the weights are that a pruning keeps: their accuracy, and their cost as a share of the dense model's."""
    curve = read_curve(folder.path(METRICS), first_skill(config))
    kept = next((point for point in curve if point["step"] == best_step), {})
    return {name: value for name, value in kept.items() if name != "step"} | ratios(json.loads(folder.read_text(DETAILS)))


def last_figures(config: DistillConfig, folder: RunFolder) -> Figures:
    """The newest point of a trial's learning curve; nothing before the first."""
    return (read_curve(folder.path(METRICS), first_skill(config)) or [{}])[-1]


def first_skill(config: DistillConfig) -> str | None:
    """The skill that an order begins with, and that may be forgotten; None where nothing is in order."""
    curriculum = config.curriculum
    if curriculum is None or curriculum.mixture not in ("ordered", "cumulative"):
        return None
    return curriculum.order[0] if curriculum.order else config.tasks[0].title


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other trial works in the folder: a searcher may propose the same point twice. A process that dies lets go."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
