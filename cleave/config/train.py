"""Optimisation, and what is measured meanwhile. Names are Hugging Face's where they mean the same."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config


class TrainConfig(Config):
    """Optimisation. One optimiser step takes per_device_train_batch_tokens × gradient_accumulation_steps × num_workers tokens."""

    max_tokens: int | None = Field(1_000_000, gt=0)
    """Training tokens in all, without padding; null: max_steps decides."""
    max_steps: int | None = Field(None, gt=0)
    """Optimiser steps; overrides max_tokens."""
    max_length: int = Field(512, gt=0)
    """Longest example, and longest packed row, in tokens; longer examples are dropped and counted."""
    per_device_train_batch_tokens: int = Field(2048, gt=0)
    """Tokens, without padding, in one forward pass of one worker."""
    gradient_accumulation_steps: int = Field(4, gt=0)
    """Forward passes per optimiser step; they share the step's examples sorted by length, so more of them mean less padding."""
    packing: bool = False
    """Put several examples into one row; off: rows padded to the longest of their batch, which is faster on a CPU."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention kernel of transformers."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    lr_scheduler_type: Literal["cosine", "cosine_with_min_lr", "linear", "constant_with_warmup", "warmup_stable_decay"] = "cosine"
    """Shape of the learning rate."""
    lr_scheduler_kwargs: dict[str, Any] = Field(default_factory=dict)
    """More arguments of the schedule, such as num_decay_steps or min_lr_rate."""
    warmup_ratio: float = Field(0.02, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    optim: str = "adamw_torch_fused"
    """Optimiser by its transformers name."""
    adam_beta2: float = Field(0.98, gt=0, lt=1)
    """Decay of AdamW's second moment."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled weight decay, not on norms and biases."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0: never."""
    bf16: bool = False
    """bfloat16 autocast; on a CPU worth it only with AMX or AVX512-BF16 instructions."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    fsdp: bool = False
    """Shard weights, gradients and optimiser over the workers' GPUs (backend: ray with GPUs only)."""
    fsdp_config: dict[str, Any] = Field(default_factory=dict)
    """Options of transformers for FSDP, such as reshard_after_forward, cpu_offload, activation_checkpointing."""
    torch_compile: bool = False
    """Compile the layers: some tens of seconds at the start, then faster on a CPU with a C++ compiler; worth it for long runs."""
    logging_steps: int = Field(20, gt=0)
    """Steps between two lines of metrics.jsonl."""
    save_steps: int = Field(200, gt=0)
    """Steps between two checkpoints to resume from."""
    save_total_limit: int = Field(2, ge=2)
    """Checkpoints kept; two, so that one is whole when a kill hits the other."""
    report_to: tuple[str, ...] = ("tensorboard",)
    """Trackers by their transformers names: tensorboard, or one whose package you install, such as wandb or mlflow; empty: none."""

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.max_tokens is None and self.max_steps is None:
            raise ValueError("training needs an end; give max_tokens or max_steps")
        if self.fsdp_config and not self.fsdp:
            raise ValueError("fsdp_config has no effect without fsdp: true")
        if any(name.endswith("state_dict_type") and value != "FULL_STATE_DICT" for name, value in self.fsdp_config.items()):
            raise ValueError("the best weights are kept whole, as other programs load them; remove state_dict_type from fsdp_config")
        return self

    def steps(self, workers: int) -> int:
        """Optimiser steps in all, `workers` being those of a full group."""
        if self.max_steps is not None:
            return self.max_steps
        assert self.max_tokens is not None
        return max(1, round(self.max_tokens / (self.per_device_train_batch_tokens * self.gradient_accumulation_steps * workers)))


class TrainEvalConfig(Config):
    """What is measured during training, on problems that are never trained on."""

    eval_steps: int = Field(500, gt=0)
    """Steps between two evaluations; there is always one at the end."""
    examples: int = Field(256, ge=0)
    """Held-out examples of the loss, in all; 0: no evaluation."""
    generate: int = Field(64, ge=0)
    """How many of them are also answered greedily, for the exact match with the gold reply."""
    max_new_tokens: int = Field(256, gt=0)
    """Most tokens per generated reply."""
    skill_examples: int = Field(0, ge=0)
    """Held-out examples per skill (curriculum.skills), whose exact match is measured at each evaluation and at the end of each stage,
    without decoding; 0: skills are not measured."""
    metric_for_best_model: Literal["loss", "exact_match"] = "loss"
    """The checkpoint that is best by this metric is the one exported."""

    @model_validator(mode="after")
    def _measures_the_whole(self) -> Self:
        if self.skill_examples and not self.examples:
            raise ValueError("skills are measured beside the held-out loss; set evaluation.examples above 0, or skill_examples: 0")
        return self
