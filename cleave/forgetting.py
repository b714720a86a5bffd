"""Temporary forgetting (arXiv 2406.00053): embeddings are taken away again and again early in training, so that the model learns to use
tokens by where they stand before it knows them by heart. Names that it has never seen profit.

ResetEmbeddings    every k steps of the first N all embeddings are drawn anew, for training from scratch
NoisyEmbeddings    in each of the first N steps some of the step's tokens have random embeddings, and no embedding is learned, for
                   checkpoints whose embeddings are worth keeping

Both are callbacks of the trainer. What they draw is a function of (seed, step), the same on all workers and after a resume. Where input and
output embedding are one, the output is taken away too. Left out: sharded weights (FSDP) and adapters, whose embeddings are not trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from cleave.seeds import derive_seed

if TYPE_CHECKING:
    from cleave.stream import StepStream


class ResetEmbeddings(TrainerCallback):
    """After step k, 2k, … up to step `steps` (None: to the end) the embedding is N(0, initializer_range) again, and its optimiser state
    with it. A checkpoint of that step holds the new embedding."""

    def __init__(self, *, every: int, steps: int | None, seed: int = 0) -> None:
        self._every, self._steps, self._seed = every, steps, seed

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any = None, optimizer: Any = None, **kwargs: Any) -> None:
        step = state.global_step
        if step % self._every or (self._steps is not None and step > self._steps):
            return
        weight = _embedding(model)
        with torch.no_grad():
            weight.copy_(_drawn(model, weight.shape, derive_seed("reset embeddings", self._seed, step)))
        for value in _optimiser_state(optimizer, weight):
            value.zero_()


class NoisyEmbeddings(TrainerCallback):
    """In each of the first `steps` steps (None: in all) a `share` of the distinct tokens of the step, over all workers, has embeddings from
    N(0, initializer_range) for the forward and backward passes; then all are as before, without an update."""

    def __init__(self, stream: StepStream, *, share: float, steps: int | None, seed: int = 0) -> None:
        self._stream, self._share, self._steps, self._seed = stream, share, steps, seed
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None  # ids [n], rows [n, width]

    def on_step_begin(self, args: Any, state: Any, control: Any, *, model: Any = None, **kwargs: Any) -> None:
        if self._steps is not None and state.global_step >= self._steps:
            return
        weight, seed = _embedding(model), derive_seed("noisy embeddings", self._seed, state.global_step)
        tokens = torch.tensor(sorted({token for example in self._stream.step for token in example.input_ids}))
        chosen = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))[: round(self._share * len(tokens))]
        ids = tokens[chosen].to(weight.device)
        with torch.no_grad():
            self._kept = (ids, weight[ids].clone())
            weight[ids] = _drawn(model, (len(ids), weight.shape[1]), seed).to(weight)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any = None, **kwargs: Any) -> None:
        if self._kept is None:
            return
        weight, (ids, rows) = _embedding(model), self._kept
        with torch.no_grad():
            weight[ids] = rows
        weight.grad = None
        self._kept = None


def _embedding(model: Any) -> torch.nn.Parameter:
    weight: torch.nn.Parameter = getattr(model, "module", model).get_input_embeddings().weight
    return weight


def _drawn(model: Any, shape: Any, seed: int) -> torch.Tensor:
    """On the CPU, so that every device gets the same numbers."""
    scale = getattr(getattr(model, "module", model).config.get_text_config(), "initializer_range", 0.02)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def _optimiser_state(optimizer: Any, weight: torch.nn.Parameter) -> list[torch.Tensor]:
    """The running moments of a parameter."""
    inner = getattr(optimizer, "optimizer", optimizer)
    state: dict[str, Any] = inner.state.get(weight, {})
    return [value for value in state.values() if isinstance(value, torch.Tensor) and value.shape == weight.shape]
