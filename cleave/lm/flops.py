"""Floating-point operations of a decoder's forward pass: 2 per weight and token, and attention's share, which grows with the context.

The output projection counts even where it shares its weights with the embedding; looking an embedding up costs nothing. Left out:
norms, softmax and rotations, which are below a hundredth at any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ForwardCost:
    """FLOPs per token of the weights, and per pair of a token and one that it attends to."""

    per_token: float
    per_pair: float

    def of(self, tokens: int, context: int = 0) -> float:
        """`tokens` in a row after `context` tokens that are cached already."""
        pairs = tokens * context + tokens * (tokens + 1) / 2
        return self.per_token * tokens + self.per_pair * pairs


def forward_cost(model: PreTrainedModel) -> ForwardCost:
    """Of any Hugging Face decoder; sliding windows are counted as full attention."""
    config = model.config.get_text_config()
    weights = sum(parameter.numel() for parameter in model.parameters())
    embedding = model.get_input_embeddings()
    if not config.tie_word_embeddings and embedding is not None:
        weights -= sum(parameter.numel() for parameter in embedding.parameters())
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ForwardCost(2.0 * weights, 4.0 * config.num_hidden_layers * heads * head_dim)
