"""`cleave distill` on Ray Train: 1..n workers, each with the trainer of assembly.py, restarted from the last checkpoint when one dies.
With `num_workers: [fewest, most]` the group is as large as the cluster allows at each start, and grows while it runs.

Workers keep their files in a temporary folder of their node; what has to survive (weights, optimiser, sampler, the best weights so far,
metrics.jsonl) travels in the checkpoints that they report, which Ray keeps under the run folder. The driver exports the result.
Run again with the same config: Ray finds the run by its name and goes on.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
from ray.train.huggingface.transformers import prepare_trainer
from ray.train.torch import TorchTrainer
from transformers import TrainerCallback

from actors.connection import connected
from cleave.config.distill import DistillConfig
from cleave.console import say
from cleave.errors import CleaveError, ConfigError, RoleUnavailable, StorageError, TrainingError
from cleave.runs import METRICS, RunFolder
from pipelines.capture import capture
from pipelines.live_metrics import LiveMetrics, ReportLogs, following

if TYPE_CHECKING:
    from cleave.stream import StepStream
    from cleave.training import RoleTrainer

TRAVELS = ("best", METRICS)
"""What a worker's folder holds besides checkpoints that must outlive the worker."""
SUMMARY = "summary.json"
FILES = "ray"
"""What Ray keeps of a run that goes on, in the run's folder."""
_MANY = 1_000_000
"""Workers that a node holds if they need nothing."""


@dataclass(frozen=True)
class Extras:
    """What a search adds to a run. `callbacks` are made on every worker from its stream, `listeners` are in Ray's controller; workers start
    from `begins`, a folder that all nodes see with checkpoints in trainer/ and a metrics.jsonl, unless a checkpoint was reported."""

    callbacks: Sequence[Callable[[StepStream], TrainerCallback]] = ()
    listeners: Sequence[ray.train.UserCallback] = ()
    begins: Path | None = None


def fit(config: DistillConfig, folder: RunFolder) -> bool:
    """Train to the end and export. Raises ConfigError where the cluster is too small, RoleUnavailable when workers die too often,
    TrainingError for a loss that is not finite, StorageError where checkpoints cannot be written."""
    with connected():
        check_fits(config)
        distributions = capture(config)
        with own_interrupts(), following(folder, config.train.steps(config.max_workers), label=config.name):
            checkpoint = last_checkpoint(trainer(config, folder, distributions), folder)
    with checkpoint.as_directory() as files:
        deliver(config, folder, Path(files))
    return True


def last_checkpoint(run: TorchTrainer, folder: RunFolder) -> ray.train.Checkpoint:
    """Train to the end; the checkpoint that holds all that is to be exported. Raises as `fit` does."""
    try:
        result = run.fit()
    except ray.train.TrainingFailedError as error:
        raise _own_error(error) or RoleUnavailable(
            f"training failed on its workers: {_first_line(error)}; run the same command again to go on from the last checkpoint."
        ) from error
    if isinstance(result.return_value, TrainingError):
        raise result.return_value
    checkpoint = result.get_best_checkpoint("step", "max") or result.checkpoint
    if checkpoint is None:
        raise RoleUnavailable(f"{folder.location} has no checkpoint; run the same command again.")
    return checkpoint


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Ray Train takes SIGINT for itself and keeps it after `fit`; give it back, so that Ctrl-C goes on to work."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def trainer(config: DistillConfig, folder: RunFolder, distributions: Sequence[str] = (), extras: Extras | None = None) -> TorchTrainer:
    """The Ray trainer of one run; its files are under the run folder's `ray/`. `distributions` is what `capture` returned."""
    resources, extras = dict(config.resources_per_worker), extras or Extras()
    return TorchTrainer(
        work,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "distributions": list(distributions),
            "callbacks": list(extras.callbacks),
            "begins": extras.begins,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.num_workers,
            resources_per_worker=resources,
            use_gpu=resources.get("GPU", 0) > 0,
            elastic_resize_monitor_interval_s=config.elastic_resize_monitor_interval_s,
        ),
        run_config=ray.train.RunConfig(
            name=config.name,  # what Ray's dashboard calls it
            storage_path=folder.path(FILES),
            storage_filesystem=folder.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            callbacks=[
                LiveMetrics(config.storage_path, config.name, tensorboard="tensorboard" in config.train.report_to),
                *extras.listeners,
            ],
        ),
    )


