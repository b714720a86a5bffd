"""Which units of a decoder can be removed: attention heads, blocks of feed-forward neurons, layers.

A unit of heads is a key-value head with all query heads that read it; where all query heads share one key-value head (Gemma 2B), it is a
query head. Units of one kind are alike, so their share of a layer is also the share of the kind's parameters and FLOPs.

    anatomy = Anatomy.of(model, block=32)
    anatomy.units["heads"].count, anatomy.units["heads"].width      # per layer; inputs of o_proj that belong to one unit

Left out: which of them go (choice.py, consensus_gates.py), and removing them (slicing.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cleave.config.prune import UnitKind
from cleave.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
"""Model types whose layers hold self_attn.{q,k,v,o}_proj and mlp.{gate,up,down}_proj and whose sliced configs transformers loads."""
_DIVIDING = ("llama", "gemma2", "gemma3_text")
"""Model types that load only head counts that divide the hidden size."""


@dataclass(frozen=True)
class Units:
    """One kind of unit: how many there are in a layer (in the model, for layers), over how many inputs of o_proj or down_proj one
    stretches (0 for layers), and what one costs: weights, and FLOPs per token and per pair of tokens that attend to each other."""

    count: int
    width: int
    parameters: int
    per_pair: float = 0.0

    def flops(self, context: int) -> float:
        """FLOPs per token where each attends to `context` tokens: two per weight, and attention's own."""
        return 2.0 * self.parameters + self.per_pair * context


@dataclass(frozen=True)
class Anatomy:
    """The units of one model."""

    config: PretrainedConfig
    layers: int
    units: dict[UnitKind, Units]

    @classmethod
    def of(cls, model: PreTrainedModel, block: int) -> Anatomy:
        """Raises ConfigError for an architecture that is not supported, and for a block that does not divide the neurons."""
        config = model.config.get_text_config()
        if model.config.model_type not in SUPPORTED:
            raise ConfigError(f"prune knows the units of {', '.join(SUPPORTED)}, not of {model.config.model_type}; remove prune.")
        layer = decoder_of(model).layers[0]
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        neurons = config.intermediate_size
        if neurons % block:
            raise ConfigError(f"prune.block {block} does not divide {neurons} neurons; set it to {_nearest_divisor(neurons, block)}.")
        count = heads if groups == 1 else groups
        width = heads * head_dim(config) // count
        attention, mlp = layer.self_attn, layer.mlp
        shared = [attention.k_proj, attention.v_proj] if groups == 1 else []
        moving = [attention.q_proj, attention.o_proj] + ([] if shared else [attention.k_proj, attention.v_proj])
        return cls(
            config,
            config.num_hidden_layers,
            {
                "heads": Units(count, width, sum(part.weight.numel() for part in moving) // count, 4.0 * width),
                "neurons": Units(
                    neurons // block,
                    block,
                    sum(part.weight.numel() for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)) // (neurons // block),
                ),
                "layers": Units(config.num_hidden_layers, 0, sum(part.numel() for part in layer.parameters()), 4.0 * width * count),
            },
        )

    def gated_parameters(self, kinds: Iterable[UnitKind]) -> int:
        """How many weights all units of these kinds hold together; those of a layer count once."""
        kinds = set(kinds)
        if "layers" in kinds:
            return self.units["layers"].parameters * self.layers
        return sum(self.units[kind].parameters * self.units[kind].count for kind in kinds) * self.layers

    def loads(self, kind: UnitKind, kept: int) -> bool:
        """Whether transformers loads a model that keeps so many units of a kind in every layer."""
        if kind != "heads" or self.config.model_type not in _DIVIDING or becomes_mistral(self.config):
            return True
        query_heads = kept * self.units["heads"].width // head_dim(self.config)
        return bool(self.config.hidden_size % query_heads == 0)


def decoder_of(model: PreTrainedModel) -> Any:
    """The part of a model that holds `layers`."""
    return model.get_decoder()  # type: ignore[no-untyped-call]


def head_dim(config: Any) -> int:
    """Width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def becomes_mistral(config: Any) -> bool:
    """Whether the model can be written as `mistral`, which loads any head count: a Llama without biases is one without a window."""
    return config.model_type == "llama" and not config.attention_bias and not config.mlp_bias


def _nearest_divisor(number: int, wanted: int) -> int:
    return min((one for one in range(1, number + 1) if number % one == 0), key=lambda one: abs(one - wanted))
