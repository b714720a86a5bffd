"""Roles that answer from a list: what each way of reasoning gets is a table of the test. A fake of the roles, for tests of stages."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cleave.errors import CleaveError
from cleave.plans import parse_plan
from cleave.roles import DecomposeReply, DecomposeRequest, Roles, SolveReply, SolveRequest, VerifyReply, VerifyRequest
from cleave.types import ModelInfo, Solution, SolutionStep, Usage, Verdict

PLAN = "1. How many in all?"
PLAN_COST = Usage(calls=1, prompt_tokens=10, completion_tokens=5)
PROMPT_TOKENS = 20
Answers = Sequence[str | None] | CleaveError


@dataclass
class Answering:
    """`table`: by way of reasoning (direct, single, static) the answers of all samples that are drawn, in order, or an error to raise.
    `scores`: what the verifier thinks of an answer, None: there is no verifier. Every sample costs as many tokens as its number, from
    1, the first of a call `PROMPT_TOKENS` more."""

    table: Mapping[str, Answers]
    scores: Mapping[str, float] | CleaveError | None = None
    plans: Callable[[int], str] = lambda i: PLAN
    solved: list[SolveRequest] = field(default_factory=list)
    planned: list[DecomposeRequest] = field(default_factory=list)
    verified: list[VerifyRequest] = field(default_factory=list)
    drawn: dict[str, int] = field(default_factory=dict)

    @property
    def roles(self) -> Roles:
        verifier = None if self.scores is None else Verifies(self)
        return Roles(Decomposes(self), Solves(self), verifier)

    def seeds(self) -> list[int]:
        return [request.seed for request in (*self.planned, *self.solved)]


@dataclass
class Role:
    cast: Answering

    async def info(self) -> ModelInfo:
        return ModelInfo(type(self).__name__.lower(), "1")


class Decomposes(Role):
    async def __call__(self, request: DecomposeRequest) -> DecomposeReply:
        self.cast.planned.append(request)
        texts = tuple(self.cast.plans(i) for i in range(request.sampling.n))
        return DecomposeReply(tuple(map(parse_plan, texts)), texts, PLAN_COST)


class Solves(Role):
    async def __call__(self, request: SolveRequest) -> SolveReply:
        await asyncio.sleep(0)
        self.cast.solved.append(request)
        way = way_of(request)
        answers = self.cast.table[way]
        if isinstance(answers, CleaveError):
            raise answers
        start = self.cast.drawn.get(way, 0)
        self.cast.drawn[way] = start + request.sampling.n
        solutions = tuple(solution(answers[start + i], start + i, first=not i) for i in range(request.sampling.n))
        return SolveReply(solutions, sum((each.usage for each in solutions), Usage()))


class Verifies(Role):
    async def __call__(self, request: VerifyRequest) -> VerifyReply:
        self.cast.verified.append(request)
        scores = self.cast.scores
        if isinstance(scores, CleaveError):
            raise scores
        assert scores is not None
        verdicts = tuple(Verdict(scores.get(each.answer or "", 0.0)) for each in request.solutions)
        return VerifyReply(verdicts, Usage(calls=1, prompt_tokens=3))


def way_of(request: SolveRequest) -> str:
    """The strategy that asks so."""
    return "direct" if request.mode == "answer" else "single" if request.plan is None else "static"


def solution(answer: str | None, number: int, *, first: bool) -> Solution:
    usage = Usage(int(first), PROMPT_TOKENS * first, number + 1)
    return Solution((SolutionStep(1, f"= {answer}", answer or ""),), answer, f"The answer is: {answer}", -0.1 * (number + 1), usage)
