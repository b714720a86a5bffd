"""The seam of structured pruning: gates that may be attached to a model while it trains. Only the no-op is here.

The trainer calls `attach` once before the first step, adds `penalty` to the loss of each forward pass, calls `consensus` after the last,
and `slice` whenever it keeps the best weights, which it does only once the gates are final. Gates are in pruning/consensus_gates.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Gates(Protocol):
    """Multiplicative gates on parts of a model."""

    @property
    def final(self) -> bool:
        """Whether the gates are what they will be in the end, so that what is measured now is of the model that `slice` returns."""
        ...

    def attach(self, model: PreTrainedModel) -> None:
        """Put the gates into the model; their parameters become the model's."""
        ...

    def penalty(self, step: int, inputs: int) -> torch.Tensor | float:
        """The last forward pass's share of what is added to the loss of optimiser step `step`, which has so many inputs over all passes and
        workers; 0.0 for nothing."""
        ...

    def consensus(self) -> None:
        """Make all workers agree on which gates are closed, for good. Called by all of them; once the gates are final it does nothing."""
        ...

    def slice(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return a model without the parts whose gates are closed, and without gates; `model` itself where there are none."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """What is logged beside the loss."""
        ...

    def summary(self) -> Mapping[str, Any]:
        """What was closed, for people who read the result; empty without gates."""
        ...


class NoGates:
    """Trains the model as it is."""

    final = True

    def attach(self, model: PreTrainedModel) -> None:
        return None

    def penalty(self, step: int, inputs: int) -> float:
        return 0.0

    def consensus(self) -> None:
        return None

    def slice(self, model: PreTrainedModel) -> PreTrainedModel:
        return model

    def metrics(self) -> dict[str, float]:
        return {}

    def summary(self) -> dict[str, Any]:
        return {}
