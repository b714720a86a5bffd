"""The trainer: transformers.Trainer with our four seams (examples, sampler, objective, gates), on one device or one worker of many.

What differs from the parent: batches come from a StepStream as whole optimiser steps; the loss is Σ sums / Σ counts over the step, over
all accumulated batches and workers; a checkpoint holds the sampler's state, so that a resumed run sees the same next batches; the best
weights by held-out metric are kept aside; a step whose gradient is not finite ends the training before it touches the weights.
Everything else (optimiser, schedule, FSDP, trackers, LoRA) is the parent's.

    trainer = RoleTrainer(model, arguments, tokenizer=tokenizer, stream=stream, objective=CrossEntropy())
    trainer.fit(resume=True)

Left out: which examples make a step (stream.py), configs and run folders (pipelines/distill.py), held-out measurements (heldout.py).
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list, gather_object  # type: ignore[import-untyped, unused-ignore]
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging as transformers_logging

from cleave.errors import ConfigError, StorageError, TrainingError
from cleave.gates import Gates, NoGates
from cleave.objectives import Objective
from cleave.stream import StepStream

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cleave.packing import Batch

Measure = Callable[["PreTrainedModel"], Mapping[str, float]]
STATE_FILE = "cleave_state.json"
"""Written last into a checkpoint: a folder without it is incomplete."""
_NAMED = 5
"""Problems of a bad batch that an error names."""


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
        self._passes = 0
        self._suspects: list[str] = []
        self._saved = 0
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
        """Train to the end, from the newest whole checkpoint if `resume`. Returns whether the end was reached (a callback may stop it).

        Raises TrainingError for a loss, gradient or weight that is not finite, StorageError where a checkpoint cannot be written; the
        checkpoints before stay.
        """
        _recover(self.best_dir)
        checkpoint = newest_checkpoint(self.folder) if resume else None
        if checkpoint is not None:
            state = _read_state(checkpoint)
            self._saved = state["step"]
            self.stream.load_state_dict({"steps": state["step"], **state["stream"]})  # states of older runs do not count steps
            self.best_value, self.best_step = state["best_value"], state["best_step"]
            if state["step"] >= self.args.max_steps:
                self._load_from_checkpoint(str(checkpoint))
                return True
        self._clock = (time.perf_counter(), self.stream.tokens)
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finished = bool(self.state.global_step >= self.args.max_steps)
        if finished:
            self.gates.consensus()
        return finished

    def get_train_dataloader(self) -> Any:
        return self.stream

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Batch], torch.Tensor]:
        """The step's batches of this worker and the step's count over all workers."""
        self._passes, self._suspects = 0, []
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
        sequences = sum(max(1, len(example.segments)) for example in self.stream.step)
        loss: torch.Tensor = (share + self.gates.penalty(self.state.global_step, sequences)) * self.args.world_size
        if not torch.isfinite(loss):
            self._suspects += self.stream.problems[self._passes]
        self._passes += 1
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the objective's metrics, tokens and tokens per second since the last line."""
        if "loss" in logs and self._count:
            logs |= {name: value / self._count for name, value in self._sums.items() if name != "loss"}
            self._sums, self._count = {}, 0.0
            now, (then, tokens) = time.perf_counter(), self._clock
            logs |= {"tokens": self.stream.tokens, "tokens_per_second": (self.stream.tokens - tokens) / (now - then)}
            self._clock = (now, self.stream.tokens)
            logs |= self.gates.metrics()
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
        if self.args.world_size > 1:  # workers may differ in the last digit, and have to agree on which weights are the best
            [measured] = broadcast_object_list([measured])
        if not math.isfinite(loss := measured.get("loss", measured[self.best_metric])):
            raise TrainingError(self._ends(f"the held-out loss after step {self.state.global_step} is {loss}"))
        self._keep_best(measured[self.best_metric])
        metrics = {f"eval_{name}": value for name, value in measured.items()} | {"eval_seconds": time.perf_counter() - started}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._clock = (time.perf_counter(), self.stream.tokens)  # tokens per second are of training alone
        return metrics

    def _keep_best(self, value: float) -> None:
        if not self.gates.final:
            return
        better = value < self.best_value if self.best_metric == "loss" else value > self.best_value
        if better or math.isnan(self.best_value):
            self.best_value, self.best_step = value, self.state.global_step
            draft = self.folder / "best.draft"
            with _writing(draft):
                self.save_sliced(draft)
                if self.args.should_save:
                    _replace(self.best_dir, draft)

    def save_sliced(self, folder: Path) -> None:
        """Write the weights as they will be used: without gates, and without what these close."""
        model = self.accelerator.unwrap_model(self.model)
        sliced = self.gates.slice(model)
        if sliced is model:
            self.save_model(str(folder))
        elif self.args.should_save:
            sliced.save_pretrained(str(folder))
            if self.processing_class is not None:
                self.processing_class.save_pretrained(str(folder))

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The parent asks for it once per step, after the workers have shared their gradients and before the weights change: the place
        where all workers see alike that a step is bad."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        if not math.isfinite(float(_whole(norm))):
            suspects = self._suspects or [problem for batch in self.stream.problems for problem in batch]
            if self.args.world_size > 1:
                found = gather_object([(bool(self._suspects), suspects)])
                guilty = any(known for known, _ in found)
                suspects = [problem for known, problems in found if known or not guilty for problem in problems]
            raise TrainingError(self._ends(f"the loss or gradient of step {self.state.global_step + 1} is not finite", suspects))
        return norm

    def _check_weights(self) -> None:
        """Raise TrainingError on all workers if the last step left a weight that is not finite."""
        trained: Iterator[Any] = (part for part in self.accelerator.unwrap_model(self.model).parameters() if part.requires_grad)
        finite = all(bool(torch.isfinite(part.to_local() if hasattr(part, "to_local") else part).all()) for part in trained)
        if self.args.world_size > 1:
            finite = all(gather_object([finite]))
        if not finite:
            raise TrainingError(self._ends(f"step {self.state.global_step} left weights that are not finite"))

    def _ends(self, what: str, problems: Sequence[str] = ()) -> str:
        """Why a training cannot go on, and what to do."""
        named = list(dict.fromkeys(problem for problem in problems if problem))
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        batch = f" (its batch: {', '.join(named[:_NAMED])}{more})" if named else ""
        kept = f"the checkpoint of step {self._saved} is the last" if self._saved else "there is no checkpoint yet"
        cure = "lower train.learning_rate" + (", or leave those problems out," if named else ", or mend the data,")
        return f"{what}{batch}; {kept}: {cure} and train under another name."

    def _note(self, count: torch.Tensor, metrics: Mapping[str, torch.Tensor]) -> None:
        self._count += float(count)
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """The parent calls weights missing that are tied to others and therefore not saved."""
        tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", {})
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._check_weights()
        step = self.state.global_step
        folder = self.folder / f"checkpoint-{step}"
        with _writing(folder):
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                best = {"best_value": self.best_value, "best_step": self.best_step}
                _write_state(folder, {"step": step, "stream": self.stream.state_dict(), **best})
        self._saved = step


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
    draft.write_text(json.dumps(state), encoding="utf-8")
    draft.replace(folder / STATE_FILE)


def _whole(value: Any) -> Any:
    """A number that FSDP keeps in parts on the workers, put together."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Remove what the body wrote if the disk fails, so that an older checkpoint stays the newest whole one. Raises StorageError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch.save has no error type of its own
            raise
        shutil.rmtree(folder, ignore_errors=True)
        reason = " ".join(str(error).split())[:200]
        raise StorageError(f"cannot write the checkpoint {folder} ({reason}); free space and run again to resume.") from error


def _replace(folder: Path, draft: Path) -> None:
    """Put a whole folder in the place of an older one, of which a kill in between leaves one or the other (see _recover)."""
    aside = folder.with_name(f"{folder.name}.before")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    draft.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Undo a replacement that a kill cut short."""
    aside = folder.with_name(f"{folder.name}.before")
    if aside.exists() and not folder.exists():
        aside.rename(folder)
