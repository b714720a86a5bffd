"""Which units stay, as tables of 0 and 1; from votes here, from weights or chance in baselines.py.

A Choice maps a kind of unit to a bool tensor: [layers, units] for heads and neurons, [layers] for layers; an absent kind stays whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cleave.config.prune import UnitKind

Choice = dict[UnitKind, torch.Tensor]


def most_voted(votes: torch.Tensor, kept: int) -> torch.Tensor:
    """Along the last axis the `kept` places with the most votes, of equal ones the first."""
    order = votes.argsort(dim=-1, descending=True, stable=True)[..., :kept]
    return torch.zeros_like(votes, dtype=torch.bool).scatter_(-1, order, True)


def majority(votes: torch.Tensor) -> torch.Tensor:
    """Where more than half of the inputs, as shares in [0, 1], want the unit."""
    return votes > 0.5


def with_a_layer(choice: Choice, votes: Mapping[UnitKind, torch.Tensor]) -> Choice:
    """Where all layers were voted out, the one with the most votes stays: a model without layers loads nowhere."""
    layers = choice.get("layers")
    if layers is None or bool(layers.any()):
        return choice
    return choice | {"layers": most_voted(votes["layers"], 1)}


def closed_shares(choice: Choice) -> dict[UnitKind, list[float]]:
    """The share of closed units by kind and layer; everything in a layer that goes is closed."""
    layers = choice.get("layers")
    shares: dict[UnitKind, list[float]] = {}
    for kind, table in choice.items():
        open_ = table[:, None] if table.dim() == 1 else table
        open_ = open_ if layers is None else open_ & layers[:, None].to(open_.device)
        shares[kind] = (1 - open_.float().mean(-1)).tolist()
    return shares
