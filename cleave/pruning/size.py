"""How large and how fast a model is, dense or sliced: parameters, FLOPs, bytes, and generation timed.

sizes = {"dense": size_of(dense), "sliced": size_of(sliced)}
speeds = generation_speed({"dense": dense, "sliced": sliced}, new_tokens=32)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from cleave.lm.flops import forward_cost
from cleave.pruning.consensus_gates import CONTEXT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCHES = (1, 32)
_PROMPT = 32
_ROUNDS = 3


def size_of(model: PreTrainedModel) -> dict[str, float]:
    """`parameters`; `flops` of one more token after CONTEXT; `bytes` of the weights in their dtype. No weights are read."""
    weights = list(model.parameters())
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "flops": forward_cost(model).of(1, CONTEXT),
        "bytes": sum(weight.numel() * weight.element_size() for weight in weights),
    }


def generation_speed(models: Mapping[str, PreTrainedModel], new_tokens: int, rounds: int = _ROUNDS) -> dict[str, dict[str, float]]:
    """By model: seconds to generate `new_tokens` per row by batch size (`seconds_1`, …), and `tokens_per_second_1`, …. Medians of rounds in
    which the models take turns, after one to warm up; ends of replies are ignored."""
    seconds: dict[tuple[str, int], list[float]] = {(name, size): [] for size in BATCHES for name in models}
    for _ in range(1 + rounds):
        for (name, size), found in seconds.items():
            found.append(_generate(models[name], size, new_tokens))
    medians = {key: statistics.median(found[1:]) for key, found in seconds.items()}
    speeds: dict[str, dict[str, float]] = {name: {} for name in models}
    for (name, size), median in medians.items():
        speeds[name] |= {f"seconds_{size}": median, f"tokens_per_second_{size}": size * new_tokens / median}
    return speeds


def _generate(model: PreTrainedModel, rows: int, new_tokens: int) -> float:
    generator: Any = model
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(rows * _PROMPT, device=model.device).view(rows, _PROMPT) % vocabulary
    started = time.perf_counter()
    with torch.inference_mode():
        generator.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
