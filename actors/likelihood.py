"""The verifier that needs no training: a verdict is a likelihood, and its name says so.

The score is exp(mean log-probability per token of the solution): the solver's own, as it reported it while it drew the solution
(then no model is asked), or under a given model. It says how usual a text is, not whether it is right.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from cleave.errors import GenerationError
from cleave.lm.protocol import LanguageModel, require
from cleave.prompts import PromptSet
from cleave.roles import VerifyReply, VerifyRequest
from cleave.types import Completion, ModelInfo, Prompt, Usage, Verdict


class LikelihoodVerifier:
    """Scores by likelihood. An empty reply scores 0.

    `open_model` is called when a model is first needed, in a thread. With `reuse` that is only for solutions that carry no
    log-probability; if the model cannot score them either, as most endpoints cannot, the verifier has no opinion: no verdicts.
    Without `reuse` a model that cannot score is a ConfigError.
    """

    def __init__(self, name: str, open_model: Callable[[], LanguageModel], prompts: PromptSet, reuse: bool = True) -> None:
        self._name = f"likelihood of {name}"
        self._open_model = open_model
        self._model: LanguageModel | None = None
        self._opening = asyncio.Lock()
        self.prompts = prompts
        self.reuse = reuse

    @property
    def info(self) -> ModelInfo:
        """`parameters` 0: no model was needed so far."""
        if self._model is None:
            return ModelInfo(self._name, parameters=0 if self.reuse else None)
        info = self._model.info
        return ModelInfo(self._name, info.revision, info.dtype, info.parameters)

    async def __call__(self, requests: Sequence[VerifyRequest]) -> list[VerifyReply]:
        """One reply per request, in order. Raises GenerationError, and ConfigError for a model that cannot score."""
        return [await self._verify(request) for request in requests]

    async def aclose(self) -> None:
        if self._model is not None:
            await self._model.aclose()

    async def _verify(self, request: VerifyRequest) -> VerifyReply:
        unknown = [i for i, s in enumerate(request.solutions) if s.text and not (self.reuse and s.logprob is not None)]
        if unknown and "score" not in (await self._opened()).capabilities:
            return VerifyReply(())
        scored = iter(await self._score(request, unknown) if unknown else ())
        verdicts = tuple(
            Verdict(0.0) if not s.text else verdict(s.logprob) if self.reuse and s.logprob is not None else next(scored)
            for s in request.solutions
        )
        return VerifyReply(verdicts, sum((v.usage for v in verdicts), Usage()))

    async def _score(self, request: VerifyRequest, places: Sequence[int]) -> list[Verdict]:
        """The solutions at `places`."""
        model = await self._opened()
        prompts = [self._prompt(request, i) for i in places]
        return [_verdict_of(completion) for completion in await model.score(prompts, [request.solutions[i].text for i in places])]

    def _prompt(self, request: VerifyRequest, i: int) -> Prompt:
        has_steps = bool(request.solutions[i].steps)
        return self.prompts.solve(request.problem, "steps" if has_steps else "answer", request.plan_of(i) if has_steps else None)

    async def _opened(self) -> LanguageModel:
        async with self._opening:
            if self._model is None:
                model = await asyncio.to_thread(self._open_model)
                if not self.reuse:
                    require(model, "score", self.prompts.kind, purpose="scoring solutions by likelihood")
                self._model = model
        return self._model


def verdict(mean_logprob: float, usage: Usage = Usage()) -> Verdict:  # noqa: B008 - a frozen value
    """Length-normalised likelihood as a verdict. Raises GenerationError for what is no number."""
    if math.isnan(mean_logprob):
        raise GenerationError("the log-probability of a solution is not a number; check the model's weights and dtype.")
    return Verdict(score=math.exp(min(mean_logprob, 0.0)), raw=mean_logprob, usage=usage)


def _verdict_of(completion: Completion) -> Verdict:
    mean = completion.mean_logprob
    return Verdict(0.0, usage=completion.usage) if mean is None else verdict(mean, completion.usage)
