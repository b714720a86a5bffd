"""A finished checkpoint: weights, tokenizer, generation config, cleave.json and a model card, moved into place as a whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow.fs import copy_files

from cleave.config.distill import DistillConfig
from cleave.config.model import ModelConfig
from cleave.errors import StorageError
from cleave.model_card import model_card
from cleave.pruning.card import pruned_section
from cleave.runs import RunFolder
from pipelines.pruned import DETAILS
from pipelines.start import load_weights

PROFILE = "default-v1"


def export(config: DistillConfig, folder: RunFolder, best: Path, result: Mapping[str, Any]) -> str:
    """Write the weights in `best` (a checkpoint, or a PEFT adapter of the run's start) to the config's output_dir; return its location.

    Raises StorageError where it cannot be written.
    """
    with tempfile.TemporaryDirectory() as parent:
        draft = Path(parent) / "checkpoint"
        write(config, best, draft, result)
        if config.output_dir is None:
            return _into_run(folder, draft)
        location = _into_place(Path(config.output_dir), draft)
    _register(config, Path(config.output_dir), result)
    return location


def write(config: DistillConfig, best: Path, target: Path, result: Mapping[str, Any]) -> None:
    """Weights, tokenizer, generation config, cleave.json and model card, in a new folder."""
    from transformers import GenerationConfig

    if config.lora is not None:
        assert config.init.model is not None
        model, tokenizer = load_weights(config.init.model, adapter=str(best), new_head=config.has_scalar_head)
    else:
        model, tokenizer = load_weights(ModelConfig(model_name_or_path=str(best)))
    model.config.use_cache = True
    model.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / "cleave.json").write_text(json.dumps(describe(config), indent=2) + "\n", encoding="utf-8")
    if (found := result.get("calibration")) is not None:
        (target / "calibration.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    pruned = ""
    if (details := best / DETAILS).is_file():
        shutil.copy(details, target / DETAILS)
        pruned = pruned_section(json.loads(details.read_text(encoding="utf-8")))
    (target / "README.md").write_text(model_card(config, result, parameters, pruned), encoding="utf-8")


def _into_run(folder: RunFolder, draft: Path) -> str:
    """Copy into the run folder, wherever it is."""
    folder.remove(["checkpoint"])
    try:
        folder.filesystem.create_dir(folder.path("checkpoint"), recursive=True)
        copy_files(str(draft), folder.path("checkpoint"), destination_filesystem=folder.filesystem)
    except OSError as error:
        raise StorageError(f"cannot write the checkpoint to {folder.location}: {error}; free space and run again.") from error
    return f"{folder.location}/checkpoint"


def _into_place(target: Path, draft: Path) -> str:
    """Put a whole checkpoint where none or an older one was."""
    beside = target.with_name(f"{target.name}.draft")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(draft, beside)
        if target.exists():
            shutil.rmtree(target)
        beside.replace(target)
    except OSError as error:
        raise StorageError(f"cannot write the checkpoint to {target}: {error}; free space and run again.") from error
    return str(target)


def _register(config: DistillConfig, target: Path, result: Mapping[str, Any]) -> None:
    """A checkpoint that ships is found through the index beside it, with what it depends on."""
    from cleave.lm.reference import ROOT, write_index_entry

    if target.resolve().parent == ROOT:
        facts = {key: result[key] for key in ("role", "tokens", "steps")}
        write_index_entry(target.name, ROOT / target.name, PROFILE, config.prompts, facts)


def describe(config: DistillConfig) -> dict[str, str]:
    """What a role needs to know about the checkpoint."""
    return {"prompts": config.prompts, "role": config.role, "profile": PROFILE}
