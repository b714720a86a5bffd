"""`cleave distill CONFIG`: train one role and leave a checkpoint that `hf:PATH` loads.

A run lives in storage_path/name: config.yaml, manifest.json, metrics.jsonl, tensorboard/, trainer/ (checkpoints to resume from),
result.json once finished, and checkpoint/. The same command resumes; SIGTERM or Ctrl-C saves first. A finished run says so.

    python -m cleave distill configs/distill/demo.yaml train.max_tokens=200000

Left out: what examples say (formats.py), how the trainer is put together (assembly.py), Ray's side (ray_train.py), several students in
one job (students.py).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cleave.config.base import Config, dump, validate
from cleave.config.distill import DistillConfig
from cleave.console import say
from cleave.errors import ConfigError
from cleave.manifest import manifest
from cleave.runs import RunFolder

_FREE_TO_CHANGE = {
    "num_threads",
    "torch_compile",
    "resources_per_worker",
    "max_failures",
    "elastic_resize_monitor_interval_s",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "report_to",
    "designer",
}
"""Fields that change neither weights nor figures, so that a run may be resumed with others."""


def main(config: DistillConfig, *, dry_run: bool = False, as_json: bool = False, quiet: bool = False) -> int:
    """Run or resume one training. Returns 0 when finished, 130 when it was stopped and can be resumed. `quiet`: nothing on stdout."""
    if dry_run:
        say(f"{check(config)}; nothing was started.")
        return show_config(config, as_json=as_json)
    folder = open_run(config)
    if folder.exists("result.json"):
        say(f"{folder.location} is finished; use another name to train again.")
        return show(json.loads(folder.read_text("result.json")), as_json=as_json, quiet=quiet)
    get_ready(config, folder)
    if not folder.exists("config.yaml"):  # not before: a mistake that was found in time may be put right under the same name
        folder.write_text("config.yaml", dump(config))
    finished = run_inline(config, folder) if config.backend == "inline" else run_on_ray(config, folder)
    if not finished:
        say(f"stopped; run the same command again to resume {folder.location} from its last checkpoint.")
        return 130
    return show(json.loads(folder.read_text("result.json")), as_json=as_json, quiet=quiet)


def check(config: DistillConfig) -> str:
    """Check that everything fits and draw one chunk of each task; returns what would be trained. No weights are read."""
    from pipelines.preflight import draw_once, preflight
    from pipelines.pruned import check_prune
    from pipelines.reconstruction import unranked

    model, tokenizer = preflight(config)
    held_out = draw_once(unranked(config), tokenizer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    steps = config.train.steps(config.max_workers)
    pruned = f", {stays}" if (stays := check_prune(config, model)) else ""
    return f"{config.name}: {parameters:,} parameters, {trained:,} of them trained{pruned}, {steps:,} steps, {held_out} held-out examples"


def show_config(config: Config, *, as_json: bool) -> int:
    """The resolved config on stdout."""
    print(json.dumps(config.model_dump(mode="json")) if as_json else dump(config), end="\n" if as_json else "")
    return 0


def open_run(config: DistillConfig) -> RunFolder:
    """The run's folder. Raises ConfigError if it belongs to another config."""
    folder = RunFolder.open(config.storage_path, config.name)
    if not folder.is_local and config.backend == "inline":
        raise ConfigError(f"the inline backend writes to a local disk, not to {folder.location}; set storage_path, or backend=ray.")
    folder.prepare()
    if folder.exists("config.yaml"):
        _check_same(config, folder)
    return folder


def get_ready(config: DistillConfig, folder: RunFolder) -> None:
    """Find mistakes before anything starts; for Ray in the data too, which each of its workers would otherwise find again and again."""
    if config.backend == "inline":
        set_threads(config.num_threads)
    from pipelines.difficulty import measure_difficulty
    from pipelines.preflight import draw_once, preflight
    from pipelines.reconstruction import score_traces

    _, tokenizer = preflight(config)
    score_traces(config)
    measure_difficulty(config, folder)
    if config.backend == "ray":
        draw_once(config, tokenizer)
        if "tensorboard" in config.train.report_to:
            from pipelines.live_metrics import check_events

            check_events(folder)