def work(options: Mapping[str, Any]) -> TrainingError | None:
    """What each worker runs: restore, train, report. All ranks draw the same examples and take their own share.

    Returns, instead of raising, an error that all ranks meet alike and would meet again: Ray would start over until patience ends.
    """
    from cleave.callbacks import MetricsFile
    from pipelines.assembly import build_trainer

    config = DistillConfig.model_validate(options["config"])
    context = ray.train.get_context()
    here = Path(tempfile.mkdtemp(prefix="cleave-distill-"))
    try:
        restore(here, options["begins"])
        callbacks = [MetricsFile(here / METRICS), ReportLogs(), Report(here)]
        built, data = build_trainer(
            config,
            here,
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            callbacks=callbacks,
            distributions=options["distributions"],
        )
        for callback in options["callbacks"]:
            built.add_callback(callback(built.stream))
        prepared = prepare_trainer(built)
        prepared.fit()
        conclude(config, here, prepared, data)
    except TrainingError as error:
        return error
    finally:
        shutil.rmtree(here, ignore_errors=True)
    return None


class Report(TrainerCallback):
    """Reports each saved checkpoint to Ray, from every rank because reporting is a barrier."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        saved = self._folder / f"checkpoint-{state.global_step}"
        measured = {name: value for row in state.log_history for name, value in row.items() if isinstance(value, int | float)}
        report(self._folder, measured | {"step": state.global_step}, saved)


def report(folder: Path, metrics: Mapping[str, Any], saved: Path | None, summary: Mapping[str, Any] | None = None) -> None:
    """Send this rank's files: its checkpoint folder, and from rank 0 what travels. Raises StorageError; earlier checkpoints stay."""
    with sending(), tempfile.TemporaryDirectory() as draft:
        if saved is not None and saved.is_dir():
            shutil.copytree(saved, Path(draft) / saved.name)
        if ray.train.get_context().get_world_rank() == 0:
            for name in TRAVELS:
                _copy(folder / name, Path(draft) / name)
            if summary is not None:
                (Path(draft) / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")
        ray.train.report(dict(metrics), checkpoint=ray.train.Checkpoint.from_directory(draft))


@contextmanager
def sending() -> Iterator[None]:
    """Give a disk or storage that fails its own error."""
    try:
        yield
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise StorageError(f"cannot store a checkpoint ({reason}); free space there, then run the same command again to resume.") from error


def restore(folder: Path, begins: Path | None = None) -> None:
    """Bring the last reported checkpoint into this worker's folder, else what another training left to begin from."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as files:
            shutil.copytree(files, folder, dirs_exist_ok=True)
    elif begins is not None:
        shutil.copytree(begins / "trainer", folder, dirs_exist_ok=True)
        shutil.copy2(begins / METRICS, folder / METRICS)


def conclude(config: DistillConfig, folder: Path, built: RoleTrainer, data: Any) -> None:
    """The last evaluation, and a last report with everything that the driver needs."""
    from cleave.training import newest_checkpoint
    from pipelines.distill import describe, summarise

    summary = {"result": summarise(config, built), "manifest": describe(config, data)}
    report(folder, {"step": built.args.max_steps + 1}, newest_checkpoint(folder), summary)


def deliver(config: DistillConfig, folder: RunFolder, files: Path) -> None:
    """Driver side: export the checkpoint, then write manifest, metrics and last result.json."""
    from pipelines.distill import deliver_result

    found = json.loads((files / SUMMARY).read_text(encoding="utf-8"))
    folder.write_text("manifest.json", json.dumps(found["manifest"], indent=2) + "\n")
    folder.write_text(METRICS, (files / METRICS).read_text(encoding="utf-8"))
    deliver_result(config, folder, files / "best", found["result"])
    folder.remove([FILES])


def check_fits(config: DistillConfig) -> None:
    """Raise ConfigError unless the cluster has room for the fewest workers at once."""
    fewest, most = config.min_workers, config.max_workers
    count = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    found = places(config.resources_per_worker)
    if found < fewest:
        have: dict[str, float] = ray.cluster_resources()
        name, each = max(config.resources_per_worker.items(), key=lambda item: item[1] / max(have.get(item[0], 0.0), 1e-9))
        there = have.get(name, 0.0)
        fewer = f"num_workers={found} or " if found else ""
        raise ConfigError(
            f"{fewest} workers need {each * fewest:g} {name}, the cluster has {there:g} and room for {found} of them on its nodes; "
            f"set {fewer}resources_per_worker.{name}={there / fewest:g}, or add nodes."
        )
    say(f"Ray Train: {count} workers with {config.resources_per_worker} each.")


def places(resources: Mapping[str, float]) -> int:
    """How many workers the cluster's nodes can hold, each of them on one node."""
    return sum(held(node["Resources"], resources) for node in ray.nodes() if node["Alive"])


def held(node: Mapping[str, float], resources: Mapping[str, float]) -> int:
    """How many workers a node can hold."""
    needs = [(name, each) for name, each in resources.items() if each > 0]
    return min((int(node.get(name, 0.0) / each + 1e-6) for name, each in needs), default=_MANY)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.is_file():
        with suppress(FileNotFoundError):
            shutil.copy2(source, target)


def _own_error(error: Any) -> CleaveError | None:
    """The user's mistake behind a failed worker, if that is what it was."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "cause", None) or failure
        if isinstance(cause, CleaveError):
            return cause
    return None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")[:300]
