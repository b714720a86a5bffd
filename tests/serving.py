"""The HTTP application over scripted roles, without Ray: fakes and clients for tests of routes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
import openai
from fastapi import FastAPI

from cleave.config.serve import ServeArgs
from cleave.errors import ConfigError, RoleUnavailable
from cleave.plans import parse_plan
from cleave.roles import DecomposeReply, DecomposeRequest, Roles, SolveReply, SolveRequest, VerifyReply
from cleave.solutions import parse_solution, render_step
from cleave.types import ModelInfo, Solution, SolutionStep, Usage
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.model_calls import Continue, Continued, Piece, Said, Say, Spoken, Tokenize, Weigh
from serve.service import Service

QUESTION = "Tom has 12 apples, buys 7 and eats 2. How many are left?"
PLAN = "1. How many in all?\n2. How many is #1 less 2?"
TEXT = "1. 12 + 7 = 19\n2. 19 - 2 = 17\nThe answer is: 17"
PLAN_COST = Usage(calls=1, prompt_tokens=10, completion_tokens=5, price=0.5)
SOLVE_COST = Usage(calls=1, prompt_tokens=20, completion_tokens=7, price=0.25)


@dataclass
class Script:
    """Scripted roles: what they say, fail with or wait for, and what they were asked. `pauses_s`: between the words of a stream."""

    text: Callable[[SolveRequest, int], str] = lambda request, sample: TEXT
    plan: str = PLAN
    fails: Exception | None = None
    waits_s: float = 0.0
    pauses_s: float = 0.0
    asked: list[Any] = field(default_factory=list)
    cancelled: int = 0

    async def hear(self, request: Any) -> None:
        self.asked.append(request)
        try:
            await asyncio.sleep(self.waits_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fails is not None:
            raise self.fails

    async def between_words(self) -> None:
        try:
            await asyncio.sleep(self.pauses_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @property
    def solved(self) -> list[SolveRequest]:
        return [request for request in self.asked if isinstance(request, SolveRequest)]


class Stage:
    """Where the current test's script plays: building an application is slow, so tests with the same arguments share one."""

    script: Script


@dataclass
class Decomposes:
    stage: Stage

    @property
    def script(self) -> Script:
        return self.stage.script

    async def __call__(self, request: DecomposeRequest) -> DecomposeReply:
        await self.script.hear(request)
        n = request.sampling.n
        return DecomposeReply((parse_plan(self.script.plan),) * n, (self.script.plan,) * n, PLAN_COST)

    async def info(self) -> ModelInfo:
        return ModelInfo("scripted-decomposer", "1")


@dataclass
class Solves:
    stage: Stage

    @property
    def script(self) -> Script:
        return self.stage.script

    async def __call__(self, request: SolveRequest) -> SolveReply:
        await self.script.hear(request)
        samples = range(request.sampling.n)
        if request.mode == "step":
            return SolveReply(tuple(self.step(request) for _ in samples), SOLVE_COST)
        texts = [self.script.text(request, sample) for sample in samples]
        return SolveReply(tuple(parse_solution(text, logprob=-0.1, usage=SOLVE_COST) for text in texts), SOLVE_COST)

    def step(self, request: SolveRequest) -> Solution:
        assert request.plan is not None
        number = len(request.plan.steps)
        step = SolutionStep(number, f"= {10 * number}", str(10 * number))
        return Solution((step,), step.answer, render_step(step), -0.1, SOLVE_COST)

    async def info(self) -> ModelInfo:
        if isinstance(self.script.fails, RoleUnavailable):
            raise self.script.fails
        return ModelInfo("scripted-solver", "7")


@dataclass
class Speaks:
    """The model behind the scripted solver: writes word by word, has a token per character and an opinion of nothing."""

    solver: Solves

    async def ask(self, call: Any) -> Any:
        if isinstance(call, Weigh):
            return VerifyReply(())
        if isinstance(call, Tokenize):
            return tuple(map(ord, call.text))
        if not isinstance(call, Say | Continue):
            raise ConfigError("the script has no drafts; ask another model.")
        [*_, last] = [item async for item in self.stream(call)]
        return last

    async def stream(self, call: Say | Continue) -> AsyncIterator[Any]:
        if isinstance(call, Continue):
            texts = tuple(Spoken(f" after {prompt}") for prompt in call.prompts for _ in range(call.sampling.n))
            reply: Any = Continued(texts, SOLVE_COST, await self.solver.info())
        else:
            assert isinstance(call.request, SolveRequest)
            solved = await self.solver(call.request)
            texts = tuple(Spoken(solution.text) for solution in solved.solutions)
            reply = Said(texts, solved, solved.usage, await self.solver.info())
        for i, text in enumerate(texts):
            for word in re.findall(r"\s*\S+", text.text):
                yield Piece(i, word)
                await self.solver.script.between_words()
        yield reply


@cache
def application(args: str) -> tuple[FastAPI, Stage]:
    config, stage = ServeArgs.model_validate_json(args), Stage()
    solver = Solves(stage)
    service = Service(Roles(Decomposes(stage), solver), config.limits, {"solver": Speaks(solver)})
    return create_app(service, Catalogue.of(config)), stage


def client_of(script: Script, **args: Any) -> httpx.AsyncClient:
    app, stage = application(json.dumps(args))
    stage.script = script
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://cleave/v1")


def chat(content: Any = QUESTION, **fields: Any) -> dict[str, Any]:
    return {"model": "cleave", "messages": [{"role": "user", "content": content}], **fields}


def check_error(reply: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """The reply is OpenAI's error object with this status and code; returns its sentence."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert "Traceback" not in error["message"]
    return str(error["message"])


def openai_of(script: Script, **args: Any) -> openai.AsyncOpenAI:
    """The real client over the application."""
    return openai.AsyncOpenAI(base_url="http://cleave/v1", api_key="none", max_retries=0, http_client=client_of(script, **args))
