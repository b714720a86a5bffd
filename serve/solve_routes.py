"""Cleave's own route: `POST /v1/solve`, a problem in, its Trace out, along the client's own plan if it sends one.

A trace that failed is returned as well, with its `error` filled in and the matching status; one that has an answer is a 200 even if
something stopped the work later. As a stream, what happens comes as named events: those of cleave/events.py, `text` where the answer's
text can be shown while it grows, and `trace` at the end, failed or not.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.responses import Response

from cleave.types import Trace, to_dict, to_json
from serve.catalogue import Catalogue
from serve.completion import new_id
from serve.event_stream import Put, event_stream
from serve.failures import RETRYABLE, status_of
from serve.openai_routes import ERRORS, QUESTION, STREAMED
from serve.request import following, plan_of, problem_of, reasoning_of, reply_limit
from serve.schema import SolveBody, TraceReply
from serve.service import Listener, Service
from serve.trace_routes import TRACE_ID

FAILED = (422, 429, 502, 503)
"""Statuses whose body is a failed Trace (a 429 or 503 of the ingress itself is an error object)."""
RESPONSES: dict[int | str, dict[str, Any]] = {
    **{status: reply for status, reply in ERRORS.items() if status not in FAILED},
    **{status: {"model": TraceReply, "description": ERRORS[status]["description"]} for status in FAILED},
    200: STREAMED[200] | {"model": TraceReply, "description": "The trace: plans, solutions, answer, confidence, cost"},
}
EXAMPLES: dict[str, Any] = {
    "question": {"summary": "One question", "value": {"question": QUESTION}},
    "vote": {
        "summary": "A passage, eight solutions, the majority's answer",
        "value": {
            "context": "Tom has 12 apples. Ann has 5 apples.",
            "question": "How many apples do they have in all?",
            "strategy": "static",
            "n": 8,
            "temperature": 0.7,
            "selection": "majority",
            "seed": 1,
            "budget": {"max_tokens": 20000, "max_seconds": 30},
        },
    },
    "plan": {
        "summary": "Along your own plan, node by node",
        "value": {
            "question": QUESTION,
            "strategy": "stepwise",
            "plan": "1. How many apples does Tom have at first?\n2. How many is #1 plus 7?",
        },
    },
}


def solve_routes(service: Service, catalogue: Catalogue) -> APIRouter:
    """The router over one service."""
    router = APIRouter(prefix="/v1", tags=["Cleave"])

    @router.post("/solve", response_model=None, responses=RESPONSES, summary="Solve a problem and show the work")
    async def solve(body: Annotated[SolveBody, Body(openapi_examples=EXAMPLES)]) -> Response:
        problem = problem_of(body.question, body.context, service.limits)
        base = catalogue.pipeline(body.model or catalogue.default)
        reasoning = reasoning_of(base, body, body.n, service.limits)
        plan = plan_of(body.plan)
        if plan is not None:
            reasoning = following(reasoning, plan)
        max_tokens = reply_limit(body.max_tokens, service.limits)
        if body.stream:

            async def work(put: Put) -> None:
                listener = Listener(lambda _, event: put((event.event, event.to_dict())), lambda _, text: put(("text", {"text": text})))
                (trace,) = await service.reason([problem], reasoning, max_tokens=max_tokens, listener=listener, plan=plan)
                name = new_id("trace")
                await service.keep(name, [trace], reasoning, max_tokens, has_plan=plan is not None)
                put(("trace", to_dict(trace)))
                if service.keeps:
                    put(("trace_id", {"id": name}))

            return await event_stream(work, service.limits.heartbeat_s)
        (trace,) = await service.reason([problem], reasoning, max_tokens=max_tokens, plan=plan)
        response = trace_response(trace, service.limits.retry_after_s)
        if service.keeps:
            response.headers[TRACE_ID] = name = new_id("trace")
            await service.keep(name, [trace], reasoning, max_tokens, has_plan=plan is not None)
        return response

    return router


def trace_response(trace: Trace, retry_after_s: int) -> Response:
    """The trace as JSON, with the status of its error if it found nothing."""
    status = status_of(trace.error) if trace.answer is None and trace.error is not None else 200
    headers = {"Retry-After": str(retry_after_s)} if status in RETRYABLE else None
    return Response(to_json(trace), status, headers, media_type="application/json")
