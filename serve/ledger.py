"""What the ingress replicas share: the limiter of keys and the store of traces.

Hosted by one small deployment of one replica (serve/deployments.py), only where keys or traces are wanted. It is not replicated: when it
restarts, traces and counts begin anew. While it cannot be reached, requests with keys are refused (503), never let through.
"""

from __future__ import annotations

from typing import Protocol

from cleave.config.serve import ServeArgs
from serve.limiter import Limiter, Refusal
from serve.trace_store import TraceStore


class Ledger(Protocol):
    """A ledger, wherever it is. Raises RoleUnavailable where it cannot be reached."""

    async def acquire(self, key: str, lease: str) -> Refusal | None:
        """See Limiter."""
        ...

    async def release(self, key: str, lease: str, tokens: int) -> None:
        """See Limiter."""
        ...

    async def keep(self, key: str, name: str, document: str) -> None:
        """See TraceStore."""
        ...

    async def get(self, key: str, name: str) -> str | None:
        """See TraceStore."""
        ...


class LocalLedger:
    """A ledger in this process."""

    def __init__(self, args: ServeArgs) -> None:
        self._limiter = Limiter(args.keys, lease_s=args.limits.body_timeout_s + args.limits.request_timeout_s)
        self._traces = TraceStore(args.traces)

    async def acquire(self, key: str, lease: str) -> Refusal | None:
        return self._limiter.acquire(key, lease)

    async def release(self, key: str, lease: str, tokens: int) -> None:
        self._limiter.release(key, lease, tokens)

    async def keep(self, key: str, name: str, document: str) -> None:
        self._traces.keep(key, name, document)

    async def get(self, key: str, name: str) -> str | None:
        return self._traces.get(key, name)
