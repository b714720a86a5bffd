"""What gates add to the loss: a term that makes each decide alike for all inputs, and one that holds the number of open gates.

    polarization   mean over gates of r (1 - r), r the gate's mean over inputs: 0 if all inputs agree, at most 1/4, where half do
    activity       uniform: mean over inputs and layers of (p - m/n)², p the mean sigmoid of n gates that compete for m places;
                   free: mean over inputs of (Σ w g - target)², w a unit's share of the cost of all, g whether it is open

The formulas are a reconstruction of what arXiv 2302.10798 describes. The rates r are running ones, over all workers and many steps, so
that inputs that come in different batches (those of a batch are of about one length) have to agree too; gradients are those of a step's
inputs, each with the same weight, however the step is cut up.
"""

from __future__ import annotations

import torch

_MEMORY = 0.9
"""Share of the running mean that stays from one step to the next."""


def remember(running: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """The running mean after a step with the mean `step`."""
    return _MEMORY * running + (1 - _MEMORY) * step


def with_gradient(running: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """The running mean, through which gradients reach `part`, a forward pass's share of the step's mean."""
    return running + (part - part.detach())


def counted_as(value: torch.Tensor, share: float) -> torch.Tensor:
    """`share` of a value with all of its gradient: the passes of a step then add up to the value and to its gradient."""
    return value - (1 - share) * value.detach()


def polarization(rates: torch.Tensor) -> torch.Tensor:
    """From the rates of any number of gates, in [0, 1]; a scalar in [0, 1/4]."""
    return (rates * (1 - rates)).mean()


def crowding(sigmoids: torch.Tensor, share: float) -> torch.Tensor:
    """Activity of the uniform layout, summed over inputs: sigmoids [layers, inputs, units] against the share of open places. Competition
    opens as many as there are places; this term keeps them as far above the threshold as the others are below it."""
    return ((sigmoids.mean(-1) - share) ** 2).mean(0).sum()


def excess(spent: torch.Tensor, target: float) -> torch.Tensor:
    """Activity of the free layout, summed over inputs: the share of the cost that each input [inputs] spends against what is to stay."""
    return ((spent - target) ** 2).sum()
