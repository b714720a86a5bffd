"""Where training starts: a checkpoint or random weights, whole or with adapters."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config
from cleave.config.model import ModelConfig


class FreshConfig(Config):
    """A new model with random weights."""

    architecture: Literal["qwen3", "mistral"] = "qwen3"
    """Model class of transformers; both load with head counts that do not divide the hidden size."""
    hidden_size: int = Field(128, gt=0)
    """Width of the residual stream."""
    intermediate_size: int = Field(384, gt=0)
    """Width of the feed-forward layers."""
    num_hidden_layers: int = Field(4, gt=0)
    """Number of layers."""
    num_attention_heads: int = Field(4, gt=0)
    """Query heads per layer."""
    num_key_value_heads: int = Field(4, gt=0)
    """Key and value heads per layer; must divide num_attention_heads."""
    head_dim: int = Field(32, gt=0)
    """Width of one head."""
    max_position_embeddings: int = Field(1024, gt=0)
    """Longest sequence in tokens that the model accepts."""
    rope_theta: float = Field(10_000.0, gt=0)
    """Base of the rotary position embedding."""
    tie_word_embeddings: bool = True
    """Share the input and output embedding."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_key_value_heads must divide num_attention_heads")
        return self


class InitConfig(Config):
    """Where training starts: an existing checkpoint (`model`) or random weights (`fresh` and a tokenizer)."""

    model: ModelConfig | None = None
    """Checkpoint to start from: hf:PATH_OR_HUB_ID or reference:NAME."""
    add_layers: int = Field(0, ge=0)
    """Decoder layers added to a checkpoint, spread evenly; they change nothing until they are trained (arXiv 2401.02415)."""
    fresh: FreshConfig | None = None
    """Shape of a new model."""
    tokenizer: str | None = None
    """Folder or Hub id of the tokenizer of a new model; null: the shipped one of the reference models."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.model is None) == (self.fresh is None):
            raise ValueError("start from exactly one of model (a checkpoint) and fresh (a new model)")
        if self.model is not None and self.model.backend not in ("hf", "reference"):
            raise ValueError(f"only local weights can be trained, not {self.model.short}; write hf:PATH or reference:NAME")
        if self.model is None and self.add_layers:
            raise ValueError("add_layers makes an existing checkpoint deeper; set init.model, or num_hidden_layers of the new model")
        if self.model is not None and self.tokenizer is not None:
            raise ValueError("a checkpoint brings its own tokenizer; remove init.tokenizer")
        return self


class LoraConfig(Config):
    """Train low-rank adapters instead of all weights (PEFT). They are merged into the exported checkpoint."""

    r: int = Field(8, gt=0)
    """Rank."""
    lora_alpha: float = Field(16.0, gt=0)
    """Scale of the adapter's output is lora_alpha / r."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Modules that get an adapter."""
