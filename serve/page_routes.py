"""`GET /`: the page to ask questions on and to watch them being solved. One file, serve/page.html, without anything from elsewhere.

What it may do is written into its Content-Security-Policy: run its own script, known by its hash, and speak to this server. It needs no
key itself; the requests that it sends do.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

FILE = Path(__file__).with_name("page.html")


def page_routes() -> APIRouter:
    """The router."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page() -> Response:
        text = _text()
        headers = {
            "Content-Security-Policy": policy(text),
            "Cache-Control": "no-cache",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(text, headers=headers, media_type="text/html")

    return router


def at_the_prefix(otherwise: ASGIApp) -> ASGIApp:
    """For what has no route: the application's prefix without its slash leads to the page, by a path without a host; the rest goes on."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        bare = scope["type"] == "http" and scope["path"] == scope.get("root_path")
        reply = RedirectResponse(f"{scope['root_path']}/") if bare else otherwise
        await reply(scope, receive, send)

    return answer


def policy(text: str) -> str:
    """The Content-Security-Policy of a page: nothing but its own inline script and style, and requests to where it came from."""
    script, style = (" ".join(_hashes(text, tag)) for tag in ("script", "style"))
    rules = ("default-src 'none'", f"script-src {script}", f"style-src {style}", "connect-src 'self'", "img-src data:")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"))


def _hashes(text: str, tag: str) -> Iterator[str]:
    """How a policy names the inline elements of a kind."""
    for content in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL):
        yield f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def _text() -> str:
    return FILE.read_text(encoding="utf-8")
