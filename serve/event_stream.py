"""Server-sent events: work that puts what it has to say, and a response that sends it on while it works.

    return await event_stream(work, heartbeat_s=10)      # async def work(put): put({"text": "…"}); put(DONE)

What fails before anything was put is raised, so that it becomes an ordinary error reply; later it is sent as an event with the error
object. While there is nothing to send a comment line goes out, which clients skip and proxies take for life. A client that leaves
cancels the work.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cleave.errors import CleaveError
from serve.failures import BUG, ApiError, error_object

DONE = "[DONE]"
HEARTBEAT = ": keep-alive\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Put = Callable[[Any], None]
"""Takes what one event holds, as plain JSON types; a pair (name, data) is an event with a name."""
Work = Callable[[Put], Awaitable[None]]


class EventStream(StreamingResponse):
    """The response. Its end, however it comes, ends the work."""

    def __init__(self, task: asyncio.Task[None], lines: AsyncIterator[str]) -> None:
        super().__init__(lines, headers=HEADERS, media_type="text/event-stream")
        self._task = task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await _end(self._task)


async def event_stream(work: Work, heartbeat_s: float) -> EventStream:
    """Start the work, wait for the first thing it puts, at most until the first heartbeat is due. Raises what it failed with until then."""
    events: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(_run(work, lambda data: events.put_nowait(_written(data))))
    try:
        first = await _next(events, task, heartbeat_s)
        if task.done() and first is None:
            await task
    except BaseException:
        await _end(task)
        raise
    return EventStream(task, _lines(first, events, task, heartbeat_s))


async def _run(work: Work, put: Put) -> None:
    await work(put)


async def _lines(line: str | None, events: asyncio.Queue[str], task: asyncio.Task[None], heartbeat_s: float) -> AsyncIterator[str]:
    """What was put, in order, with heartbeats between, and what the work failed with."""
    while line is not None or not task.done():
        yield line if line is not None else HEARTBEAT
        line = await _next(events, task, heartbeat_s)
    if not task.cancelled() and (error := task.exception()) is not None:
        yield _written(_failure(error))
        if not isinstance(error, ApiError | CleaveError):
            raise error  # a bug: the server's log gets its traceback


async def _next(events: asyncio.Queue[str], task: asyncio.Task[None], within_s: float) -> str | None:
    """The next line; None: none came in time, or the work is over and has no more."""
    if events.empty() and not task.done():
        getter = asyncio.ensure_future(events.get())
        try:
            await asyncio.wait((getter, task), timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if getter.done():
                return getter.result()
        finally:
            getter.cancel()
    return None if events.empty() else events.get_nowait()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _written(data: Any) -> str:
    name = ""
    if isinstance(data, tuple):
        kind, data = data
        name = f"event: {kind}\n"
    return f"{name}data: {data if isinstance(data, str) else json.dumps(data)}\n\n"


def _failure(error: BaseException) -> dict[str, Any]:
    if isinstance(error, ApiError):
        return error_object(error)
    if isinstance(error, CleaveError):
        return error_object(ApiError(error.http_status, str(error), error.code))
    return error_object(ApiError(500, BUG, "internal_error"))
