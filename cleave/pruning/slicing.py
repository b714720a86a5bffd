"""A physically smaller model from a choice of units: a plain one that `AutoModelForCausalLM.from_pretrained` loads without Cleave.

All layers of a plain model have the same numbers of heads and neurons, so each keeps as many units as the fullest layer, rounded up to a
number that loads; closed units among them answer with zeros. So the sliced model computes exactly what the gated one does. A Llama without
biases whose head count no longer divides its width is written as `mistral`, which is the same computation.

    sliced = slice_model(model, choice, Anatomy.of(model, block=32))

Left out: which units go (consensus_gates.py, baselines.py), gates (the weights of gates in the model's state are dropped).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, MistralConfig

from cleave.config.prune import UnitKind
from cleave.errors import ConfigError
from cleave.pruning.choice import Choice
from cleave.pruning.units import Anatomy, becomes_mistral, head_dim

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_LAYER = re.compile(r"(.*?\blayers\.)(\d+)\.(.+)")
_OUTPUT: dict[UnitKind, str] = {"heads": "self_attn.o_proj", "neurons": "mlp.down_proj"}
_INPUTS: dict[UnitKind, tuple[str, ...]] = {
    "heads": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "neurons": ("mlp.gate_proj", "mlp.up_proj"),
}


@dataclass(frozen=True)
class Cut:
    """What stays of one kind in one layer: the units by number, and which of them are closed."""

    units: torch.Tensor
    closed: torch.Tensor


def slice_model(model: PreTrainedModel, choice: Choice, anatomy: Anatomy) -> PreTrainedModel:
    """A new model, in the dtype and on the device of the old one, without gates. Torch's generators stay as they are.

    Raises ConfigError where no number of heads from what is kept on would load, and where no layer stays.
    """
    layers = kept_layers(choice, anatomy)
    counts = {kind: fullest(choice, kind, layers, anatomy) for kind in _OUTPUT}
    config = sliced_config(model.config, layers, counts, anatomy)
    kind = AutoModelForSequenceClassification if hasattr(model, "score") else AutoModelForCausalLM
    with torch.random.fork_rng():
        sliced: Any = kind.from_config(config, attn_implementation=model.config._attn_implementation)  # type: ignore[no-untyped-call]
    sliced.to(dtype=model.dtype, device=model.device)
    known = sliced.state_dict().keys()  # not those of gates
    sliced.load_state_dict({name: value for name, value in sliced_weights(model, choice, layers, counts, anatomy) if name in known})
    if model.can_generate():
        sliced.generation_config = copy.deepcopy(model.generation_config)
    plain: PreTrainedModel = sliced.train(model.training)
    return plain


def kept_layers(choice: Choice, anatomy: Anatomy) -> list[int]:
    """The layers that stay, in order."""
    table = choice.get("layers")
    kept = list(range(anatomy.layers)) if table is None else table.nonzero().flatten().tolist()
    if not kept:
        raise ConfigError("all layers are to be removed; keep at least one.")
    return kept


def fullest(choice: Choice, kind: UnitKind, layers: list[int], anatomy: Anatomy) -> int:
    """How many units of a kind every layer keeps: as many as the fullest, rounded up to a number that loads."""
    count = anatomy.units[kind].count
    if kind not in choice:
        return count
    least = max(1, int(choice[kind][layers].sum(-1).max()))
    return next(kept for kept in range(least, count + 1) if anatomy.loads(kind, kept))  # all of them load


def sliced_config(config: PretrainedConfig, layers: list[int], counts: dict[UnitKind, int], anatomy: Anatomy) -> PretrainedConfig:
    """The smaller model's config."""
    heads = counts["heads"] * anatomy.units["heads"].width // head_dim(config)
    changes: dict[str, Any] = {
        "head_dim": head_dim(config),
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads,
        "num_key_value_heads": 1 if config.num_key_value_heads == 1 else counts["heads"],
        "intermediate_size": counts["neurons"] * anatomy.units["neurons"].width,
    }
    if getattr(config, "layer_types", None):
        changes["layer_types"] = [config.layer_types[layer] for layer in layers]
    if becomes_mistral(config) and config.hidden_size % heads:
        shared = {name: value for name, value in config.to_dict().items() if name in MistralConfig().to_dict() and name != "model_type"}
        return MistralConfig(**{**shared, **changes, "architectures": None, "sliding_window": None})
    made = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def sliced_weights(
    model: PreTrainedModel, choice: Choice, layers: list[int], counts: dict[UnitKind, int], anatomy: Anatomy
) -> Iterator[tuple[str, torch.Tensor]]:
    """The smaller model's state, by name."""
    places = {old: new for new, old in enumerate(layers)}
    cuts = {(kind, layer): cut(choice, kind, layer, counts[kind], anatomy) for kind in _OUTPUT for layer in layers}
    for name, value in model.state_dict().items():
        found = _LAYER.fullmatch(name)
        if found is None:
            yield name, value
            continue
        before, layer, part = found[1], int(found[2]), found[3]
        if layer in places:
            yield f"{before}{places[layer]}.{part}", sliced_part(part, value, layer, cuts, anatomy)


def cut(choice: Choice, kind: UnitKind, layer: int, count: int, anatomy: Anatomy) -> Cut:
    """The open units of a layer in order, and closed ones to fill up to `count`."""
    if kind not in choice:
        return Cut(torch.arange(count), torch.zeros(count, dtype=torch.bool))
    closed = ~choice[kind][layer].cpu()
    units = closed.int().argsort(stable=True)[:count].sort().values
    return Cut(units, closed[units])


def sliced_part(part: str, value: torch.Tensor, layer: int, cuts: dict[tuple[UnitKind, int], Cut], anatomy: Anatomy) -> torch.Tensor:
    """One weight or bias of a layer with the rows or columns of the units that stay."""
    module = part.rpartition(".")[0]
    for kind, output in _OUTPUT.items():
        count, found = anatomy.units[kind].count, cuts[kind, layer]
        kept = found.units.to(value.device)
        if module == output and value.dim() == 2:
            blocks = value.view(len(value), count, -1)[:, kept]  # [out, units, width]
            return (blocks * (~found.closed).to(value)[:, None]).flatten(1)
        if module in _INPUTS[kind] and not _is_shared(module, anatomy):
            return value.view(count, -1, *value.shape[1:])[kept].flatten(0, 1)
    return value


def _is_shared(module: str, anatomy: Anatomy) -> bool:
    """Keys and values stay whole where all query heads share them."""
    return anatomy.config.num_key_value_heads == 1 and module in ("self_attn.k_proj", "self_attn.v_proj")
