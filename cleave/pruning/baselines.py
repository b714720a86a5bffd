"""Other ways to choose the units that go, for the same slicing: what gates have to beat at equal cost.

    start, details = cut(model, PruneConfig(method="magnitude"), seed=0)       then train what is left

magnitude    the units with the smallest group norm go: the root of the sum of squares of all weights of a unit (arXiv 1608.08710, with the
             2-norm, over all matrices that the unit has a part in)
random       drawn with a seed
deep layers  the deepest go, except the very last (the simple heuristic of arXiv 2403.17887)

Left out: training afterwards (`cleave distill` with prune.method), and gates without polarization (prune.polarization: 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from cleave.config.prune import PruneConfig, UnitKind
from cleave.gates import NoGates
from cleave.pruning.choice import Choice, closed_shares, most_voted
from cleave.pruning.slicing import slice_model
from cleave.pruning.target import Target, targets
from cleave.pruning.units import Anatomy, decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Targets = Mapping[UnitKind, Target]


class AlreadyCut(NoGates):
    """The Gates of a model that was cut before it is trained: nothing is left to decide."""

    def __init__(self, details: Mapping[str, Any]) -> None:
        self._details = dict(details)

    def summary(self) -> dict[str, Any]:
        return self._details


def cut(model: PreTrainedModel, config: PruneConfig, seed: int) -> tuple[PreTrainedModel, AlreadyCut]:
    """The smaller model that a method other than consensus makes, the same each time, and what says what was closed. Raises ConfigError for
    an architecture or a target that does not fit."""
    anatomy = Anatomy.of(model, config.block)
    wanted = targets(anatomy, config.sparsity)
    choice = chosen(config, model, anatomy, wanted, seed)
    kept = {kind: str(one) for kind, one in wanted.items()}
    return slice_model(model, choice, anatomy), AlreadyCut({"layout": "uniform", "kept": kept, "closed": closed_shares(choice)})


def chosen(config: PruneConfig, model: PreTrainedModel, anatomy: Anatomy, wanted: Targets, seed: int) -> Choice:
    """The units that stay by the config's method."""
    if config.method == "magnitude":
        return by_magnitude(model, anatomy, wanted)
    if config.method == "random":
        return at_random(anatomy, wanted, seed)
    return without_deep_layers(anatomy, wanted["layers"].kept)


def by_magnitude(model: PreTrainedModel, anatomy: Anatomy, targets: Targets) -> Choice:
    """The units with the largest group norms stay, as many in each layer."""
    return {kind: most_voted(group_norms(model, anatomy, kind), target.kept) for kind, target in targets.items()}


def at_random(anatomy: Anatomy, targets: Targets, seed: int = 0) -> Choice:
    """Units drawn from a seed stay, as many in each layer."""
    generator = torch.Generator().manual_seed(seed)
    rows = {kind: () if kind == "layers" else (anatomy.layers,) for kind in targets}
    return {kind: most_voted(torch.rand(*rows[kind], one.count, generator=generator), one.kept) for kind, one in targets.items()}


def without_deep_layers(anatomy: Anatomy, kept: int) -> Choice:
    """The first `kept` - 1 layers and the last one stay; of one, the first."""
    table = torch.arange(anatomy.layers) < max(1, kept - 1)
    table[-1] |= kept > 1
    return {"layers": table}


@torch.no_grad()
def group_norms(model: PreTrainedModel, anatomy: Anatomy, kind: UnitKind) -> torch.Tensor:
    """[layers, units] for heads and neurons, [layers] for layers."""
    layers = decoder_of(model).layers
    if kind == "layers":
        return torch.stack([_norm([part.flatten()[None] for part in layer.parameters()])[0] for layer in layers])
    units = anatomy.units[kind].count
    if kind == "heads":
        shared = anatomy.config.num_key_value_heads == 1
        parts = [([layer.self_attn.q_proj] + ([] if shared else [layer.self_attn.k_proj, layer.self_attn.v_proj])) for layer in layers]
        outputs = [layer.self_attn.o_proj for layer in layers]
    else:
        parts = [[layer.mlp.gate_proj, layer.mlp.up_proj] for layer in layers]
        outputs = [layer.mlp.down_proj for layer in layers]
    rows = []
    for inputs, output in zip(parts, outputs, strict=True):
        rows.append(_norm([part.weight.reshape(units, -1) for part in inputs] + [output.weight.t().reshape(units, -1)]))
    return torch.stack(rows)


def _norm(groups: list[torch.Tensor]) -> torch.Tensor:
    """The norm of each row over all matrices [units]."""
    return torch.stack([group.float().square().sum(1) for group in groups]).sum(0).sqrt()
