"""Orders that begin alike are trained alike until they part: the state at the end of a common stage is kept, addressed by what led to it.

Up to the last step that draws nothing of the next stage, a training depends on its config and on the beginning of its order only, not on
what comes later. So a trial whose order begins like that of an earlier one starts from its checkpoint (weights, optimiser, sampler,
generators), its best weights and its measurements so far, and ends at the same weights, which a test compares. Nothing is waited for: two
trials that train the same stage at the same time both do so.

    prefixes = Prefixes(folder)
    prefixes.copy_into(config, run)                  # before the trainer is built
    trainer.add_callback(KeepPrefixes(prefixes, config, run, trainer.stream))

Where several workers train, each saves its part and Ray puts them together; then SaveAtEnds asks for the checkpoints and workers.py keeps
them.

Left out: mixtures without stages, and the last stages, which no other order shares.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cleave.config.distill import DistillConfig
from cleave.curriculum.mixture import stage_ends
from cleave.runs import METRICS
from cleave.stream import StepStream
from pipelines.curriculum import pacing_of

_NOT_TRAINING = {"name", "storage_path", "output_dir", "curriculum"}
"""Fields that differ between trials without a difference in training; the curriculum is looked at by itself."""


class Prefixes:
    """The kept states of one search, in a folder that all its trials share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder_of(self, config: DistillConfig, stage: int) -> Path:
        """Where the state at the end of stage `stage` (from 0) is, or would be."""
        return self._folder / prefix_key(config, stage)

    def copy_into(self, config: DistillConfig, run: Path) -> int:
        """Bring the longest common beginning that is there into a run folder that has not started; the number of its stages."""
        if (run / "trainer").exists():
            return 0
        for stage in reversed(range(len(shared_ends(config)))):
            if self.has(config, stage):
                kept = self.folder_of(config, stage)
                shutil.copy2(kept / METRICS, run / METRICS)
                draft = run / "trainer.draft"
                shutil.rmtree(draft, ignore_errors=True)
                shutil.copytree(kept / "trainer", draft)
                draft.rename(run / "trainer")
                return stage + 1
        return 0

    def has(self, config: DistillConfig, stage: int) -> bool:
        """Whether the end of a stage is kept."""
        return self.folder_of(config, stage).exists()

    def missing(self, config: DistillConfig) -> list[int]:
        """The stages whose end is not kept."""
        return [stage for stage in range(len(shared_ends(config))) if not self.has(config, stage)]

    def keep(self, config: DistillConfig, stage: int, trainer: Path, checkpoint: str, metrics: Path) -> None:
        """Keep a copy of a checkpoint and of the best weights beside it as the state at the end of a stage."""
        target = self.folder_of(config, stage)
        draft = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
        shutil.rmtree(draft, ignore_errors=True)
        for name in (checkpoint, "best"):
            if (trainer / name).exists():
                shutil.copytree(trainer / name, draft / "trainer" / name)
        shutil.copy2(metrics, draft / METRICS)
        try:
            draft.rename(target)
        except OSError:  # another trial was faster, with the same state
            shutil.rmtree(draft)
            if not target.exists():
                raise


class KeepPrefixes(TrainerCallback):
    """Saves a checkpoint before each step that may draw from the next stage, and keeps a copy of it."""

    def __init__(self, prefixes: Prefixes, config: DistillConfig, run: Path, stream: StepStream) -> None:
        self._prefixes, self._config, self._run, self._stream = prefixes, config, run, stream
        self._due: list[int] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        self._due = [stage for stage in ending(self._config, self._stream.tokens) if not self._prefixes.has(self._config, stage)]
        if self._due:
            control.should_save = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for stage in self._due:
            self._prefixes.keep(self._config, stage, self._run / "trainer", f"checkpoint-{state.global_step}", self._run / METRICS)
        self._due = []


class SaveAtEnds(TrainerCallback):
    """Asks for a checkpoint before each step that may draw from the stage after one of `stages`: on every worker alike."""

    def __init__(self, config: DistillConfig, stages: Sequence[int], stream: StepStream) -> None:
        self._config, self._stages, self._stream = config, stages, stream

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        if any(stage in self._stages for stage in ending(self._config, self._stream.tokens)):
            control.should_save = True
        return control


def ending(config: DistillConfig, tokens: int) -> list[int]:
    """The stages of which a step was the last that ended with `tokens` drawn: all of them are before the stage's end, and those of the next
    step may not be."""
    train = config.train
    step = train.per_device_train_batch_tokens * train.gradient_accumulation_steps * config.max_workers
    total = train.steps(config.max_workers) * step
    reach = tokens + step + train.max_length  # the last example may reach over the edge
    return [stage for stage, end in enumerate(shared_ends(config)) if tokens / total < end <= reach / total]


def shared_ends(config: DistillConfig) -> list[float]:
    """The progress at which each stage ends that another order may share: all but the last two, after which only one order is left."""
    curriculum = config.curriculum
    if curriculum is None or curriculum.mixture not in ("ordered", "cumulative") or not curriculum.order:
        return []
    ends = [end for end in stage_ends(len(curriculum.order), pacing_of(curriculum.pacing)) if end > 0.0]
    return ends[:-2]


def prefix_key(config: DistillConfig, stage: int) -> str:
    """A name for all that decides a training until the end of a stage."""
    assert config.curriculum is not None
    order, ends = config.curriculum.order, stage_ends(len(config.curriculum.order), pacing_of(config.curriculum.pacing))
    known = order[: stage + 1 + sum(end <= 0.0 for end in ends)]
    curriculum = config.curriculum.model_dump(mode="json", exclude={"order", "designer"}) | {"begins": known, "skills": sorted(order)}
    content = config.model_dump(mode="json", exclude=_NOT_TRAINING) | {"curriculum": curriculum}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
