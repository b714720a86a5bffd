"""Plain text: `POST /v1/completions`, and the tokenizer behind a role at `/tokenize` and `/tokenizer_info`.

A role goes on from the prompt as it stands, without the role's own prompts; with `echo` and `logprobs` that gives exact likelihoods, which
is what evaluation harnesses ask for. For a composed pipeline each prompt is a question; it has no likelihood, and says so.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from fastapi.responses import Response

from cleave.roles import Role
from cleave.types import Problem
from serve.catalogue import Catalogue
from serve.chunks import TextWriter
from serve.completion import as_text, of_continued, of_traces
from serve.event_stream import Put, event_stream
from serve.failures import ApiError, refused
from serve.generation import answered, check_stream, listened, refuse_for_role, sampling_of, stops_of, wants_usage
from serve.model_calls import Continue, Continued, DescribeTokenizer, Tokenize, TokenizerNote
from serve.openai_routes import ERRORS, QUESTION, STREAMED
from serve.request import check_fan_out, problem_of, reasoning_of, reply_limit
from serve.service import Service
from serve.text_schema import TextBody, TextCompletion, TokenizeBody, TokenizeReply, TokenizerInfo

DEFAULT_MAX_TOKENS = 16
"""OpenAI's, for a prompt that says nothing of it."""
COMPOSED_REFUSES = ("echo", "logprobs")
EXAMPLES: dict[str, Any] = {
    "question": {"summary": "A question to a composed pipeline", "value": {"model": "cleave", "prompt": QUESTION}},
    "likelihood": {
        "summary": "The exact likelihood of a text under the solver's model",
        "value": {"model": "solver", "prompt": "1. 12 + 7 = 19", "max_tokens": 0, "echo": True, "logprobs": 1},
    },
}
TOKENIZE_EXAMPLES: dict[str, Any] = {"text": {"summary": "A text", "value": {"prompt": "12 + 7"}}}


def text_routes(service: Service, catalogue: Catalogue) -> APIRouter:
    """The router over one service."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/completions", response_model=TextCompletion, responses=ERRORS | STREAMED, summary="Go on from a text")
    async def completions(body: Annotated[TextBody, Body(openapi_examples=EXAMPLES)]) -> Any:
        check_stream(body)
        check_fan_out(len(body.prompts) * body.n, service.limits)
        role = catalogue.role(body.model)
        return await (_of_role(service, role, body) if role is not None else _of_pipeline(service, catalogue, body))

    @router.post("/tokenize", responses=ERRORS, summary="Cut a text into a role's tokens")
    async def tokenize(body: Annotated[TokenizeBody, Body(openapi_examples=TOKENIZE_EXAMPLES)]) -> TokenizeReply:
        role = _role(catalogue, body.model)
        tokens = await service.ask_model(role, Tokenize(body.prompt, body.add_special_tokens))
        return TokenizeReply(tokens=list(tokens), count=len(tokens))

    @router.get("/tokenizer_info", responses=ERRORS, summary="Describe a role's tokenizer")
    async def tokenizer_info(
        model: Annotated[str | None, Query(description="A role of /v1/models; absent: the solver.")] = None,
    ) -> TokenizerInfo:
        note: TokenizerNote = await service.ask_model(_role(catalogue, model), DescribeTokenizer())
        return TokenizerInfo(
            tokenizer_class=note.kind,
            model=note.name,
            vocab_size=note.vocab_size,
            model_max_length=note.max_len,
            chat_template=note.chat_template,
            **note.special,
        )

    return router


async def _of_role(service: Service, role: Role, body: TextBody) -> TextCompletion | Response:
    refuse_for_role(body, role)
    max_tokens = reply_limit(body.max_tokens, service.limits)
    default = min(DEFAULT_MAX_TOKENS, service.limits.max_tokens)
    sampling, seed = sampling_of(body, default if max_tokens is None else max_tokens, stops_of(body))
    call = Continue(body.prompts, sampling, seed, body.logprobs, body.echo)
    if not body.stream:
        return of_continued(role, await service.ask_model(role, call), seed, body.logprobs)

    async def work(put: Put) -> None:
        writer = TextWriter(put, body.model, include_usage=wants_usage(body), as_written=True)
        in_pieces = body.logprobs is None
        reply = await service.stream_model(role, call, lambda piece: writer.text(piece.index, piece.text) if in_pieces else None)
        assert isinstance(reply, Continued)
        writer.close(of_continued(role, reply, seed, body.logprobs))

    return await event_stream(work, service.limits.heartbeat_s)


async def _of_pipeline(service: Service, catalogue: Catalogue, body: TextBody) -> TextCompletion | Response:
    base = catalogue.pipeline(body.model)
    for name in COMPOSED_REFUSES:
        if getattr(body, name) not in (None, False):
            raise refused(f"{name}: a composed answer has no token log-probabilities; ask a single role.", name, "unsupported_field")
    problems = [_problem(prompt, service) for prompt in body.prompts]
    max_tokens, stop = reply_limit(body.max_tokens, service.limits), stops_of(body)
    reasoning = reasoning_of(base, body, body.samples, service.limits, choices=body.n * len(problems))
    if not body.stream:
        traces = [answered(trace) for trace in await service.reason(problems, reasoning, choices=body.n, max_tokens=max_tokens)]
        completion = as_text(of_traces(body.model, traces, stop))
        await service.keep(completion.id, traces, reasoning, max_tokens)
        return completion

    async def work(put: Put) -> None:
        writer = TextWriter(put, body.model, include_usage=wants_usage(body), stop=stop)
        traces = await listened(service, writer, body, problems, reasoning, max_tokens)
        await service.keep(writer.id, traces, reasoning, max_tokens)
        writer.close(as_text(of_traces(body.model, traces, stop)))

    return await event_stream(work, service.limits.heartbeat_s)


def _problem(prompt: str | tuple[int, ...], service: Service) -> Problem:
    if not isinstance(prompt, str):
        raise refused("a composed pipeline reads text, not token ids; send text, or ask a single role.", "prompt", "unsupported_field")
    return problem_of(prompt, "", service.limits)


def _role(catalogue: Catalogue, model: str | None) -> Role:
    """The role whose tokenizer is meant. Raises ApiError 400 for a pipeline and 404 for what is not there."""
    if model is None:
        return "solver"
    role = catalogue.role(model)
    if role is None:
        catalogue.pipeline(model)
        raise ApiError(400, f"{model!r} is a composed pipeline and has no tokenizer of its own; name a role.", "unsupported_model", "model")
    return role
