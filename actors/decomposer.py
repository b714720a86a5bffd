"""The decomposer: a problem in, plans out, whole or one sub-question at a time. It never answers anything.

    decomposer = build_decomposer(RoleConfig.model_validate("reference:decomposer"))
    (reply,) = await decomposer([DecomposeRequest(problem)])

A reply that is no plan, or was cut off at `max_tokens`, is None with a Failure beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.role import Ask, PromptedRole, Reading, Replies, open_model
from cleave.config.roles import RoleConfig
from cleave.errors import ParseError
from cleave.lm.protocol import LanguageModel
from cleave.plans import DEFAULT_LIMITS, PlanLimits, parse_next, parse_plan
from cleave.prompts import PromptSet
from cleave.roles import DecomposeReply, DecomposeRequest
from cleave.types import Completion, Failure, Plan


class Decomposer(PromptedRole):
    """Prompt → model → strict parse. One call takes many requests."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: PromptSet,
        limits: PlanLimits = DEFAULT_LIMITS,
        repair_retries: int = 0,
        max_tokens: int = 256,
    ) -> None:
        super().__init__(model, prompts, repair_retries, max_tokens)
        self.limits = limits

    async def __call__(self, requests: Sequence[DecomposeRequest]) -> list[DecomposeReply]:
        """One reply per request, in order. Raises what the model raises (GenerationError, ConfigError), nothing for what it writes, and
        ConfigError where the prompts have no form for mode 'next'."""

        def read(i: int, completion: Completion, text: str) -> Reading[Plan | None]:
            return self._read(requests[i], completion, text)

        replies = await self.ask([self._ask(request) for request in requests], read)
        return [_reply(result) for result in replies]

    def _ask(self, request: DecomposeRequest) -> Ask:
        most = self._limits(request).steps
        if request.mode == "next":
            prompt = self.prompts.next_question(request.problem, request.asked, request.known, request.seed, most)
            return Ask(prompt, self.sampling(request.sampling, "next_question"), "next_question")
        prompt = self.prompts.decompose(request.problem, request.seed, most)
        return Ask(prompt, self.sampling(request.sampling, "decompose"), "decompose")

    def _limits(self, request: DecomposeRequest) -> PlanLimits:
        return self.limits.at_most(request.max_steps)

    def _read(self, request: DecomposeRequest, completion: Completion, text: str) -> Reading[Plan | None]:
        if completion.finish == "error":
            return Reading(None, text, "the model ended its reply with an error.")
        if completion.finish == "length":
            return Reading(None, text, "the plan was cut off; raise max_tokens, or ask for fewer sub-questions.")
        try:
            limits = self._limits(request)
            plan = parse_next(text, request.asked, limits) if request.mode == "next" else parse_plan(text, limits)
            return Reading(plan, text)
        except ParseError as error:
            return Reading(None, text, str(error))


def build_decomposer(config: RoleConfig, model: LanguageModel | None = None) -> Decomposer:
    """Build from a config; `model` None: the config's. Raises ConfigError. Loading local weights blocks."""
    model, prompts = open_model(config, model, "the decomposer")
    return Decomposer(model, prompts, repair_retries=config.repair_retries, max_tokens=config.max_tokens)


def _reply(replies: Replies[Plan | None]) -> DecomposeReply:
    complaints = [reading.complaint for reading in replies.readings if reading.complaint is not None]
    return DecomposeReply(
        plans=tuple(reading.value for reading in replies.readings),
        texts=tuple(reading.text for reading in replies.readings),
        usage=replies.usage,
        failures=tuple(Failure(ParseError.__name__, complaint, "decomposer") for complaint in complaints),
    )
