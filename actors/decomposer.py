"""The decomposer: a problem in, plans out, whole or one sub-question at a time. It never answers anything.

    decomposer = build_decomposer(RoleConfig.model_validate("reference:decomposer"))
    (reply,) = await decomposer([DecomposeRequest(problem)])

A reply that is no plan, or was cut off at `max_tokens`, is None with a Failure beside it. With `drafts`, whole plans are not sampled but
drafted in one superposed pass (cleave/decoding/superposed.py): the reply holds the best drafts up to the n-th that is a plan of its own,
which is fewer plans than asked for where fewer drafts are. Drafts are not repaired.

With `redraws`, a sampled plan that names what its problem does not (cleave/grounding.py) is sampled so many times more, at temperature 1;
the one among them that was drawn most often and names nothing strange takes its place. Without such a one it stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from actors.role import Ask, PromptedRole, Reading, Replies, draft, generate, open_model, with_repair
from cleave.config.roles import DecomposerConfig, RoleConfig
from cleave.decoding.draft import Draft, Drafting
from cleave.errors import ParseError
from cleave.grounding import strangers
from cleave.lm.protocol import LanguageModel, require
from cleave.lm.thinking import strip_thinking
from cleave.plans import DEFAULT_LIMITS, PlanLimits, parse_next, parse_plan
from cleave.prompts import PromptSet
from cleave.roles import DecomposeReply, DecomposeRequest
from cleave.seeds import derive_seed
from cleave.types import Completion, Failure, Finish, Plan, Problem, Usage


class Decomposer(PromptedRole):
    """Prompt → model → strict parse. One call takes many requests."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: PromptSet,
        limits: PlanLimits = DEFAULT_LIMITS,
        repair_retries: int = 0,
        max_tokens: int = 256,
        drafts: Drafting | None = None,
        redraws: int = 0,
    ) -> None:
        """`drafts`: how plans are drafted; its k is raised to the number of plans that a request asks for; tokens, stop strings and, if
        above 0, temperature are the request's. None: plans are sampled."""
        super().__init__(model, prompts, repair_retries, max_tokens)
        self.limits = limits
        self.drafts = drafts
        self.redraws = redraws

    async def __call__(self, requests: Sequence[DecomposeRequest]) -> list[DecomposeReply]:
        """One reply per request, in order. Raises what the model raises (GenerationError, ConfigError), nothing for what it writes, and
        ConfigError where the prompts have no form for mode 'next'."""

        drafted = [i for i, request in enumerate(requests) if self.drafts is not None and request.mode == "plan"]
        sampled = [i for i in range(len(requests)) if i not in drafted]
        replies = dict(zip(sampled, await self._sample([requests[i] for i in sampled]), strict=True))
        replies |= zip(drafted, await self._draft([requests[i] for i in drafted]), strict=True)
        return [replies[i] for i in range(len(requests))]

    async def _sample(self, requests: Sequence[DecomposeRequest]) -> list[DecomposeReply]:
        def read(i: int, completion: Completion, text: str) -> Reading[Plan | None]:
            return self._read(requests[i], completion.finish, text)

        asks = [self._ask(request) for request in requests]
        return [_reply(result) for result in await self._redrawn(requests, asks, await self.ask(asks, read), read)]

    async def _redrawn(
        self,
        requests: Sequence[DecomposeRequest],
        asks: Sequence[Ask],
        replies: list[Replies[Plan | None]],
        read: Callable[[int, Completion, str], Reading[Plan | None]],
    ) -> list[Replies[Plan | None]]:
        """The replies, with better plans in the place of those that name strangers."""
        doubtful = [
            (i, j)
            for i, request in enumerate(requests)
            if self.redraws and request.mode == "plan"
            for j, reading in enumerate(replies[i].readings)
            if reading.value is not None and not _is_grounded(reading.value, request.problem)
        ]
        drawn = await generate(self.model, [self._again_freely(asks[i], j) for i, j in doubtful]) if doubtful else []
        for (i, j), completions in zip(doubtful, drawn, strict=True):
            found = self.read_all(i, completions, read)
            best = _most_frequent([each for each in found.readings if _is_grounded(each.value, requests[i].problem)])
            replies[i] = with_repair(replies[i], j, Replies((best or replies[i].readings[j],), found.usage))
        return replies

    def _again_freely(self, ask: Ask, sample: int) -> Ask:
        seed = None if ask.prompt.seed is None else derive_seed(ask.prompt.seed, "redraw", sample)
        return Ask(replace(ask.prompt, seed=seed), replace(ask.sampling, n=self.redraws, temperature=1.0), ask.form)

    async def _draft(self, requests: Sequence[DecomposeRequest]) -> list[DecomposeReply]:
        asks = [self._ask(request) for request in requests]
        drafted = await draft(self.model, [ask.prompt for ask in asks], [self._drafting(ask) for ask in asks])
        return [self._best(request, drafts) for request, drafts in zip(requests, drafted, strict=True)]

    def _drafting(self, ask: Ask) -> Drafting:
        assert self.drafts is not None
        wanted = ask.sampling
        return replace(
            self.drafts,
            k=max(self.drafts.k, wanted.n),
            max_tokens=wanted.max_tokens,
            stop=wanted.stop,
            temperature=wanted.temperature or self.drafts.temperature,
        )

    def _best(self, request: DecomposeRequest, drafts: Sequence[Draft]) -> DecomposeReply:
        """The drafts, best first, until there are as many different plans as asked for."""
        readings: list[Reading[Plan | None]] = []
        plans: list[Plan] = []
        for each in drafts:
            reading = self._read(request, each.finish, strip_thinking(each.text)[0])
            if reading.value in plans:
                continue
            readings.append(reading)
            plans += [reading.value] if reading.value is not None else []
            if len(plans) == request.sampling.n:
                break
        return _reply(Replies(tuple(readings), sum((each.usage for each in drafts), Usage())))

    def _ask(self, request: DecomposeRequest) -> Ask:
        most = self._limits(request).steps
        if request.mode == "next":
            prompt = self.prompts.next_question(request.problem, request.asked, request.known, request.seed, most)
            return Ask(prompt, self.sampling(request.sampling, "next_question"), "next_question")
        prompt = self.prompts.decompose(request.problem, request.seed, most)
        return Ask(prompt, self.sampling(request.sampling, "decompose"), "decompose")

    def _limits(self, request: DecomposeRequest) -> PlanLimits:
        return self.limits.at_most(request.max_steps)

    def _read(self, request: DecomposeRequest, finish: Finish, text: str) -> Reading[Plan | None]:
        if finish == "error":
            return Reading(None, text, "the model ended its reply with an error.")
        if finish == "length":
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
    options = config.drafts if isinstance(config, DecomposerConfig) else None
    if options is not None:
        require(model, "drafts", purpose="a decomposer with drafts")
    drafts = None if options is None else Drafting(options.k, alpha=options.alpha, reset_every=options.reset_every)
    redraws = config.redraws if isinstance(config, DecomposerConfig) else 0
    return Decomposer(model, prompts, repair_retries=config.repair_retries, max_tokens=config.max_tokens, drafts=drafts, redraws=redraws)


def _is_grounded(plan: Plan | None, problem: Problem) -> bool:
    return plan is not None and not strangers(plan, problem)


def _most_frequent(readings: Sequence[Reading[Plan | None]]) -> Reading[Plan | None] | None:
    """A reading of the most frequent plan, of equally frequent ones the first; None of nothing."""
    counts = Counter(reading.value for reading in readings)
    return max(readings, key=lambda reading: counts[reading.value], default=None)


def _reply(replies: Replies[Plan | None]) -> DecomposeReply:
    complaints = [reading.complaint for reading in replies.readings if reading.complaint is not None]
    return DecomposeReply(
        plans=tuple(reading.value for reading in replies.readings),
        texts=tuple(reading.text for reading in replies.readings),
        usage=replies.usage,
        failures=tuple(Failure(ParseError.__name__, complaint, "decomposer") for complaint in complaints),
    )
