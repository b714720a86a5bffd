"""The seam of structured pruning: gates that may be attached to a model while it trains. Only the no-op is here.

The trainer calls `attach` once before the first step, adds `penalty(step)` to the loss of each step, and `slice` after the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Gates(Protocol):
    """Multiplicative gates on parts of a model."""

    def attach(self, model: PreTrainedModel) -> None:
        """Put the gates into the model; their parameters become the model's."""
        ...

    def penalty(self, step: int) -> torch.Tensor | float:
        """What to add to the mean loss of optimiser step `step`; 0.0 for nothing."""
        ...

    def consensus(self) -> None:
        """Make all workers agree on which gates are closed."""
        ...

    def slice(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return a model without the parts whose gates are closed, and without gates."""
        ...


class NoGates:
    """Trains the model as it is."""

    def attach(self, model: PreTrainedModel) -> None:
        return None

    def penalty(self, step: int) -> float:
        return 0.0

    def consensus(self) -> None:
        return None

    def slice(self, model: PreTrainedModel) -> PreTrainedModel:
        return model
