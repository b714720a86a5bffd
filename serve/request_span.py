"""The span of a request, a child of the one that the client names by `traceparent`. Outermost; serve/span_notes.py says how it ended.

Left out on purpose: path, query and headers, which hold whatever the client wrote, but for the request's id. FastAPI's own spans, made
where somebody installs a provider for the whole process, have them; ours do not depend on those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from opentelemetry.propagate import extract
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import SpanKind, Tracer
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.open_span import current_span

METHODS = frozenset("CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT QUERY TRACE".split())
OTHER = "_OTHER"
"""What OpenTelemetry's conventions call any other method."""
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
Headers = Iterable[tuple[bytes, bytes]]


class RequestSpan:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app, self._tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, context = scope["method"], extract(scope["headers"], getter=_HEADERS)
        span = self._tracer.start_span(name_of(method), context, SpanKind.SERVER, _attributes(scope))
        with current_span(span):
            await self._app(scope, receive, send)


def name_of(method: str, route: str | None = None) -> str:
    """The name of a request's span. `route`: its template."""
    method = method if method in METHODS else "HTTP"
    return method if route is None else f"{method} {route}"


def _attributes(scope: Scope) -> dict[str, Any]:
    method: str = scope["method"]
    attributes = {"http.request.method": method if method in METHODS else OTHER, "url.scheme": scope.get("scheme", "http")}
    name, *_ = _HEADERS.get(scope["headers"], "x-request-id") or [""]
    return attributes | ({"cleave.request_id": name} if _ID.match(name) else {})


class _HeaderGetter(Getter[Headers]):
    """Reads ASGI's headers."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        wanted = key.lower().encode("latin-1")
        return [value.decode("latin-1") for name, value in carrier if name == wanted] or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


_HEADERS = _HeaderGetter()
