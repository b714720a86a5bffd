"""Batches for one worker, a whole optimiser step at a time, from one sampler that all workers replay alike.

A step takes the same examples however many workers share it: `batch_tokens` × `accumulation` tokens for each worker of a full group.
Where some are missing (elastic training), those that are there make more forward passes over the step. So a change of their number in
mid-run changes neither the order of examples nor the number of steps, tokens or the schedule; only the time that a step takes.

Left out: which example comes next (curriculum/sampler.py), tensors (packing.py), the loss of a step (training.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any

import torch

from cleave.curriculum.sampler import Sampler
from cleave.examples import Example
from cleave.packing import pack, pad, split_evenly

if TYPE_CHECKING:
    from cleave.on_policy import OwnReplies
    from cleave.packing import Batch


class StepStream:
    """Endless batches, `passes` per optimiser step. Each step is sorted by length and cut into as many batches as all workers take
    together, of which this one gets every `world_size`-th.

    `workers` are the fewest and the most of an elastic group, None: always `world_size`. Between two steps the state is the sampler's
    own, and that of one number of workers can be loaded with another.
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
        workers: tuple[int, int] | None = None,
    ) -> None:
        fewest, most = workers or (world_size, world_size)
        whole = accumulation * most
        self.sampler = sampler
        self.own_replies: OwnReplies | None = None
        """Replaces the targets of some steps by the student's own replies; None: of none."""
        self.tokens = 0
        self.steps = 0
        self.passes = -(-whole // world_size)
        """Forward passes of each worker per step."""
        self.problems: list[tuple[str, ...]] = []
        """Problem ids of this worker's batches of the step in progress."""
        self.step: list[Example] = []
        """The examples of the step in progress, those of all workers, as they were drawn; their places are the `numbers` of batches."""
        self.numbered = False
        """Whether batches say which of the step's examples each token belongs to."""
        self._parts = self.passes * world_size
        self._step_tokens = batch_tokens * whole
        self._least = max(-(-whole // count) * count for count in range(fewest, most + 1))  # an example for every batch of any group
        self._pad_id, self._max_length, self._packing = pad_id, max_length, packing
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        examples = iter(self.sampler)
        while True:
            parts = split_evenly(self._draw(examples), self._parts)
            self.step = [example for part in parts for example in part]
            numbers = self._numbers(parts)
            mine, extra = parts[self._rank :: self._world_size], {}
            if self.own_replies is not None and self.own_replies.replace(self.steps):
                mine, extra = self._replied(self.own_replies, numbers), {"own_replies": torch.tensor(True)}
            self.steps += 1
            self.problems = [tuple(example.problem_id for example in part) for part in mine]
            for part, places in zip(mine, numbers, strict=True):
                yield self.batch(part, places if self.numbered else None) | extra

    def batch(self, examples: Sequence[Example], numbers: Sequence[int] | None = None) -> Batch:
        """Examples as one batch, with their numbers if wanted."""
        if self._packing:
            return pack(examples, self._pad_id, self._max_length, numbers)
        return pad(examples, self._pad_id, numbers)

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "steps": self.steps, "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.tokens, self.steps = state["tokens"], state["steps"]
        self.sampler.load_state_dict(state["sampler"])

    def _numbers(self, parts: Sequence[Sequence[Example]]) -> list[range]:
        """The places in the whole step of the examples of each of this worker's parts."""
        starts = list(accumulate(map(len, parts), initial=0))
        return [range(starts[k], starts[k + 1]) for k in range(self._rank, len(parts), self._world_size)]

    def _replied(self, own_replies: OwnReplies, numbers: Sequence[range]) -> list[list[Example]]:
        """This worker's parts with the student's own replies, which depend on the examples' places in the whole step."""
        places = [place for part in numbers for place in part]
        replied = iter(own_replies([self.step[place] for place in places], self.steps, places))
        return [list(islice(replied, len(part))) for part in numbers]

    def _draw(self, examples: Iterator[Example]) -> list[Example]:
        drawn: list[Example] = []
        tokens = 0
        while tokens < self._step_tokens or len(drawn) < self._least:
            drawn.append(next(examples))
            tokens += len(drawn[-1])
        self.tokens += tokens
        return drawn
