"""Cleave's own route: `POST /v1/solve`, a problem in, its Trace out.

A trace that failed is returned as well, with its `error` filled in and the matching status; one that has an answer is a 200 even if
something stopped the work later.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.responses import Response

from cleave.types import Trace, to_json
from serve.catalogue import Catalogue
from serve.failures import RETRYABLE, status_of
from serve.openai_routes import ERRORS, QUESTION
from serve.request import problem_of, reasoning_of, reply_limit
from serve.schema import SolveBody, TraceReply
from serve.service import Service

FAILED = (422, 429, 502, 503)
"""Statuses whose body is a failed Trace (a 429 or 503 of the ingress itself is an error object)."""
RESPONSES: dict[int | str, dict[str, Any]] = {
    **{status: reply for status, reply in ERRORS.items() if status not in FAILED},
    **{status: {"model": TraceReply, "description": ERRORS[status]["description"]} for status in FAILED},
    200: {"model": TraceReply, "description": "The trace: plans, solutions, answer, confidence, cost"},
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
}


def solve_routes(service: Service, catalogue: Catalogue) -> APIRouter:
    """The router over one service."""
    router = APIRouter(prefix="/v1", tags=["Cleave"])

    @router.post("/solve", response_model=None, responses=RESPONSES, summary="Solve a problem and show the work")
    async def solve(body: Annotated[SolveBody, Body(openapi_examples=EXAMPLES)]) -> Response:
        problem = problem_of(body.question, body.context, service.limits)
        base = catalogue.pipeline(body.model or catalogue.default)
        reasoning = reasoning_of(base, body, body.n, service.limits)
        max_tokens = reply_limit(body.max_tokens, service.limits)
        (trace,) = await service.reason(problem, reasoning, max_tokens=max_tokens)
        return trace_response(trace, service.limits.retry_after_s)

    return router


def trace_response(trace: Trace, retry_after_s: int) -> Response:
    """The trace as JSON, with the status of its error if it found nothing."""
    status = status_of(trace.error) if trace.answer is None and trace.error is not None else 200
    headers = {"Retry-After": str(retry_after_s)} if status in RETRYABLE else None
    return Response(to_json(trace), status, headers, media_type="application/json")
