"""Tells a sampler that listens how each example of a step went, from the forward passes of training itself.

The objective names the loss and the hits of every learned token (objectives.py); here they are summed by example, and after the step the
sampler observes all of the step's examples at once. An example is solved if the greedy choice is right at each of its learned tokens:
then, and only then, greedy decoding from its prompt writes exactly its target.

All workers replay one sampler, so they have to observe the same. Each has the examples of the whole step but looked at its own share; the
sums of all workers are added up, where every other worker has zeros, so that all of them get the same numbers, bit by bit. The sampler
observes before a checkpoint is written: what it knows is in its state, and a resumed run draws what an uninterrupted one does.
Another number of workers changes how a step is cut into batches, and with it losses in their last digits, like all of training.

Left out: what a sampler makes of it; steps whose targets are the student's own replies, which say nothing about their examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import reduce  # type: ignore[import-untyped, unused-ignore]
from transformers import TrainerCallback, TrainingArguments

from cleave.curriculum.sampler import Observation
from cleave.objectives import CrossEntropy
from cleave.stream import StepStream

if TYPE_CHECKING:
    from cleave.distribution_matching import DistributionMatching
    from cleave.packing import Batch

LOSS, LEARNED, MISSED = range(3)


class Observer(TrainerCallback):
    """A callback of the trainer that steps through `stream` and minimises `objective`; it listens while a step is in progress, so that
    held-out measurements in between are not mistaken for training."""

    def __init__(self, stream: StepStream, objective: CrossEntropy | DistributionMatching) -> None:
        stream.numbered = True
        self._stream, self._objective = stream, objective
        self._sums: torch.Tensor | None = None  # [3, examples of the step]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._sums = None
        self._objective.listener = self._note

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self._objective.listener = None
        self._stream.sampler.observe(self._results(args))

    def _note(self, batch: Batch, learned: torch.Tensor, nats: torch.Tensor, hits: torch.Tensor) -> None:
        if "own_replies" in batch:
            return
        if self._sums is None:
            self._sums = torch.zeros(3, len(self._stream.step), device=nats.device)
        numbers = batch["numbers"][:, 1:][learned]
        self._sums.index_add_(1, numbers, torch.stack([nats.float(), torch.ones_like(nats, dtype=torch.float), (~hits).float()]))

    def _results(self, args: TrainingArguments) -> list[Observation]:
        if self._sums is None:  # on all workers alike: a step is of own replies or not
            return []
        sums = self._sums if args.world_size == 1 else reduce(self._sums, reduction="sum")
        loss, learned, missed = sums.tolist()
        return [
            Observation(example.problem_id, example.skill, example.depth, loss[k] / learned[k], solved=missed[k] == 0)
            for k, example in enumerate(self._stream.step)
            if learned[k]
        ]
