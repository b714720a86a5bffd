"""From the section `prune` of a distill config to gates, and at the end to figures of what was removed.

A finished run holds pruned.json, agreement.svg and sparsity.svg; the checkpoint's card says the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleave.config.distill import DistillConfig
from cleave.config.model import ModelConfig
from cleave.runs import METRICS, RunFolder
from pipelines.start import load_start, load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

    from cleave.examples import Example
    from cleave.gates import Gates

DETAILS = "pruned.json"


def build_gates(
    config: DistillConfig, model: PreTrainedModel, pad_id: int, held_out: Sequence[Example]
) -> tuple[PreTrainedModel, Gates | None, list[TrainerCallback]]:
    """The model that is trained, which some methods cut first; its gates, None without `prune`; and the callback that freezes these."""
    if config.prune is None:
        return model, None, []
    if config.prune.method != "consensus":
        from cleave.pruning.baselines import cut

        return *cut(model, config.prune, config.seed), []
    from cleave.pruning.consensus_gates import ConsensusGates
    from cleave.pruning.freezing import GateSteps

    gates = ConsensusGates(config.prune, steps=config.train.steps(config.max_workers), pad_id=pad_id)
    steps: TrainerCallback = GateSteps(gates, [] if config.role == "verifier" else held_out, pad_id)
    return model, gates, [steps]


def check_prune(config: DistillConfig, model: PreTrainedModel) -> str:
    """What would stay, for people; empty without `prune`. Raises ConfigError for an architecture or a target that does not fit."""
    if config.prune is None:
        return ""
    from cleave.pruning.target import targets
    from cleave.pruning.units import Anatomy

    found = targets(Anatomy.of(model, config.prune.block), config.prune.sparsity)
    return f"pruned to {', '.join(map(str, found.values()))}"


def measure(config: DistillConfig, folder: RunFolder, best: Path, summary: dict[str, Any]) -> dict[str, str]:
    """Compare the start with the sliced weights in `best`, draw, and write what was found into both folders; returns a line for people."""
    from cleave.pruning.card import sentence
    from cleave.pruning.figures import agreement_over_training, sparsity_by_layer

    assert config.prune is not None
    sliced = load_weights(ModelConfig(model_name_or_path=str(best)))[0]
    details = {"method": config.prune.method} | summary | compare(config, load_start(config)[0], sliced)
    text = json.dumps(details, indent=2) + "\n"
    (best / DETAILS).write_text(text, encoding="utf-8")
    folder.write_text(DETAILS, text)
    rows = [json.loads(line) for line in folder.read_text(METRICS).splitlines()]
    for name, svg in {"agreement.svg": agreement_over_training(rows), "sparsity.svg": sparsity_by_layer(details["closed"])}.items():
        if svg:
            folder.write_text(name, svg + "\n")
    return {"pruned": sentence(details)}


def ratios(details: Mapping[str, Any]) -> dict[str, float]:
    """Of pruned.json: parameters, FLOPs, bytes and, where they were timed, seconds of the sliced model as shares of the dense one's."""
    dense, sliced = details["dense"], details["sliced"]
    names = ("parameters", "flops", "bytes", "seconds_1", "seconds_32")
    return {name: sliced[name] / dense[name] for name in names if name in sliced}


def compare(config: DistillConfig, dense: PreTrainedModel, sliced: PreTrainedModel) -> dict[str, Any]:
    """Sizes of both, how many of the gated parameters are gone, and how fast they generate where that is wanted."""
    import torch

    from cleave.pruning.size import generation_speed, size_of
    from cleave.pruning.units import Anatomy

    assert config.prune is not None
    gated = Anatomy.of(dense, config.prune.block).gated_parameters(kind for kind, share in config.prune.sparsity.items() if share)
    models: dict[str, Any] = {"dense": dense.train(False), "sliced": sliced}
    found: dict[str, Any] = {name: size_of(model) for name, model in models.items()}
    found["removed"] = (found["dense"]["parameters"] - found["sliced"]["parameters"]) / gated
    if config.prune.latency_tokens and dense.can_generate():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        for model in models.values():
            model.to(device)
            model.config.use_cache = True
        for name, speed in generation_speed(models, config.prune.latency_tokens).items():
            found[name] |= speed
    return found | {"was": dense.config.model_type, "model_type": sliced.config.model_type}
