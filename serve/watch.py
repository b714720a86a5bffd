"""Times every request and tells the observer how it ended. Outermost, so that refused requests count too."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.observer import Observer

CLIENT_LEFT = 499
"""What nginx logs where the client left before a reply."""
BUG = 500
UNROUTED = "none"
"""The route of what was refused before its route was looked for, or has none."""


class Watch:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, observer: Observer) -> None:
        self._app, self._observer = app, observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), CLIENT_LEFT

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            # A bug: the server around all middleware answers it.
            status = BUG if status == CLIENT_LEFT else status
            raise
        finally:
            route = getattr(scope.get("route"), "path", UNROUTED)
            self._observer.request(scope["method"], route, status, time.perf_counter() - start)
