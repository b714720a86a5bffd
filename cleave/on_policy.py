"""On-policy distillation: in some steps the targets are replies that the student itself samples; a teacher judges them token by token.

Which steps is a function of the step's number, and a reply one of (run's seed, step, place of its example in the step, weights), so that
a resumed run samples what an uninterrupted one does, however many workers share a step (Agarwal et al. 2024, arXiv 2306.13649, algorithm 1,
with steps of either kind instead of draws). No gradient passes through the sampling. Left out: judging (distribution_matching.py), and
sharded weights: every worker samples from a whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cleave.decoding.sample import Sampler
from cleave.examples import Example
from cleave.heldout import decoding, question
from cleave.seeds import derive_seed
from cleave.types import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class OwnReplies:
    """Examples in, the same prompts with sampled replies out. Examples without a prompt keep their target."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        share: float,
        temperature: float = 1.0,
        max_new_tokens: int = 256,
        max_length: int = 512,
        seed: int = 0,
    ) -> None:
        """`model` is the one in training; prompt and reply together stay within `max_length` tokens."""
        self._model, self._tokenizer = model, tokenizer
        self._share, self._seed, self._max_length = share, seed, max_length
        self._sampling = Sampling(temperature=temperature, max_tokens=max_new_tokens)

    def replace(self, step: int) -> bool:
        """Whether the targets of this step are replaced: true for a share of the steps, evenly spread."""
        return int((step + 1) * self._share) > int(step * self._share)

    def __call__(self, examples: Sequence[Example], step: int, places: Sequence[int]) -> list[Example]:
        """`places` are the examples' places in the step."""
        asked = [(k, question(example)[0]) for k, example in enumerate(examples)]
        asked = [(k, prompt) for k, prompt in asked if prompt]
        if not asked:
            return list(examples)
        seeds = [derive_seed("own reply", self._seed, step, places[k]) for k, _ in asked]
        with decoding(self._model) as model:
            end = {self._tokenizer.eos_token_id}
            sampler = Sampler(model, self._tokenizer, eos_ids=end, max_len=self._max_length)
            rows = sampler.sample([prompt for _, prompt in asked], seeds, self._sampling)
        replied = list(examples)
        for (k, prompt), [row] in zip(asked, rows, strict=True):
            mask = (False,) * len(prompt) + (True,) * len(row.tokens)
            replied[k] = replace(examples[k], input_ids=(*prompt, *row.tokens), loss_mask=mask)
        return replied
