"""The routes of OpenAI's API: chat completions and models. Plain text completions: serve/text_routes.py.

`POST /v1/chat/completions` takes a composed pipeline, or a single role, as its model, whole or as a stream (serve/chunks.py). Every
field is honoured or refused with 400, never ignored (serve/chat_fields.py). Left out, and refused: tools.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.responses import Response

from cleave.config.serve import LimitsConfig
from cleave.roles import DecomposeRequest, Role, SolveRequest
from cleave.seeds import derive_seed
from cleave.types import Problem
from serve.catalogue import Catalogue
from serve.chunks import ChatWriter
from serve.completion import of_said, of_texts, of_traces
from serve.conversation import read
from serve.event_stream import Put, event_stream
from serve.failures import refused
from serve.generation import answered, check_stream, listened, refuse_for_role, sampling_of, stops_of, wants_usage
from serve.model_calls import Said, Say
from serve.request import check_fan_out, problem_of, reasoning_of, reply_limit
from serve.schema import ChatBody, ChatCompletion, ErrorReply, Model, ModelList
from serve.service import Service

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": text}
    for status, text in {
        400: "A field that cannot be honoured",
        401: "No key, or one that is not known",
        404: "No such model",
        413: "The question is too large",
        422: "The budget ran out before there was an answer",
        429: "Too many requests; see Retry-After",
        502: "A model failed, or did not reply in the agreed form",
        503: "A role is not available; see Retry-After",
        504: "The request took too long",
    }.items()
}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"description": "The reply, whole or as a stream", "content": {"text/event-stream": {}}}}
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

    @router.post("/chat/completions", response_model=ChatCompletion, responses=ERRORS | STREAMED, summary="Answer a chat's last question")
    async def chat_completions(body: Annotated[ChatBody, Body(openapi_examples=EXAMPLES)]) -> Any:
        check_stream(body)
        question, context = read(body.messages)
        problem = problem_of(question, context, service.limits)
        max_tokens = _max_tokens(body, service.limits)
        stop = stops_of(body)
        role = catalogue.role(body.model)
        if role is not None:
            return await _chat_with_role(service, role, problem, body, max_tokens, stop)
        if body.logprobs or body.top_logprobs:
            raise refused("a composed answer has no token log-probabilities; ask a single role.", "logprobs", "unsupported_field")
        reasoning = reasoning_of(catalogue.pipeline(body.model), body, body.samples, service.limits, choices=body.n)
        if not body.stream:
            traces = await service.reason([problem], reasoning, choices=body.n, max_tokens=max_tokens)
            completion = of_traces(body.model, [answered(trace) for trace in traces], stop)
            await service.keep(completion.id, traces, reasoning, max_tokens)
            return completion

        async def work(put: Put) -> None:
            writer = ChatWriter(put, body.model, include_usage=wants_usage(body), stop=stop)
            traces = await listened(service, writer, body, [problem], reasoning, max_tokens)
            await service.keep(writer.id, traces, reasoning, max_tokens)
            writer.close(of_traces(body.model, traces, stop))

        return await event_stream(work, service.limits.heartbeat_s)

    @router.get("/models", summary="List pipelines and roles")
    async def list_models() -> ModelList:
        return catalogue.list()

    @router.get("/models/{model}", responses={404: ERRORS[404]}, summary="Describe one model")
    async def describe_model(model: str) -> Model:
        return catalogue.describe(model)

    return router


async def _chat_with_role(
    service: Service, role: Role, problem: Problem, body: ChatBody, max_tokens: int | None, stop: list[str]
) -> ChatCompletion | Response:
    """What one role says to the question, past the other roles."""
    refuse_for_role(body, role)
    check_fan_out(body.n, service.limits)
    if body.top_logprobs and not body.logprobs:
        raise refused("top_logprobs needs logprobs; set it, or leave top_logprobs out.", "top_logprobs")
    sampling, seed = sampling_of(body, max_tokens or service.limits.max_tokens, stop)
    if not body.stream and not body.logprobs:
        return of_texts(role, await service.ask(role, problem, sampling, derive_seed(seed, role)), seed, stop)
    kind = DecomposeRequest if role == "decomposer" else SolveRequest
    say = Say(kind(problem, sampling=sampling, seed=derive_seed(seed, role)), body.top_logprobs if body.logprobs else None)
    if not body.stream:
        return of_said(role, await service.ask_model(role, say), seed, stop)

    async def work(put: Put) -> None:
        writer = ChatWriter(put, body.model, include_usage=wants_usage(body), stop=stop, as_written=True)
        said = await service.stream_model(role, say, lambda piece: None if body.logprobs else writer.text(piece.index, piece.text))
        assert isinstance(said, Said)
        writer.close(of_said(role, said, seed, stop))

    return await event_stream(work, service.limits.heartbeat_s)


def _max_tokens(body: ChatBody, limits: LimitsConfig) -> int | None:
    both = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(both) > 1:
        raise refused("max_tokens and max_completion_tokens differ; give one of them.", "max_tokens")
    param = "max_tokens" if body.max_tokens is not None else "max_completion_tokens"
    return reply_limit(next(iter(both), None), limits, param)
