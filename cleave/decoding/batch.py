"""A left-padded static batch on a causal language model: prefill once, then one token per row and step.

It knows transformers' forward call and nothing about sampling. Letters: B rows, T tokens so far, V vocabulary.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cleave.decoding.cache import growing_cache, select_rows


class Batch:
    """Rows that advance together. `logits` are those of the next token, (B, V) float32, after construction and each `step`."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], room: int, keep: int = 1) -> None:
        """Run the prompts, left-padded to a common length. `room` is the most steps that will follow.

        `all_logits` (B, keep, V) holds the logits at the last `keep` positions of the prompts.
        """
        self.model = model
        self.device: torch.device = model.device
        self._cache = growing_cache(model)
        self._accepted = set(inspect.signature(model.forward).parameters)
        self._length = max(map(len, prompts))
        padding = torch.tensor([self._length - len(prompt) for prompt in prompts])
        ids = torch.tensor([[0] * (self._length - len(prompt)) + list(prompt) for prompt in prompts])
        self._width = self._length + room
        columns = torch.arange(self._width)
        # (B, T + room), None while no row has padding: attention without a mask is faster.
        self._mask = (columns >= padding[:, None]).long().to(self.device) if bool(padding.any()) else None
        positions = (columns[: self._length] - padding[:, None]).clamp_(min=0).to(self.device)
        self._positions = positions[:, -1:] + 1  # (B, 1), of the next token
        self.all_logits = self._forward({"input_ids": ids.to(self.device)}, positions, keep)
        self.logits = self.all_logits[:, -1]

    def step(self, tokens: Tensor) -> None:
        """Append one token per row, (B,)."""
        self._append({"input_ids": tokens[:, None]})

    def step_embedded(self, embeddings: Tensor) -> None:
        """Append one place per row that holds an embedding, (B, D), instead of a token."""
        self._append({"inputs_embeds": embeddings[:, None]})

    def extend(self, blocks: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        """Append a block of tokens per row, left-padded to a common length; returns the logits at its last `keep` places, (B, keep, V)."""
        longest = max(map(len, blocks))
        padding = torch.tensor([[longest - len(block)] for block in blocks])
        ids = torch.tensor([[0] * (longest - len(block)) + list(block) for block in blocks])
        columns = torch.arange(longest)
        if bool(padding.any()):
            if self._mask is None:
                self._mask = torch.ones((len(blocks), self._width), dtype=torch.long, device=self.device)
            self._mask[:, self._length : self._length + longest] = (columns >= padding).long().to(self.device)
        positions = self._positions + (columns - padding).clamp_(min=0).to(self.device)
        self._length += longest
        self._positions = positions[:, -1:] + 1
        logits = self._forward({"input_ids": ids.to(self.device)}, positions, keep)
        self.logits = logits[:, -1]
        return logits

    def select(self, rows: Sequence[int]) -> None:
        """Make row i what row rows[i] was: repeats a prompt for its samples, drops rows that have finished."""
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        select_rows(self._cache, index)
        self.logits = self.logits.index_select(0, index)
        self._positions = self._positions.index_select(0, index)
        if self._mask is not None:
            self._mask = self._mask.index_select(0, index)

    def _append(self, inputs: dict[str, Tensor]) -> None:
        self._length += 1
        self.logits = self._forward(inputs, self._positions, 1)[:, -1]
        self._positions = self._positions + 1

    def _forward(self, inputs: dict[str, Tensor], positions: Tensor, keep: int) -> Tensor:
        options: dict[str, Any] = {
            "attention_mask": None if self._mask is None else self._mask[:, : self._length],
            "position_ids": positions,
            "logits_to_keep": keep,
        }
        options = {name: value for name, value in options.items() if name in self._accepted}
        output = self.model(**inputs, past_key_values=self._cache, use_cache=True, **options)
        logits: Tensor = output.logits[:, -keep:].float()
        return logits
