"""The gating module of a layer: from the pooled input of the layer to a decision per unit, 0 or 1, through which gradients pass.

    logits  = 10 · (W₂ ReLU(W₁ norm(pooled)) + b)       the factor lets gates move ten times as fast as weights under Adam
    sigmoid = σ(logits - threshold)
    gate    = 1 if the sigmoid is above one half, else 0                forward
    ∂gate   = ∂sigmoid                                                  backward: the straight-through estimator (arXiv 1308.3432)

Where units compete for m places, the threshold of an input lies halfway between its m-th logit and the next; so m units are open, and only
differences between logits matter, which no term of the loss can drive to where a sigmoid has no gradient. Otherwise it is 0.

Left out: what is pooled and where gates are applied (gate_bank.py), which gates stay open in the end (consensus_gates.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cleave.pruning.choice import most_voted

_SPEED = 10.0
_OPEN = 0.1
"""At first every logit is about _SPEED · _OPEN, which is open."""


class Gate(nn.Module):
    """Decisions of one kind of unit in one layer."""

    def __init__(self, hidden: int, units: int, size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden, size)
        self.outer = nn.Linear(size, units)
        nn.init.normal_(self.outer.weight, std=0.02)
        nn.init.constant_(self.outer.bias, _OPEN)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits [inputs, units] from pooled states [inputs, hidden], in float32 whatever autocast says; states get no gradient."""
        with torch.autocast(pooled.device.type, enabled=False):
            states = F.rms_norm(pooled.detach().float(), pooled.shape[-1:])
            logits: torch.Tensor = _SPEED * self.outer(F.relu(self.inner(states)))
            return logits


def likelihoods(logits: torch.Tensor, places: int | None) -> torch.Tensor:
    """Sigmoids [inputs, units]: above one half for the `places` highest of each input; None: where the logit is above 0."""
    return torch.sigmoid(logits if places is None else logits - threshold(logits.detach(), places))


def threshold(logits: torch.Tensor, places: int) -> torch.Tensor:
    """Between the last open logit of each input and the first closed one [inputs, 1]; below all of them where all are open."""
    ordered = logits.sort(-1, descending=True).values
    if places == logits.shape[-1]:
        return ordered[:, -1:] - _SPEED * _OPEN
    return (ordered[:, places - 1 : places] + ordered[:, places : places + 1]) / 2


def decide(sigmoids: torch.Tensor, places: int | None) -> torch.Tensor:
    """Gates [inputs, units], 0 or 1: those of the `places` highest sigmoids of each input; None: of those above one half."""
    hard = (sigmoids > 0.5) if places is None else most_voted(sigmoids.detach(), places)
    return hard.to(sigmoids) + (sigmoids - sigmoids.detach())
