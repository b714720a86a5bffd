"""What can be known about a training before anything starts: that tokenizer, model, prompts, adapters, trackers and data fit together.

No weights are read: the model is built without memory for them. Left out: whether the cluster has room for the workers (ray_train.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cleave.callbacks import check_trackers
from cleave.config.distill import DistillConfig
from cleave.config.start import LoraConfig
from cleave.errors import ConfigError
from cleave.examples import Encoder
from cleave.lm.checkpoint import load_skeleton
from cleave.lm.tokens import prompt_text
from cleave.prompts import load_prompts
from cleave.types import Problem
from pipelines.difficulty import check_finite, check_teacher, unmeasured
from pipelines.pruned import check_prune
from pipelines.start import add_layers, add_lora, check_length, fresh_model, load_tokenizer, local_name
from pipelines.teachers import check_teachers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ASKED = Problem("preflight", "How many?", answer="1")


def preflight(config: DistillConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model without weights, and the tokenizer. Raises ConfigError for what does not fit."""
    check_trackers(config.train.report_to)
    model, tokenizer = skeleton(config)
    check_length(model, config.train.max_length)
    check_vocabulary(config, model, tokenizer)
    check_prompts(config, tokenizer)
    check_teachers(config, tokenizer)
    check_teacher(config)
    check_prune(config, model)
    if config.lora is not None:
        check_modules(model, config.lora)
        add_lora(model, config.lora)
    return model, tokenizer


def draw_once(config: DistillConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Read the data and draw an example. Returns the number of held-out examples. Raises DataError where there is nothing to learn, and
    ConfigError for a curriculum that does not fit the data."""
    from pipelines.assembly import build_data, build_sampler

    data = build_data(config, tokenizer)
    check_finite(config, data.sources)
    next(iter(build_sampler(unmeasured(config), data, config.max_workers)))
    return len(data.held_out)


def skeleton(config: DistillConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Where training starts, without weights."""
    import torch

    if config.init.model is not None:
        model, tokenizer = load_skeleton(
            local_name(config.init.model), revision=config.init.model.revision, new_head=config.has_scalar_head
        )
        add_layers(model, config.init.add_layers)
        return model, tokenizer
    assert config.init.fresh is not None
    tokenizer = load_tokenizer(config.init.tokenizer)
    with torch.device("meta"):
        return fresh_model(config.init.fresh, tokenizer, new_head=config.has_scalar_head), tokenizer


def check_vocabulary(config: DistillConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Every token has a place in the embedding, and replies can end. Raises ConfigError."""
    Encoder(tokenizer, config.train.max_length)  # refuses a tokenizer without an end token
    highest = max(tokenizer.get_vocab().values())
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    if highest >= rows:
        raise ConfigError(
            f"the tokenizer has token ids up to {highest}, the model's embedding {rows} rows; give the tokenizer that belongs to the "
            "model, or resize the model (resize_token_embeddings) and save both again."
        )


def check_prompts(config: DistillConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """A chat prompt set needs a tokenizer whose chat template takes its messages. Raises ConfigError."""
    prompts = load_prompts(config.prompts)
    try:
        for prompt in (prompts.decompose(ASKED), prompts.solve(ASKED)):
            prompt_text(tokenizer, prompt)
    except ConfigError as error:
        raise ConfigError(f"the prompts {config.prompts} do not fit the student: {error}") from error


def check_modules(model: PreTrainedModel, lora: LoraConfig) -> None:
    """Each of the named modules exists. A list names them by the end of their paths, a string is a regular expression over the whole path.

    Raises ConfigError.
    """
    if lora.target_modules == "all-linear":
        return
    paths = [name for name, _ in model.named_modules()]
    if isinstance(lora.target_modules, str):
        missing = [] if any(re.fullmatch(lora.target_modules, path) for path in paths) else [lora.target_modules]
    else:
        missing = [name for name in lora.target_modules if not any(f".{path}".endswith(f".{name}") for path in paths)]
    if missing:
        linear = sorted({path.rpartition(".")[2] for path, module in model.named_modules() if type(module).__name__ == "Linear"})
        raise ConfigError(
            f"lora.target_modules: the model has no module {missing[0]}; it has {', '.join(linear)}, or write all-linear for all of them."
        )
