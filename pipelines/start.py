"""Where training starts: an existing checkpoint, or random weights of a given shape with a tokenizer."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleave.config.distill import DistillConfig
from cleave.config.model import ModelConfig
from cleave.config.start import FreshConfig, LoraConfig
from cleave.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cleave.lm.checkpoint import Checkpoint


def load_start(config: DistillConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in float32 on the CPU, and tokenizer. The same config and seed give the same weights."""
    import torch

    torch.manual_seed(config.seed)
    if config.init.model is not None:
        model, tokenizer = load_weights(config.init.model, new_head=config.has_scalar_head)
        add_layers(model, config.init.add_layers)
    else:
        assert config.init.fresh is not None
        tokenizer = load_tokenizer(config.init.tokenizer)
        model = fresh_model(config.init.fresh, tokenizer, new_head=config.has_scalar_head)
    if config.has_scalar_head:
        model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    model.set_attn_implementation(config.train.attn_implementation)
    check_length(model, config.train.max_length)
    return model, tokenizer


def load_weights(
    config: ModelConfig, adapter: str | None = None, *, new_head: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A checkpoint's model in float32, with `adapter` (a PEFT folder) merged in, and its tokenizer. `new_head`: as a classifier."""
    from cleave.lm.checkpoint import load_checkpoint

    name = local_name(config)
    loaded = load_checkpoint(
        name, revision=config.revision, dtype="float32", device_map="cpu", adapter=adapter or config.adapter, new_head=new_head
    )
    return loaded.model, loaded.tokenizer


def trained_checkpoint(config: DistillConfig, best: Path) -> Checkpoint:
    """The weights in `best`, whole or as an adapter of the run's start, ready to be asked."""
    from cleave.lm.checkpoint import load_checkpoint

    if config.lora is None:
        return load_checkpoint(str(best), dtype="float32")
    assert config.init.model is not None
    start, new_head = config.init.model, config.has_scalar_head
    return load_checkpoint(local_name(start), revision=start.revision, dtype="float32", adapter=str(best), new_head=new_head)


def local_name(config: ModelConfig) -> str:
    """The folder or Hub id of weights that can be trained."""
    if config.backend != "reference":
        return config.model_name_or_path
    from cleave.lm.reference import resolve

    return str(resolve(config.model_name_or_path))


def load_tokenizer(name: str | None) -> PreTrainedTokenizerBase:
    """A tokenizer by folder or Hub id; None: that of the reference models, built from the default profile."""
    if name is None:
        from cleave.lm.tokenizer import build_tokenizer

        return build_tokenizer(shipped_pieces())
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load the tokenizer {name}: {' '.join(str(error).split())[:200]}; check init.tokenizer.") from error


@cache
def shipped_pieces() -> tuple[str, ...]:
    """The words of the default profile; to find them takes a second, and a run asks several times."""
    from cleave.tasks.reference.profile import get_profile
    from cleave.tasks.reference.vocabulary import pieces

    return tuple(pieces(get_profile("default-v1")))


def fresh_model(shape: FreshConfig, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = False) -> PreTrainedModel:
    """A new model with random weights from torch's global generator; `new_head`: a classifier with one output."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, MistralConfig, Qwen3Config

    options: dict[str, Any] = shape.model_dump(exclude={"architecture", "rope_theta"})
    options |= {"vocab_size": len(tokenizer), "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta}}
    options |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    made = MistralConfig(sliding_window=None, **options) if shape.architecture == "mistral" else Qwen3Config(**options)
    if new_head:
        made.num_labels = 1
    kind = AutoModelForSequenceClassification if new_head else AutoModelForCausalLM
    model: PreTrainedModel = kind.from_config(made)
    return model


def add_layers(model: PreTrainedModel, count: int) -> None:
    """Make a decoder `count` layers deeper in place: copies of its own, spread evenly, whose outputs are zero at first, so that the model
    computes what it did (arXiv 2401.02415). Raises ConfigError where its layers are not all alike."""
    import torch

    if not count:
        return
    text, decoder = model.config.get_text_config(), model.get_decoder()
    old = list(decoder.layers)
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    outputs = [
        (getattr(getattr(layer, "self_attn", None), "o_proj", None), getattr(getattr(layer, "mlp", None), "down_proj", None))
        for layer in old
    ]
    if len(kinds) > 1 or any(part is None for pair in outputs for part in pair):
        raise ConfigError(
            "init.add_layers needs a decoder of equal layers with self_attn.o_proj and mlp.down_proj, as Llama has; remove it."
        )
    layers: list[Any] = []
    for i, layer in enumerate(old):
        layers.append(layer)
        for _ in range((i + 1) * count // len(old) - i * count // len(old)):
            added = copy.deepcopy(layer)
            for part in (added.self_attn.o_proj, added.mlp.down_proj):
                for parameter in part.parameters():
                    torch.nn.init.zeros_(parameter)
            layers.append(added)
    for i, layer in enumerate(layers):
        layer.self_attn.layer_idx = i
    decoder.layers = torch.nn.ModuleList(layers)
    text.num_hidden_layers = len(layers)
    if getattr(text, "layer_types", None):
        text.layer_types = [next(iter(kinds))] * len(layers)


def add_lora(model: PreTrainedModel, config: LoraConfig) -> PreTrainedModel:
    """The model with trainable adapters; its own weights are frozen. Raises ConfigError where they do not fit."""
    from peft import LoraConfig as PeftLora
    from peft import get_peft_model

    modules = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    options = PeftLora(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=modules,
        task_type="SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM",
    )
    try:
        adapted: PreTrainedModel = get_peft_model(model, options)
    except ValueError as error:
        raise ConfigError(f"lora does not fit the model: {' '.join(str(error).split())[:200]}; change lora.target_modules.") from error
    return adapted


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each decoder layer in place for any batch shape; parameter names stay. All layers share one compilation (about 20 s of a
    core), which fuses norms, rotations and activations; the whole model would take fifteen times as long."""
    for layer in model.get_decoder().layers:
        layer.compile(dynamic=True)


def check_length(model: PreTrainedModel, max_length: int) -> None:
    """Raise ConfigError if examples may be longer than the model's positions."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and max_length > limit:
        raise ConfigError(f"train.max_length {max_length} is above the model's {limit} positions; set it to {limit} or less.")
