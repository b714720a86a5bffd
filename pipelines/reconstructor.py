"""The question reconstructor: a small model that says how well a problem's question follows from a trace (MIMAX, arXiv 2106.07174).

It is a model like any other, trained by `cleave distill` on the format `reconstruct`: the plan, the steps and the answer are read, the
question with its context is learned. Here it is only asked for the probability of a given question. In the paper the context is read too;
here it is learned, because numbers of a passage that a trace gets wrong are seen only where they have to be predicted.
Left out: whose traces (reconstruction.py), what is chosen by it (cleave/screening.py).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from itertools import compress
from typing import Any

from actors.role import open_model, prompts_name
from cleave.config.roles import RoleConfig
from cleave.config.screening import ReconstructionConfig
from cleave.errors import GenerationError
from cleave.lm.protocol import LanguageModel, require
from cleave.prompts import load_prompts
from cleave.types import Problem, Prompt
from pipelines.teachers import revision_of

UNREADABLE = -math.inf
"""In place of the likelihood of a trace that is longer than the model reads: it is chosen last."""


def describe(config: ReconstructionConfig) -> dict[str, Any]:
    """What decides its likelihoods, besides the traces. Reads no weights."""
    prompts = load_prompts(prompts_name(_role(config)))
    return {
        "model": revision_of(config.model),  # the same weights at another path are the same reconstructor
        "dtype": config.model.dtype,
        "max_model_len": config.model.max_model_len,
        "prompts": prompts.name,
        "prompts_sha256": prompts.fingerprint,
    }


class Reconstructor:
    """A loaded model with its prompts. Raises ConfigError where they do not fit together, or the prompts do not ask for questions."""

    def __init__(self, config: ReconstructionConfig, model: LanguageModel | None = None) -> None:
        self.model, self._prompts = open_model(_role(config), model, "the question reconstructor")
        require(self.model, "score", purpose="the question reconstructor")

    def likelihoods(self, problems: Sequence[Problem]) -> list[float]:
        """The mean log-probability per token of each problem's question, given its plan, steps and answer. Raises GenerationError."""
        prompts = (self._prompts.reconstruct(each.gold_plan, each.gold_steps, each.answer or "") for each in problems)
        pairs = list(zip(prompts, map(self._prompts.reconstruct_target, problems), strict=True))
        readable = [self.model.reads(*pair) for pair in pairs]
        scored = iter(asyncio.run(self._score(list(compress(pairs, readable)))))
        return [next(scored) if reads else UNREADABLE for reads in readable]

    def close(self) -> None:
        """Give the weights back."""
        asyncio.run(self.model.aclose())

    async def _score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[float]:
        replies = await self.model.score([prompt for prompt, _ in pairs], [text for _, text in pairs])
        found = [math.nan if reply.mean_logprob is None else reply.mean_logprob for reply in replies]
        if not all(map(math.isfinite, found)):
            raise GenerationError(f"{self.model.info.name} gives a question a probability that is not finite; train it again.")
        return found


def _role(config: ReconstructionConfig) -> RoleConfig:
    return RoleConfig(model=config.model, prompts=config.prompts)
