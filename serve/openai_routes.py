"""The routes of OpenAI's API: chat completions and models.

`POST /v1/chat/completions` takes a composed pipeline, or a single role, as its model. Every field is honoured or refused with 400,
never ignored (serve/chat_fields.py). Left out, and refused: streaming, tools, log-probabilities.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Body

from cleave.config.serve import LimitsConfig
from cleave.errors import Abstained
from cleave.roles import Role
from cleave.seeds import derive_seed
from cleave.types import Problem, Sampling, Trace
from serve.catalogue import Catalogue
from serve.completion import of_texts, of_traces
from serve.conversation import read
from serve.failures import api_error, refused
from serve.request import check_fan_out, problem_of, reasoning_of, reply_limit
from serve.schema import ChatBody, ChatCompletion, ErrorReply, Model, ModelList
from serve.service import Service

MAX_STOPS = 4
ROLE_REFUSES = (
    "strategy",
    "samples",
    "plans",
    "plan_temperature",
    "selection",
    "stop_early",
    "samples_per_round",
    "abstain_below",
    "budget",
)
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": text}
    for status, text in {
        400: "A field that cannot be honoured",
        404: "No such model",
        413: "The question is too large",
        422: "The budget ran out before there was an answer",
        429: "Too many requests; see Retry-After",
        502: "A model failed, or did not reply in the agreed form",
        503: "A role is not available; see Retry-After",
        504: "The request took too long",
    }.items()
}
QUESTION = "Tom has 12 apples and buys 7 more. How many apples does Tom have?"
EXAMPLES: dict[str, Any] = {
    "question": {"summary": "One question", "value": {"model": "cleave", "messages": [{"role": "user", "content": QUESTION}]}},
    "vote": {
        "summary": "Eight solutions, node by node, the majority's answer",
        "value": {
            "model": "cleave",
            "messages": [{"role": "user", "content": QUESTION}],
            "strategy": "stepwise",
            "samples": 8,
            "temperature": 0.7,
            "selection": "majority",
            "seed": 1,
            "budget": {"max_tokens": 20000},
        },
    },
    "role": {"summary": "A plan only", "value": {"model": "decomposer", "messages": [{"role": "user", "content": QUESTION}]}},
}


def openai_routes(service: Service, catalogue: Catalogue) -> APIRouter:
    """The router over one service."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/chat/completions", responses=ERRORS, summary="Answer a chat's last question")
    async def chat_completions(body: Annotated[ChatBody, Body(openapi_examples=EXAMPLES)]) -> ChatCompletion:
        question, context = read(body.messages)
        problem = problem_of(question, context, service.limits)
        max_tokens = _max_tokens(body, service.limits)
        stop = _stops(body)
        role = catalogue.role(body.model)
        if role is not None:
            return await _ask_role(service, role, problem, body, max_tokens, stop)
        base = catalogue.pipeline(body.model)
        reasoning = reasoning_of(base, body, body.samples, service.limits, choices=body.n)
        traces = await service.reason(problem, reasoning, choices=body.n, max_tokens=max_tokens)
        return of_traces(body.model, [_answered(trace) for trace in traces], stop)

    @router.get("/models", summary="List pipelines and roles")
    async def list_models() -> ModelList:
        return catalogue.list()

    @router.get("/models/{model}", responses={404: ERRORS[404]}, summary="Describe one model")
    async def describe_model(model: str) -> Model:
        return catalogue.describe(model)

    return router


async def _ask_role(
    service: Service, role: Role, problem: Problem, body: ChatBody, max_tokens: int | None, stop: list[str]
) -> ChatCompletion:
    for name in ROLE_REFUSES:
        if getattr(body, name) is not None:
            raise refused(f"{name} applies to composed pipelines, {role!r} is a single role; leave it out.", name, "unsupported_field")
    check_fan_out(body.n, service.limits)
    temperature = body.temperature or 0.0
    seed = body.seed if body.seed is not None else secrets.randbits(31) if temperature else 0
    sampling = Sampling(
        max_tokens=max_tokens or service.limits.max_tokens, temperature=temperature, top_p=body.top_p or 1.0, n=body.n, stop=tuple(stop)
    )
    return of_texts(role, await service.ask(role, problem, sampling, derive_seed(seed, role)), seed, stop)


def _answered(trace: Trace) -> Trace:
    """The trace, unless it found nothing. Raises ApiError with what stopped it; to abstain is an answer."""
    if trace.answer is None and trace.error is not None and trace.error.type != Abstained.__name__:
        raise api_error(trace.error)
    return trace


def _max_tokens(body: ChatBody, limits: LimitsConfig) -> int | None:
    both = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(both) > 1:
        raise refused("max_tokens and max_completion_tokens differ; give one of them.", "max_tokens")
    param = "max_tokens" if body.max_tokens is not None else "max_completion_tokens"
    return reply_limit(next(iter(both), None), limits, param)


def _stops(body: ChatBody) -> list[str]:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MAX_STOPS or not all(stops):
        raise refused(f"stop takes up to {MAX_STOPS} strings, none of them empty.", "stop")
    return stops