def run_inline(config: DistillConfig, folder: RunFolder) -> bool:
    """Train in this process. Returns False if a signal stopped it."""
    from cleave.callbacks import MetricsFile, ProgressLines, StopOnSignal
    from pipelines.assembly import build_trainer
    from pipelines.capture import capture

    distributions = capture(config)
    with StopOnSignal() as stop:
        callbacks = [MetricsFile(folder.path("metrics.jsonl")), ProgressLines(), *trackers(config, folder), stop]
        trainer, data = build_trainer(config, Path(folder.path("trainer")), callbacks=callbacks, distributions=distributions)
        if not folder.exists("manifest.json"):
            folder.write_text("manifest.json", json.dumps(describe(config, data), indent=2) + "\n")
        if not trainer.fit():
            return False
        deliver_result(config, folder, trainer.best_dir, summarise(config, trainer))
    folder.remove(["trainer"])
    return True


def run_on_ray(config: DistillConfig, folder: RunFolder) -> bool:
    """Train with Ray Train."""
    from pipelines.ray_train import fit

    return fit(config, folder)


def set_threads(count: int | None) -> None:
    """Before torch computes anything: later changes cost more than they bring."""
    if count is not None:
        os.environ["OMP_NUM_THREADS"] = str(count)
        import torch

        torch.set_num_threads(count)


def trackers(config: DistillConfig, folder: RunFolder) -> list[Any]:
    """The TensorBoard callback; other trackers are Hugging Face's business."""
    if "tensorboard" not in config.train.report_to:
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(folder.path("tensorboard")))]


def describe(config: DistillConfig, data: Any) -> dict[str, Any]:
    """The manifest: versions, machine, commit, seeds, and hashes of what decides the data."""
    from cleave.examples import content_hash
    from cleave.prompts import load_prompts
    from pipelines.teachers import live_teachers

    prompts = load_prompts(config.prompts)
    return manifest(
        program="distill",
        seed=config.seed,
        prompts={"name": prompts.name, "sha256": prompts.fingerprint},
        data={
            "held_out": content_hash(data.held_out),
            "first_chunks": {name: content_hash(source.chunk(0)) for name, source in data.sources.items()},
        },
        **({"screening": {name: counts.to_dict() for name, counts in data.screening.items()}} if data.screening else {}),
        **({"teachers": live_teachers(config)} if config.objective.has_teacher and config.objective.top_k is None else {}),
    )


def summarise(config: DistillConfig, trainer: Any) -> dict[str, Any]:
    """Evaluate once more; make sure that the best weights are on disk; say how it went."""
    trainer.evaluate()
    if trainer.measure is None:
        trainer.save_sliced(trainer.best_dir)
    gates = trainer.gates.summary()
    return {
        "name": config.name,
        "role": config.role,
        "steps": trainer.args.max_steps,
        "tokens": trainer.stream.tokens,
        "best_step": trainer.best_step if trainer.measure is not None else trainer.args.max_steps,
        **({f"best_{trainer.best_metric}": trainer.best_value} if trainer.measure is not None else {}),
        **({"pruned": gates} if gates else {}),
    }


def deliver_result(config: DistillConfig, folder: RunFolder, best: Path, result: dict[str, Any]) -> None:
    """Calibrate a verifier, measure what was pruned, sum up the skills, export the best weights, then write result.json, which says that
    the run is finished."""
    from pipelines.export import export

    if config.role == "verifier":
        from pipelines.calibrate import calibrate

        result |= calibrate(config, best)
    if config.prune is not None:
        from pipelines.pruned import measure

        result |= measure(config, folder, best, result["pruned"])
    if config.evaluation.skill_examples:
        from pipelines.skill_figures import write_figures

        result |= write_figures(config, folder)
    target = export(config, folder, best, result)
    folder.write_text("result.json", json.dumps({**result, "checkpoint": target}, indent=2) + "\n")


def show(result: dict[str, Any], *, as_json: bool, quiet: bool = False) -> int:
    """The result on stdout."""
    if quiet:
        return 0
    print(json.dumps(result) if as_json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    return 0


def _check_same(config: DistillConfig, folder: RunFolder) -> None:
    """Compare with the config that the run was started with, read by today's rules."""
    import yaml

    started = validate(DistillConfig, yaml.safe_load(folder.read_text("config.yaml")), f"{folder.location}/config.yaml")
    before, now = (dict(_flat(one.model_dump(mode="json"))) for one in (started, config))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key) and not _FREE_TO_CHANGE & set(key.split("."))]
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{folder.location} was started with {key}={before.get(key)}, not {now.get(key)}; use another name, or delete the folder."
        )


def _flat(value: Any, key: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for name, part in value.items() for pair in _flat(part, f"{key}.{name}" if key else name)]
    return [(key, value)]
