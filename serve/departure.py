"""Cancels a request whose client has left, whatever server runs the application.

Ray Serve's proxy does so by itself; a plain ASGI server only says that the client is gone, to whoever listens. So this listens, once the
body has been read, and cancels the request; a response that is a stream hears of it too.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Departure:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        listener = _Listener(receive)
        work = asyncio.ensure_future(self._app(scope, listener.receive, send))
        leaving = asyncio.ensure_future(listener.left())
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            gone = not work.done()
            if gone:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
        if not gone:
            await work


class _Listener:
    """Hands the body on, then listens for the end of the connection."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read = asyncio.Event()
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        """The next part of the body; after the last one the end of the connection, once it is there."""
        if self._read.is_set():
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._read.set()
        if message["type"] == "http.disconnect":
            self._gone.set()
        return message

    async def left(self) -> None:
        """Return when the client has left."""
        await self._read.wait()
        while not self._gone.is_set():
            if (await self._receive())["type"] == "http.disconnect":
                self._gone.set()
