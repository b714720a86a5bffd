"""Held-out measurements during training: loss on gold examples, and how many replies are exactly the gold one when decoded greedily.

Both work on the examples' token ids. Final answers, intervals and whole pipelines are `cleave evaluate`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from cleave.decoding.sample import Sampler
from cleave.examples import Example
from cleave.objectives import Objective
from cleave.packing import pad, split_evenly
from cleave.types import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH_TOKENS = 4096


class HeldOut:
    """Call with a model in evaluation mode; returns `loss` (nats per learned token), the objective's metrics, and `exact_match`
    (share of the first `generate` examples, absent for 0)."""

    def __init__(
        self,
        examples: Sequence[Example],
        objective: Objective,
        tokenizer: PreTrainedTokenizerBase,
        *,
        generate: int = 64,
        max_new_tokens: int = 256,
    ) -> None:
        self._examples = list(examples)
        self._objective = objective
        self._tokenizer = tokenizer
        self._asked = [_question(example) for example in self._examples[:generate] if _question(example)[0]]
        self._max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def __call__(self, model: PreTrainedModel) -> dict[str, float]:
        with _uncompiled(model):
            return self._loss(model) | self._exact_match(model)

    def _loss(self, model: PreTrainedModel) -> dict[str, float]:
        sums: dict[str, float] = {}
        count = 0.0
        tokens = sum(map(len, self._examples))
        for part in split_evenly(self._examples, min(len(self._examples), 1 + tokens // _BATCH_TOKENS)):
            batch = {name: tensor.to(model.device) for name, tensor in pad(part, self._tokenizer.pad_token_id or 0).items()}
            total, weight, metrics = self._objective.loss(model, batch, 0)
            count += float(weight)
            for name, value in {"loss": total, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return {name: value / count for name, value in sums.items()}

    def _exact_match(self, model: PreTrainedModel) -> dict[str, float]:
        if not self._asked:
            return {}
        end = self._tokenizer.eos_token_id
        sampler = Sampler(model, self._tokenizer, eos_ids={end}, max_len=model.config.get_text_config().max_position_embeddings)
        prompts = [prompt for prompt, _ in self._asked]
        use_cache, model.config.use_cache = model.config.use_cache, True
        rows = sampler.sample(prompts, [0] * len(prompts), Sampling(max_tokens=self._max_new_tokens))
        model.config.use_cache = use_cache
        hits = [tuple(row.tokens) == target for [row], (_, target) in zip(rows, self._asked, strict=True)]
        return {"exact_match": sum(hits) / len(hits)}


def _uncompiled(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Run compiled layers as plain Python: decoding's growing caches would be compiled again and again."""
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _question(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompt and reply of an example: the tokens before the first learned one, and the rest."""
    start = example.loss_mask.index(True)
    return (example.input_ids[:start], example.input_ids[start:]) if start > 1 else ((), ())
