"""What a frozen model makes of examples: one hidden state per example, from which the prototypes of skills are made (distances.py).

    states = hidden_states(model, examples, pad_id=0, layer=-1, pooling="mean")     # [examples, width]

Left out: which examples (pipelines/design.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from cleave.errors import ConfigError
from cleave.examples import Example
from cleave.packing import pad

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedModel

Pooling = Literal["mean", "prompt", "last"]
_BATCH_TOKENS = 4096


@torch.inference_mode()
def hidden_states(
    model: PreTrainedModel, examples: Sequence[Example], *, pad_id: int = 0, layer: int = -1, pooling: Pooling = "mean"
) -> npt.NDArray[np.float64]:
    """States [examples, width] in the order of the examples.

    `layer` counts from the embedding (0) to the last layer, or from the end (-1). `pooling`: the mean over all tokens, over those of the
    prompt alone, or the state at the prompt's last token. Raises ConfigError for a layer that the model does not have.
    """
    decoder: Any = model.base_model
    check_layer(model, layer)
    pooled: list[torch.Tensor] = []
    for part in _parts(examples):
        batch = {name: tensor.to(model.device) for name, tensor in pad(part, pad_id).items() if name in ("input_ids", "position_ids")}
        states = decoder(**batch, use_cache=False, output_hidden_states=True).hidden_states[layer]  # [B, T, width]
        chosen = torch.tensor([_chosen(example, states.shape[1], pooling) for example in part], device=states.device)  # [B, T]
        pooled.append((chosen.to(states.dtype)[:, None] @ states)[:, 0].double() / chosen.sum(1, keepdim=True))
    if not pooled:
        return torch.zeros(0, model.config.get_text_config().hidden_size, dtype=torch.float64).numpy()
    return torch.cat(pooled).cpu().numpy()  # type: ignore[no-any-return, unused-ignore]


def check_layer(model: PreTrainedModel, layer: int) -> None:
    """Raise ConfigError for a layer that the model does not have."""
    depth = model.config.get_text_config().num_hidden_layers
    if not -depth - 1 <= layer <= depth:
        raise ConfigError(f"the model has no layer {layer}; choose one from 0, the embedding, to {depth}, or from -1 down.")


def _chosen(example: Example, width: int, pooling: Pooling) -> list[bool]:
    """The tokens whose states count, padded to the batch's width. An example without a prompt counts whole."""
    start = example.loss_mask.index(True) if any(example.loss_mask) else len(example)
    prompt = start if start > 1 else len(example)
    first, end = {"mean": (0, len(example)), "prompt": (0, prompt), "last": (prompt - 1, prompt)}[pooling]
    return [first <= k < end for k in range(width)]


def _parts(examples: Sequence[Example]) -> list[list[Example]]:
    """Consecutive runs of about `_BATCH_TOKENS` tokens with their padding, so that states come in the order of the examples."""
    parts: list[list[Example]] = []
    longest = 0
    for example in examples:
        longest = max(longest, len(example))
        if parts and longest * (len(parts[-1]) + 1) <= _BATCH_TOKENS:
            parts[-1].append(example)
        else:
            parts.append([example])
            longest = len(example)
    return parts
