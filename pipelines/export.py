"""A finished checkpoint: weights, tokenizer, generation config, cleave.json and a model card, moved into place as a whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cleave.config.distill import DistillConfig
from cleave.config.model import ModelConfig
from cleave.errors import StorageError
from cleave.model_card import model_card
from pipelines.start import load_weights

PROFILE = "default-v1"


def export(config: DistillConfig, best: Path, target: Path, result: Mapping[str, Any]) -> None:
    """Write the weights in `best` (a checkpoint, or a PEFT adapter of the run's start) to `target`."""
    from transformers import GenerationConfig

    if config.lora is not None:
        assert config.init.model is not None
        model, tokenizer = load_weights(config.init.model, adapter=str(best))
    else:
        model, tokenizer = load_weights(ModelConfig(model_name_or_path=str(best)))
    model.config.use_cache = True
    model.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    draft = target.with_name(f"{target.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        (draft / "cleave.json").write_text(json.dumps(describe(config), indent=2) + "\n", encoding="utf-8")
        (draft / "README.md").write_text(model_card(config, result, parameters), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        draft.replace(target)
    except OSError as error:
        raise StorageError(f"cannot write the checkpoint to {target}: {error}; free space and run again.") from error


def describe(config: DistillConfig) -> dict[str, str]:
    """What a role needs to know about the checkpoint."""
    return {"prompts": config.prompts, "role": config.role, "profile": PROFILE}
