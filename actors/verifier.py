"""The verifier: solutions in, verdicts out. No verifier is trained yet, so the verdict is a likelihood, and its name says so.

The score is exp(mean log-probability per token of the solution): the solver's own, as it reported it while it drew the solution
(then no model is asked), or under a given model. It says how usual a text is, not whether it is right.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from actors.role import prompts_name
from cleave.config.roles import RoleConfig
from cleave.errors import GenerationError
from cleave.lm.build import build
from cleave.lm.protocol import LanguageModel, require
from cleave.prompts import PromptSet, load_prompts
from cleave.roles import VerifyReply, VerifyRequest
from cleave.types import Completion, ModelInfo, Solution, Usage, Verdict


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
        unknown = [s for s in request.solutions if s.text and not (self.reuse and s.logprob is not None)]
        if unknown and "score" not in (await self._opened()).capabilities:
            return VerifyReply(())
        scored = iter(await self._score(request, unknown) if unknown else ())
        verdicts = tuple(
            Verdict(0.0) if not s.text else verdict(s.logprob) if self.reuse and s.logprob is not None else next(scored)
            for s in request.solutions
        )
        return VerifyReply(verdicts, sum((v.usage for v in verdicts), Usage()))

    async def _score(self, request: VerifyRequest, solutions: Sequence[Solution]) -> list[Verdict]:
        model = await self._opened()
        prompts = [
            self.prompts.solve(request.problem, "steps" if solution.steps else "answer", request.plan if solution.steps else None)
            for solution in solutions
        ]
        return [_verdict_of(completion) for completion in await model.score(prompts, [solution.text for solution in solutions])]

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


def build_verifier(config: RoleConfig, model: LanguageModel | None = None, reuse: bool = True) -> LikelihoodVerifier:
    """`config` is the solver's own with `reuse` (its weights are loaded only if a solution carries no log-probability); with
    `reuse` False it names the model under which all solutions are scored."""
    return LikelihoodVerifier(
        name=config.model.short,
        open_model=lambda: model if model is not None else build(config.model),
        prompts=load_prompts(prompts_name(config)),
        reuse=reuse,
    )


def _verdict_of(completion: Completion) -> Verdict:
    mean = completion.mean_logprob
    return Verdict(0.0, usage=completion.usage) if mean is None else verdict(mean, completion.usage)
