"""What is minimised. An objective returns a sum and a count, so that the loss of a step does not depend on how it was cut up.

The step's loss is Σ sums / Σ counts over all accumulated batches and all workers. `count` depends on the batch alone, so that the
trainer knows the divisor before the first backward pass.

Whoever wants to know of single examples (curriculum/observer.py) sets `listener`, which is told of each learned place of a batch at no
cost of its own.

Here: cross-entropy on the targets. A teacher's distributions are learned by distribution_matching.py, through the same protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from cleave.packing import Batch

Metrics = Mapping[str, torch.Tensor]
Listener = Callable[["Batch", torch.Tensor, torch.Tensor, torch.Tensor], None]
"""(batch, learned [B, T - 1], nats [N], hits [N]): the loss at the N learned places, row by row, and where greedy choice is the target."""


class Objective(Protocol):
    """A loss over one batch (packing.py says what a batch holds)."""

    def count(self, batch: Batch) -> torch.Tensor:
        """The weight of the batch in its step, a scalar; also returned by `loss`."""
        ...

    def loss(self, model: torch.nn.Module, batch: Batch, step: int) -> tuple[torch.Tensor, torch.Tensor, Metrics]:
        """Return (sum, count, metrics): scalars; metrics are sums over the batch's learned tokens, detached, reported over the count."""
        ...


class CrossEntropy:
    """Negative log-likelihood in nats of the learned tokens, each times its weight; the metric `accuracy` is of greedy choice."""

    listener: Listener | None = None

    def count(self, batch: Batch) -> torch.Tensor:
        return batch["weights"][:, 1:].sum()

    def loss(self, model: torch.nn.Module, batch: Batch, step: int) -> tuple[torch.Tensor, torch.Tensor, Metrics]:
        weights = batch["weights"][:, 1:]
        learned = weights > 0
        logits = selected_logits(model, batch, learned)  # [N, V], N learned tokens, V vocabulary
        targets = batch["input_ids"][:, 1:][learned]
        weight = weights[learned]
        nll = F.cross_entropy(logits.float(), targets, reduction="none")
        hits = greedy_hits(logits, targets)
        if self.listener is not None:
            self.listener(batch, learned, nll.detach(), hits)
        return (nll * weight).sum(), weight.sum(), {"accuracy": (hits * weight).sum()}


@torch.no_grad()
def greedy_hits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The places [N] where the most likely of the logits [N, V] is the target."""
    return logits.argmax(-1) == targets


def selected_logits(model: torch.nn.Module, batch: Batch, learned: torch.Tensor) -> torch.Tensor:
    """Logits [N, V] that predict token t + 1 from t wherever `learned` [B, T - 1] is set, in row order.

    The output layer sees only those places: vocabulary × tokens is a large share of a small model's cost. The choice is made by a hook
    before the output layer, because the call has to go through `model` itself, which may be wrapped (DDP, FSDP, PEFT).
    """
    inputs: dict[str, Any] = {key: batch[key] for key in ("input_ids", "position_ids") if key in batch}
    with _selecting(model, learned):
        return model(**inputs, use_cache=False).logits  # type: ignore[no-any-return]


@contextmanager
def _selecting(model: torch.nn.Module, learned: torch.Tensor) -> Iterator[None]:
    head = getattr(model, "module", model).get_output_embeddings()  # type: ignore[operator]

    def choose(_: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (args[0][:, :-1][learned],)

    handle = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()
