"""Refuses request bodies over a limit as soon as that many bytes have come, and bodies that take too long to come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.gate import path_of


class BodyLimit:
    """ASGI middleware. The route that reads the body gets an HTTPException 413 or 408, which the error handlers answer."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float, larger: Mapping[str, int] | None = None) -> None:
        """`larger`: limits of single paths."""
        self._app = app
        self._larger = larger or {}
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = self._counted(receive, self._larger.get(path_of(scope), self._max_bytes))
        await self._app(scope, receive, send)

    def _counted(self, receive: Receive, max_bytes: int) -> Receive:
        seen, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self._timeout_s

        async def counted() -> Message:
            nonlocal seen, whole
            try:
                async with asyncio.timeout_at(None if whole else deadline):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"the body did not come within {self._timeout_s:g} seconds; send it faster.") from error
            whole = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > max_bytes:
                raise HTTPException(413, f"the body has more than {max_bytes} bytes; ask something shorter.")
            return message

        return counted
