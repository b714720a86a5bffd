"""`GET /v1/traces/{id}`: everything that happened in a request that was answered a while ago, for who asked it.

The id is that of the completion, or the header `X-Trace-Id` of a reply of /v1/solve. Off unless `traces.max_traces` is set.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from cleave.types import Trace
from serve.failures import ApiError
from serve.openai_routes import ERRORS
from serve.service import Service

TRACE_ID = "X-Trace-Id"


class TracesReply(BaseModel):
    """What happened: one trace per choice, and how they were asked for."""

    id: str
    traces: list[Trace]
    asked: dict[str, Any]


def trace_routes(service: Service) -> APIRouter:
    """The router over one service."""
    router = APIRouter(prefix="/v1", tags=["Cleave"])
    replies: dict[int | str, dict[str, Any]] = {404: ERRORS[404] | {"description": "No such trace, or not yours"}}

    @router.get("/traces/{name}", response_model=TracesReply, responses=replies, summary="Show what happened in an earlier request")
    async def traces(name: str) -> Response:
        document = await service.kept(name)
        if document is None:
            message = "there is no trace of this id; the oldest are forgotten first." if service.keeps else "traces are not kept here."
            raise ApiError(404, message, "trace_not_found", "name")
        return Response(document, media_type="application/json")

    return router
