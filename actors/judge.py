"""The verifier as a judge: a language model that says whether a solution is right.

The raw score of a solution is s = log p(right) - log p(wrong), of the two words that the prompts have for it, at the first token in
which they differ; the verdict's score is that as a probability, through the checkpoint's calibration. A model that cannot score given
texts, such as an endpoint, is asked to reply with one of the words, and sure of it as far as it tells. What cannot be judged (a text
beyond the context, a reply that is neither word, a number that is none) gets no verdict but a typed failure; its cost is booked, and
the others are judged.
Left out: training (pipelines/distill.py), what follows from verdicts (cleave/selection.py).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from cleave.calibration import VerifierCalibration, VoteCalibration
from cleave.errors import GenerationError, ParseError
from cleave.lm.protocol import Capability, LanguageModel
from cleave.lm.thinking import strip_thinking
from cleave.prompts import PromptSet
from cleave.roles import VerifyReply, VerifyRequest
from cleave.step_labels import beginning
from cleave.types import Completion, Failure, ModelInfo, Prompt, Sampling, Usage, Verdict

SURE = 8.0
"""Raw score of a reply whose model tells no probability: about 0.9997."""

UNCALIBRATED = VerifierCalibration()
Judged = Verdict | Failure
_TOO_LONG = Failure("GenerationError", "a solution is longer than the verifier's context; raise its max_model_len.", "verifier")


class Judge:
    """A model with prompts that ask for verdicts. Safe to call from many coroutines of one event loop."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: PromptSet,
        calibration: VerifierCalibration = UNCALIBRATED,
        max_tokens: int = 256,
        step_scores: bool = False,
    ) -> None:
        """`max_tokens` bounds a reply where the model is asked for one; `step_scores`: solutions' beginnings are judged too.

        Raises ConfigError for prompts without verdicts.
        """
        prompts.require_verdicts()
        self.model = model
        self.prompts = prompts
        self.calibration = calibration
        self.max_tokens = max_tokens
        self.step_scores = step_scores

    @property
    def info(self) -> ModelInfo:
        return self.model.info

    async def __call__(self, requests: Sequence[VerifyRequest]) -> list[VerifyReply]:
        """One reply per request, in order. Raises GenerationError."""
        asked = [self._prompts(request, i) for request in requests for i in range(len(request.solutions))]
        by = next((way for capability, way in self._ways.items() if capability in self.model.capabilities), self._ask)
        judged = iter(await by([prompt for some in asked for prompt in some]))
        whole = iter([_with_steps([next(judged) for _ in some]) for some in asked])
        return [_reply([next(whole) for _ in request.solutions], self.calibration.votes) for request in requests]

    async def aclose(self) -> None:
        await self.model.aclose()

    def _prompts(self, request: VerifyRequest, i: int) -> list[Prompt]:
        """For one solution, and for its beginnings if they are wanted."""
        solution = request.solutions[i]
        parts = [beginning(solution, k) for k in range(1, len(solution.steps) + 1)] if self.step_scores else []
        return [self.prompts.verify(request.problem, each.text, request.plan_of(i)) for each in (solution, *parts)]

    @property
    def _ways(self) -> dict[Capability, Callable[[Sequence[Prompt]], Awaitable[list[tuple[Judged, Usage]]]]]:
        return {"values": self._value, "score": self._score}

    async def _value(self, prompts: Sequence[Prompt]) -> list[tuple[Judged, Usage]]:
        """By the one number of a classifier."""
        readable = [self.model.reads(prompt, "") for prompt in prompts]
        asked = [prompt for prompt, reads in zip(prompts, readable, strict=True) if reads]
        valued = iter(await self.model.score(asked, [""] * len(asked)))
        return [self._valued(next(valued)) if reads else (_TOO_LONG, Usage()) for reads in readable]

    def _valued(self, completion: Completion) -> tuple[Judged, Usage]:
        return self._verdict(completion.logprobs[0]), completion.usage

    async def _score(self, prompts: Sequence[Prompt]) -> list[tuple[Judged, Usage]]:
        """By the probabilities of the two words."""
        right, wrong = self.prompts.verdicts
        readable = [self.model.reads(prompt, max(right, wrong, key=len)) for prompt in prompts]
        asked = [prompt for prompt, reads in zip(prompts, readable, strict=True) if reads]
        scored = iter(await self.model.score([prompt for prompt in asked for _ in (right, wrong)], [right, wrong] * len(asked)))
        return [self._compared(next(scored), next(scored)) if reads else (_TOO_LONG, Usage()) for reads in readable]

    def _compared(self, right: Completion, wrong: Completion) -> tuple[Judged, Usage]:
        return self._verdict(_odds(right, wrong)), right.usage + replace(wrong.usage, calls=0)

    async def _ask(self, prompts: Sequence[Prompt]) -> list[tuple[Judged, Usage]]:
        """By what the model replies."""
        sampling = Sampling(max_tokens=self.max_tokens, stop=self.prompts.stops("verify"))
        return [(self._read(completion), completion.usage) for [completion] in await self.model.generate(prompts, sampling)]

    def _read(self, completion: Completion) -> Judged:
        said = strip_thinking(completion.text)[0].strip().strip(".!*\"'").casefold()
        right, wrong = (word.strip().casefold() for word in self.prompts.verdicts)
        if said not in (right, wrong):
            return _failure(ParseError(f"the verifier replied neither {right!r} nor {wrong!r} but {said[:40]!r}; check its prompts."))
        raw = _surety(completion)
        return self._verdict(raw if said == right else -raw)

    def _verdict(self, raw: float) -> Judged:
        if math.isnan(raw):
            return _failure(GenerationError("the verifier's score of a solution is not a number; check the model's weights and dtype."))
        return Verdict(self.calibration.solution(raw), raw)


def _odds(right: Completion, wrong: Completion) -> float:
    """How much likelier the one word is where they part: what they share before says nothing, what follows is not learned."""
    places = zip(right.token_ids, wrong.token_ids, right.logprobs, wrong.logprobs, strict=False)
    return next((p - q for a, b, p, q in places if a != b), math.nan)


def _surety(completion: Completion) -> float:
    """The log-odds of a whole reply, at most SURE."""
    if not completion.logprobs:
        return SURE
    p = math.exp(min(math.fsum(completion.logprobs), 0.0))
    return min(SURE, math.log(p) - math.log1p(-p)) if 0 < p < 1 else SURE if p else -SURE


def _with_steps(parts: Sequence[tuple[Judged, Usage]]) -> tuple[Judged, Usage]:
    """What is said of a solution, with the scores of its beginnings, or none where one of them could not be judged; and the cost of all."""
    whole, *steps = (each for each, _ in parts)
    usage = sum((each for _, each in parts), Usage())
    scores = tuple(step.score for step in steps if isinstance(step, Verdict))
    if isinstance(whole, Verdict) and len(scores) == len(steps):
        return replace(whole, step_scores=scores), usage
    return whole, usage


def _failure(error: ParseError | GenerationError) -> Failure:
    return Failure(type(error).__name__, str(error), "verifier")


def _reply(judged: Sequence[tuple[Judged, Usage]], votes: VoteCalibration | None) -> VerifyReply:
    verdicts = tuple(
        Verdict(each.score, each.raw, each.step_scores, usage) if isinstance(each, Verdict) else None for each, usage in judged
    )
    failures = tuple(each for each, _ in judged if isinstance(each, Failure))
    return VerifyReply(verdicts, sum((usage for _, usage in judged), Usage()), failures, votes)
