"""The gate in front of all routes but health, documentation and the page: who asks, and whether they still may.

Outermost: a request without a good key costs a hash, whatever its size. What a key asks with POST, to cancel aside, counts against its
limits; the lease is given back, with what the request has cost, however the request ends. Without keys in the config there is no gate.
"""

from __future__ import annotations

import asyncio
import logging
import uuid

from starlette.types import ASGIApp, Receive, Scope, Send

from cleave.errors import CleaveError
from serve.failures import ApiError, error_response
from serve.keys import KeyRing
from serve.lease import CURRENT, Lease
from serve.ledger import Ledger

OPEN = frozenset({"/", "/health", "/ready", "/docs", "/redoc", "/openapi.json"})
"""Exact paths that need no key."""
logger = logging.getLogger(__name__)


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, ring: KeyRing, ledger: Ledger, retry_after_s: int) -> None:
        self._app, self._ring, self._ledger, self._retry_after_s = app, ring, ledger, retry_after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or path_of(scope) in OPEN:
            await self._app(scope, receive, send)
            return
        try:
            lease = Lease(self._ring.name_of(_authorization(scope)))
            name = await self._acquire(lease) if _spends(scope) else None
        except ApiError as error:
            await error_response(error, self._retry_after_s)(scope, receive, send)
            return
        before = CURRENT.set(lease)
        try:
            await self._app(scope, receive, send)
        finally:
            CURRENT.reset(before)
            if name is not None:
                # A request that is cancelled gives its lease back all the same.
                await asyncio.shield(self._release(lease, name))

    async def _acquire(self, lease: Lease) -> str:
        """Id of the lease. Raises ApiError 429 or 503."""
        name = uuid.uuid4().hex
        try:
            refusal = await self._ledger.acquire(lease.key, name)
        except CleaveError as error:
            raise ApiError(error.http_status, str(error), error.code) from error
        if refusal is not None:
            raise ApiError(429, refusal.message, refusal.code, retry_after_s=refusal.retry_after_s)
        return name

    async def _release(self, lease: Lease, name: str) -> None:
        try:
            await self._ledger.release(lease.key, name, lease.tokens)
        except CleaveError:
            logger.exception("the cost of a request of %s (%d tokens) could not be booked", lease.key, lease.tokens)


def _spends(scope: Scope) -> bool:
    """Whether a request counts: what asks for work does, what stops it or looks at it does not."""
    return bool(scope["method"] == "POST") and not path_of(scope).endswith("/cancel")


def _authorization(scope: Scope) -> str | None:
    """The Authorization header; two of them are none."""
    found = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    return found[0] if len(found) == 1 else None


def path_of(scope: Scope) -> str:
    """The path below the application's prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"
