"""The spans of calls to the roles: in the ingress one from request to reply, in the replica one with what only the replica knows.

Both hold the tokens: an ingress may ask a replica without spans, and a replica that dies takes its own along. Sum up those of one kind.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Span, SpanKind, Tracer

from cleave.errors import CleaveError
from cleave.roles import DecomposeRequest, Role, RoleHandle, SolveRequest, VerifyRequest
from cleave.types import ModelInfo, Usage
from serve.model_calls import Continue, Continued, ModelCall, Piece, RoleModel, Said, Say
from serve.open_span import current_span, fail, open_span
from serve.problem_spans import belonging
from serve.tracing import CARRIER, Carrier, UntracedCall

Q = TypeVar("Q")
A = TypeVar("A")
PROVIDER = "cleave"
OPERATIONS: dict[Role, str] = {"decomposer": "text_completion", "solver": "text_completion", "verifier": "verify"}


class Called(Generic[Q, A]):
    """A role whose calls have spans."""

    def __init__(self, tracer: Tracer, role: Role, handle: RoleHandle[Q, A]) -> None:
        self._tracer, self._role, self._handle = tracer, role, handle

    async def __call__(self, request: Q) -> A:
        with belonging(request) as context, current_span(_asking(self._tracer, self._role, request, context)) as span:
            reply = await self._handle(request)
            span.set_attributes(_tokens(reply))
            return reply

    async def info(self) -> ModelInfo:
        return await self._handle.info()


class CalledModel:
    """The model behind a role, whose calls have spans."""

    def __init__(self, tracer: Tracer, role: Role, model: RoleModel) -> None:
        self._tracer, self._role, self._model = tracer, role, model

    async def ask(self, call: ModelCall) -> Any:
        """See RoleModel."""
        with current_span(_asking(self._tracer, self._role, call, None)) as span:
            reply = await self._model.ask(call)
            span.set_attributes(_tokens(reply))
            return reply

    async def stream(self, call: Say | Continue) -> AsyncIterator[Piece | Said | Continued]:
        """See RoleModel."""
        request = call.request if isinstance(call, Say) else call
        with belonging(request) as context, open_span(_asking(self._tracer, self._role, call, context)) as span:
            async for item in self._model.stream(call):
                if not isinstance(item, Piece):
                    span.set_attributes(_tokens(item))
                yield item


class ReplicaCall(UntracedCall):
    """The same with a span, which is told all of it."""

    def __init__(self, span: Span) -> None:
        self._span, self._start = span, time.perf_counter()

    def batch(self, requests: int, sequences: int) -> None:
        size = {"cleave.batch.requests": requests, "cleave.batch.sequences": sequences}
        self._span.set_attributes({**size, "cleave.queue.seconds": time.perf_counter() - self._start})

    def reply(self, reply: Any) -> None:
        if isinstance(reply, CleaveError):
            fail(self._span, type(reply).__name__)
        if (usage := _usage(reply)) is not None:
            self._span.set_attributes({**_tokens(reply), "cleave.model.seconds": usage.seconds})


@contextmanager
def replica_call(tracer: Tracer, role: Role, model: str, carrier: Carrier) -> Iterator[ReplicaCall]:
    """A call that is answered in the block."""
    attributes = {**_of(role), "gen_ai.request.model": model, "gen_ai.response.model": model}
    with open_span(tracer.start_span(role, extract(carrier), SpanKind.SERVER, attributes)) as span:
        yield ReplicaCall(span)


def _asking(tracer: Tracer, role: Role, request: object, context: Any) -> Span:
    """The span of a call, which takes its context along."""
    attributes = {**_of(role), "cleave.call": type(request).__name__, **_options(request.request if isinstance(request, Say) else request)}
    span = tracer.start_span(f"ask {role}", context, SpanKind.CLIENT, attributes)
    carrier: dict[str, str] = {}
    inject(carrier, trace.set_span_in_context(span))
    CARRIER.set(carrier)
    return span


def _of(role: Role) -> dict[str, Any]:
    return {"cleave.role": role, "gen_ai.provider.name": PROVIDER, "gen_ai.operation.name": OPERATIONS[role]}


def _options(request: object) -> dict[str, Any]:
    if isinstance(request, VerifyRequest):
        return {"cleave.solutions": len(request.solutions)}
    if isinstance(request, DecomposeRequest | SolveRequest | Continue):
        sampling = request.sampling
        count = {"gen_ai.request.choice.count": sampling.n} if sampling.n > 1 else {}
        return {"gen_ai.request.temperature": float(sampling.temperature), **count}
    return {}


def _usage(reply: object) -> Usage | None:
    usage = getattr(reply, "usage", None)
    return usage if isinstance(usage, Usage) else None


def _tokens(reply: object) -> dict[str, Any]:
    usage = _usage(reply)
    if usage is None:
        return {}
    return {"gen_ai.usage.input_tokens": usage.prompt_tokens, "gen_ai.usage.output_tokens": usage.completion_tokens}
