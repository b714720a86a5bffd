"""Orders that begin alike are trained alike until they part: the state at the end of a common stage is kept, addressed by what led to it.

Up to the last step that draws nothing of the next stage, a training depends on its config and on the beginning of its order only, not on
what comes later. So a trial whose order begins like that of an earlier one starts from its checkpoint (weights, optimiser, sampler,
generators), its best weights and its measurements so far, and ends at the same weights, which a test compares. Nothing is waited for: two
trials that train the same stage at the same time both do so.

    prefixes = Prefixes(folder)
    prefixes.copy_into(config, run)                  # before the trainer is built
    trainer.add_callback(KeepPrefixes(prefixes, config, run, trainer.stream))

Left out: mixtures without stages, and the last stages, which no other order shares.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
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
            kept = self.folder_of(config, stage)
            if kept.exists():
                shutil.copy2(kept / METRICS, run / METRICS)
                draft = run / "trainer.draft"
                shutil.rmtree(draft, ignore_errors=True)
                shutil.copytree(kept / "trainer", draft)
                draft.rename(run / "trainer")
                return stage + 1
        return 0


class KeepPrefixes(TrainerCallback):
    """Saves a checkpoint before each step that may draw from the next stage, and keeps a copy of it."""

    def __init__(self, prefixes: Prefixes, config: DistillConfig, run: Path, stream: StepStream) -> None:
        train = config.train
        self._prefixes, self._config, self._run, self._stream = prefixes, config, run, stream
        self._ends = shared_ends(config)
        step_tokens = train.per_device_train_batch_tokens * train.gradient_accumulation_steps
        self._most = step_tokens + train.max_length  # tokens of a step: the last example may reach over the edge
        self._total = train.steps(1) * step_tokens
        self._due: list[int] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        self._due = [stage for stage, end in enumerate(self._ends) if self._is_last_step(end) and not self._is_kept(stage)]
        if self._due:
            control.should_save = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for stage in self._due:
            self._keep(stage, f"checkpoint-{state.global_step}")
        self._due = []

    def _is_last_step(self, end: float) -> bool:
        """Whether all that was drawn is before `end`, and the next step may not be."""
        return self._stream.sampler.progress < end <= (self._stream.tokens + self._most) / self._total

    def _is_kept(self, stage: int) -> bool:
        return self._prefixes.folder_of(self._config, stage).exists()

    def _keep(self, stage: int, checkpoint: str) -> None:
        target = self._prefixes.folder_of(self._config, stage)
        draft = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
        shutil.rmtree(draft, ignore_errors=True)
        for name in (checkpoint, "best"):
            if (self._run / "trainer" / name).exists():
                shutil.copytree(self._run / "trainer" / name, draft / "trainer" / name)
        shutil.copy2(self._run / METRICS, draft / METRICS)
        try:
            draft.rename(target)
        except OSError:  # another trial was faster, with the same state
            shutil.rmtree(draft)
            if not target.exists():
                raise


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
