"""The trainers that bench/distill.py compares: ours, and TRL's on the same examples. Each is a row that trains a few steps at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

import cleave.stream
from cleave.config.distill import DistillConfig
from cleave.curriculum.sampler import ShuffledSource, StagedSampler
from cleave.examples import Example
from cleave.heldout import question
from cleave.objectives import Objective
from cleave.stream import StepStream
from cleave.training import RoleTrainer
from pipelines.assembly import training_arguments
from pipelines.start import load_start
from pipelines.teachers import load_teacher


@dataclass(frozen=True)
class Setting:
    """What all rows share: `examples` are those that both trainers learn from, `stored` the same with distributions."""

    config: DistillConfig
    examples: list[Example]
    stored: list[Example]
    tokenizer: Any
    folder: Path
    steps: int

    def student(self) -> Any:
        """A new model, each time with the same weights."""
        return load_start(self.config)[0]

    def teacher(self) -> Any:
        """The teacher, loaded anew."""
        assert self.config.objective.teacher is not None
        return load_teacher(self.config, self.config.objective.teacher)


@dataclass
class Row:
    """One way to train. `run` trains some steps and returns (tokens, seconds) of all but the first."""

    name: str
    run: Callable[[], tuple[int, float]]
    speeds: list[float] = field(default_factory=list)


class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Notes time and tokens at the end of each step; `count` says how many tokens were trained so far."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._now = time.perf_counter if torch.cuda.is_available() else time.process_time
        self._notes: list[tuple[int, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._notes.append((self._count(), self._now()))

    def read(self) -> tuple[int, float]:
        (first, start), (last, end) = self._notes[0], self._notes[-1]
        self._notes.clear()
        return last - first, end - start


def ours(name: str, setting: Setting, objective: Objective, *, stored: bool = False, packing: bool = False, in_order: bool = False) -> Row:
    """The trainer of `cleave distill` on the examples in memory; `in_order`: without sorting a step by length."""
    train = setting.config.train
    sampler = StagedSampler({"all": ShuffledSource(setting.stored if stored else setting.examples)}, total_tokens=10**9)
    stream = StepStream(
        sampler,
        batch_tokens=train.per_device_train_batch_tokens,
        accumulation=train.gradient_accumulation_steps,
        packing=packing,
        max_length=train.max_length,
    )
    clock = Clock(lambda: stream.tokens)
    arguments = training_arguments(setting.config, setting.folder / name.replace(" ", "-"), stream.passes)
    trainer = RoleTrainer(setting.student(), arguments, stream=stream, objective=objective, tokenizer=setting.tokenizer, callbacks=[clock])

    def run() -> tuple[int, float]:
        with unsorted(in_order):
            trainer.fit(resume=False)
        return clock.read()

    return Row(name, run)


@contextmanager
def unsorted(wanted: bool) -> Iterator[None]:
    """Cut steps in the order in which their examples were drawn."""
    sort = cleave.stream.split_evenly
    if wanted:
        cleave.stream.split_evenly = in_runs
    yield
    cleave.stream.split_evenly = sort


def in_runs(examples: Sequence[Example], parts: int) -> list[list[Example]]:
    """`parts` runs of about equal numbers of tokens."""
    limit = sum(map(len, examples)) / parts
    runs: list[list[Example]] = [[]]
    for example in examples:
        if len(runs) < parts and sum(map(len, runs[-1])) >= limit:
            runs.append([])
        runs[-1].append(example)
    return runs


def their_arguments(setting: Setting, name: str, batch_size: int) -> dict[str, Any]:
    """Hugging Face's arguments as ours are, for a trainer that counts a batch in rows."""
    train = setting.config.train
    mine = training_arguments(setting.config, setting.folder / name, train.gradient_accumulation_steps)
    names = ("max_steps", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "optim", "adam_beta2", "weight_decay")
    same = {key: getattr(mine, key) for key in (*names, "max_grad_norm", "bf16", "use_cpu", "seed", "disable_tqdm")}
    quiet = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "gradient_checkpointing": False}
    return {"output_dir": str(setting.folder / name), "per_device_train_batch_size": max(1, batch_size), **same, **quiet}


def sft_trainer(setting: Setting) -> Row:
    """TRL's trainer with its default packing, rows of the same length as ours."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    train = setting.config.train
    labels = [[i if on else -100 for i, on in zip(e.input_ids, e.loss_mask, strict=True)] for e in setting.examples]
    data = Dataset.from_dict({"input_ids": [list(e.input_ids) for e in setting.examples], "labels": labels})
    arguments = their_arguments(setting, "sft", train.per_device_train_batch_tokens // train.max_length)
    counted = 0

    class Counting(SFTTrainer):  # type: ignore[misc, unused-ignore]
        def training_step(self, model: Any, inputs: Any, *others: Any, **named: Any) -> Any:
            nonlocal counted
            counted += int(inputs["input_ids"].numel())  # packed rows are laid end to end, without padding
            return super().training_step(model, inputs, *others, **named)

    clock = Clock(lambda: counted)
    trainer = Counting(
        setting.student(),
        SFTConfig(**arguments, packing=True, max_length=train.max_length),
        train_dataset=data,
        processing_class=setting.tokenizer,
        callbacks=[clock],
    )
    return Row("SFTTrainer, packing", lambda: (trainer.train(), clock.read())[1])


def distillation_trainer(setting: Setting, beta: float) -> Row:
    """TRL's trainer with the live teacher, on given targets instead of its own samples."""
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    mean = statistics.mean(map(len, setting.examples))
    arguments = their_arguments(setting, "distillation", round(setting.config.train.per_device_train_batch_tokens / mean))
    pairs = [question(example) for example in setting.examples]
    counted = 0

    class OnGivenTargets(DistillationTrainer):  # type: ignore[misc, unused-ignore]
        def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
            nonlocal counted
            chosen = [pairs[int(prompt)] for prompt in prompts]
            counted += sum(len(prompt) + len(reply) for prompt, reply in chosen)
            return [list(prompt) for prompt, _ in chosen], [list(reply) for _, reply in chosen], None, None, []

    clock = Clock(lambda: counted)
    trainer = OnGivenTargets(
        setting.student(),
        setting.teacher(),
        DistillationConfig(**arguments, beta=beta),
        train_dataset=Dataset.from_dict({"prompt": [str(k) for k in range(len(pairs))]}),
        processing_class=setting.tokenizer,
        callbacks=[clock],
    )
    return Row("DistillationTrainer", lambda: (trainer.train(), clock.read())[1])
