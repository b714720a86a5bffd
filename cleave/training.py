"""The trainer: transformers.Trainer with our four seams (examples, sampler, objective, gates), on one device or one worker of many.

What differs from the parent: batches come from a Sampler as whole optimiser steps; the loss is Σ sums / Σ counts over the step, over all
accumulated batches and workers; a checkpoint holds the sampler's state, so that a resumed run sees the same next batches; the best
weights by held-out metric are kept aside. Everything else (optimiser, schedule, FSDP, trackers, LoRA) is the parent's.

    trainer = RoleTrainer(model, arguments, tokenizer=tokenizer, stream=stream, objective=CrossEntropy())
    trainer.fit(resume=True)

Left out: configs and run folders (pipelines/distill.py), held-out measurements (heldout.py).
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging as transformers_logging

from cleave.curriculum.sampler import Sampler
from cleave.errors import ConfigError, StorageError
from cleave.examples import Example
from cleave.gates import Gates, NoGates
from cleave.objectives import Objective
from cleave.packing import pack, pad, split_evenly

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cleave.packing import Batch

Measure = Callable[["PreTrainedModel"], Mapping[str, float]]
STATE_FILE = "cleave_state.json"
"""Written last into a checkpoint: a folder without it is incomplete."""


class StepStream:
    """Endless batches for one worker, `accumulation` per optimiser step, drawn from one sampler that all workers replay alike.

    Each step draws about `batch_tokens` × `accumulation` × `world_size` tokens, sorts them by length into as many batches, and gives
    this worker every `world_size`-th. Between two steps the state is the sampler's own.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        batch_tokens: int,
        accumulation: int = 1,
        pad_id: int = 0,
        max_length: int = 512,
        packing: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sampler = sampler
        self.tokens = 0
        self._parts = accumulation * world_size
        self._step_tokens = batch_tokens * self._parts
        self._pad_id, self._max_length, self._packing = pad_id, max_length, packing
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        examples = iter(self.sampler)
        while True:
            drawn = self._draw(examples)
            for part in split_evenly(drawn, self._parts)[self._rank :: self._world_size]:
                yield self.batch(part)

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Examples as one batch."""
        return pack(examples, self._pad_id, self._max_length) if self._packing else pad(examples, self._pad_id)

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.tokens = state["tokens"]
        self.sampler.load_state_dict(state["sampler"])

    def _draw(self, examples: Iterator[Example]) -> list[Example]:
        drawn: list[Example] = []
        tokens = 0
        while tokens < self._step_tokens or len(drawn) < self._parts:
            drawn.append(next(examples))
            tokens += len(drawn[-1])
        self.tokens += tokens
        return drawn


class RoleTrainer(Trainer):
    """The one subclass of transformers.Trainer. `measure(model)` returns held-out metrics with plain names, such as `loss`."""

    stream: StepStream
    objective: Objective
    measure: Measure | None

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        stream: StepStream,
        objective: Objective,
        tokenizer: PreTrainedTokenizerBase | None = None,
        gates: Gates | None = None,
        measure: Measure | None = None,
        best_metric: str = "loss",
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.gates = gates or NoGates()
        self.gates.attach(model)
        super().__init__(model, args, processing_class=tokenizer, callbacks=list(callbacks))
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # one bar per checkpoint written would flood the log
        self.remove_callback(ProgressCallback)  # standard output belongs to results
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = True
        self.stream, self.objective, self.measure = stream, objective, measure
        self.best_metric, self.best_value, self.best_step = best_metric, math.nan, -1
        self._sums: dict[str, float] = {}
        self._count = 0.0
        self._clock = (time.perf_counter(), 0)

    @property
    def best_dir(self) -> Path:
        """Where the best weights so far are kept."""
        return self.folder / "best"

    @property
    def folder(self) -> Path:
        """Where checkpoints are kept."""
        return Path(str(self.args.output_dir))

    def fit(self, *, resume: bool = True) -> bool:
        """Train to the end, from the newest whole checkpoint if `resume`. Returns whether the end was reached (a callback may stop it)."""
        checkpoint = newest_checkpoint(self.folder) if resume else None
        if checkpoint is not None:
            state = _read_state(checkpoint)
            self.stream.load_state_dict(state["stream"])
            self.best_value, self.best_step = state["best_value"], state["best_step"]
            if state["step"] >= self.args.max_steps:
                self._load_from_checkpoint(str(checkpoint))
                return True
        self._clock = (time.perf_counter(), self.stream.tokens)
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return bool(self.state.global_step >= self.args.max_steps)

    def get_train_dataloader(self) -> Any:
        return self.stream

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Batch], torch.Tensor]:
        """The step's batches of this worker and the step's count over all workers."""
        batches = list(islice(epoch_iterator, num_batches))
        count = torch.stack([self.objective.count(batch) for batch in batches]).sum().to(device)
        if self.args.world_size > 1:
            count = self.accelerator.gather(count).sum()
        return batches, count

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """This batch's share of the step's loss, times the number of workers because their gradients are averaged."""
        total, count, metrics = self.objective.loss(model, inputs, self.state.global_step)
        self._note(count, {"loss": total.detach(), **metrics})
        divisor = count if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        share = total / divisor.clamp_min(1e-12)
        penalty = self.gates.penalty(self.state.global_step) / self.current_gradient_accumulation_steps
        loss: torch.Tensor = share * self.args.world_size + penalty
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the objective's metrics, tokens and tokens per second since the last line."""
        if "loss" in logs and self._count:
            logs |= {name: value / self._count for name, value in self._sums.items() if name != "loss"}
            self._sums, self._count = {}, 0.0
            now, (then, tokens) = time.perf_counter(), self._clock
            logs |= {"tokens": self.stream.tokens, "tokens_per_second": (self.stream.tokens - tokens) / (now - then)}
            self._clock = (now, self.stream.tokens)
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure on held-out examples and keep the weights if they are the best so far."""
        if self.measure is None:
            return {}
        started = time.perf_counter()
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        measured = dict(self.measure(model))
        model.train(was_training)
        self._keep_best(measured[self.best_metric])
        metrics = {f"eval_{name}": value for name, value in measured.items()} | {"eval_seconds": time.perf_counter() - started}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._clock = (time.perf_counter(), self.stream.tokens)  # tokens per second are of training alone
        return metrics

    def _keep_best(self, value: float) -> None:
        better = value < self.best_value if self.best_metric == "loss" else value > self.best_value
        if better or math.isnan(self.best_value):
            self.best_value, self.best_step = value, self.state.global_step
            self.save_model(str(self.best_dir))

    def _note(self, count: torch.Tensor, metrics: Mapping[str, torch.Tensor]) -> None:
        self._count += float(count)
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = self.folder / f"checkpoint-{self.state.global_step}"
            state = {
                "step": self.state.global_step,
                "stream": self.stream.state_dict(),
                "best_value": self.best_value,
                "best_step": self.best_step,
            }
            _write_state(folder, state)


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint of a run, None without one. Incomplete ones, left by a kill, are removed."""
    found: list[tuple[int, Path]] = []
    for path in Path(folder).glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if not step.isdigit():
            continue
        if (path / STATE_FILE).is_file():
            found.append((int(step), path))
        else:
            shutil.rmtree(path)
    return max(found)[1] if found else None


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the checkpoint {folder} cannot be read: {error}; delete it to resume from the one before.") from error
    return dict(state)


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Atomic, because the file marks the folder as whole."""
    draft = folder / f"{STATE_FILE}.draft"
    try:
        draft.write_text(json.dumps(state), encoding="utf-8")
        draft.replace(folder / STATE_FILE)
    except OSError as error:
        raise StorageError(f"cannot write the checkpoint {folder}: {error}; free space and run again to resume.") from error
