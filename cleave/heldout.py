"""Held-out measurements during training: loss on gold examples, and how many replies are exactly the gold one when decoded greedily.

Both work on the examples' token ids. Final answers, intervals and whole pipelines are `cleave evaluate`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
        self._asked = [question(example) for example in self._examples[:generate] if question(example)[0]]
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
        prompts = [prompt for prompt, _ in self._asked]
        with decoding(model) as plain:
            end, limit = {self._tokenizer.eos_token_id}, plain.config.get_text_config().max_position_embeddings
            sampler = Sampler(plain, self._tokenizer, eos_ids=end, max_len=limit)
            rows = sampler.sample(prompts, [0] * len(prompts), Sampling(max_tokens=self._max_new_tokens))
        hits = [tuple(row.tokens) == target for [row], (_, target) in zip(rows, self._asked, strict=True)]
        return {"exact_match": sum(hits) / len(hits)}


@contextmanager
def decoding(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """A model in training, ready to answer: evaluation mode, a cache, compiled layers as plain Python. Yields it without PEFT's wrapper,
    which hides that positions are accepted; the adapters stay in place."""
    plain: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    training, use_cache = model.training, plain.config.use_cache
    model.train(False)
    plain.config.use_cache = True
    try:
        with _uncompiled(model):
            yield plain
    finally:
        plain.config.use_cache = use_cache
        model.train(training)


def _uncompiled(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Run compiled layers as plain Python: decoding's growing caches would be compiled again and again."""
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def question(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompt and reply of an example: the tokens before the first learned one, and the rest; nothing where the prompt is learned too."""
    start = example.loss_mask.index(True)
    return (example.input_ids[:start], example.input_ids[start:]) if start > 1 else ((), ())
