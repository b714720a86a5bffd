"""A sequence classifier with one output: text in, one number out, in this process.

It is a LanguageModel that cannot write: `score` with empty continuations gives the number (capability `values`). Like all local models it
reads what texts share once. Left out: what the number means (actors/judge.py).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NoReturn

from cleave.decoding.draft import Draft, Drafting
from cleave.decoding.score import value_batch
from cleave.errors import ConfigError
from cleave.lm.huggingface import HuggingFaceModel
from cleave.types import Completion, Prompt, Sampling


class SequenceClassifier(HuggingFaceModel):
    """A checkpoint in this process. Calls queue for its one thread; a cancelled call stops at its next batch."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.capabilities = frozenset({"values", *self.capabilities.intersection({"text", "chat"})})

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Not offered: raises ConfigError."""
        self._refuse()

    async def drafts(self, prompts: Sequence[Prompt], drafting: Drafting) -> list[list[Draft]]:
        """Not offered: raises ConfigError."""
        self._refuse()

    def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        """Not offered: raises ConfigError."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(f"{self.info.name} is a classifier and cannot write; use it as the verifier, and a language model for this role.")

    def _score(self, prompts: Sequence[Prompt], continuations: Sequence[str], cancelled: Callable[[], bool]) -> list[Completion]:
        start = time.perf_counter()
        sequences = self._encode(prompts)
        valued = value_batch(self._sampler.model, sequences, self._sampler.max_batch_size, cancelled)
        seconds_per_token = (time.perf_counter() - start) / max(1, sum(each.read for each in valued))
        return [
            Completion("", (), tuple(each.logprobs), usage=self._usage(each.read, 0, seconds_per_token, before=each.shared))
            for each in valued
        ]
