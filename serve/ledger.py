"""What the ingress replicas share: the limiter of keys, the store of traces, and counts of problems by version.

Hosted by one small deployment of one replica (serve/deployments.py), only where one of them is wanted. It is not replicated: when it
restarts, traces and counts begin anew. While it cannot be reached, requests with keys are refused (503), never let through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from cleave.config.serve import ServeArgs
from serve.limiter import Limiter, Refusal
from serve.trace_store import TraceStore

PART = 50
"""Documents that are handed over at once."""
Counts = Mapping[tuple[str, str, bool], int]
"""Problems by role, version and whether they failed."""


class Ledger(Protocol):
    """A ledger, wherever it is. Raises RoleUnavailable where it cannot be reached."""

    async def acquire(self, key: str, lease: str) -> Refusal | None:
        """See Limiter."""
        ...

    async def afford(self, key: str) -> Refusal | None:
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

    async def recorded(self, after: int) -> list[tuple[int, str]]:
        """Some documents that were kept after that number, whoever's they are."""
        ...

    async def tally(self, counts: Counts) -> None:
        """Add counts of problems (serve/tally.py)."""
        ...

    async def tallies(self) -> Counts:
        """All counts so far."""
        ...


class LocalLedger:
    """A ledger in this process."""

    def __init__(self, args: ServeArgs) -> None:
        self._limiter = Limiter(args.keys, lease_s=args.limits.body_timeout_s + args.limits.request_timeout_s)
        self._traces = TraceStore(args.traces)
        self._counts = Counter[tuple[str, str, bool]]()

    async def acquire(self, key: str, lease: str) -> Refusal | None:
        return self._limiter.acquire(key, lease)

    async def afford(self, key: str) -> Refusal | None:
        return self._limiter.afford(key)

    async def release(self, key: str, lease: str, tokens: int) -> None:
        self._limiter.release(key, lease, tokens)

    async def keep(self, key: str, name: str, document: str) -> None:
        self._traces.keep(key, name, document)

    async def get(self, key: str, name: str) -> str | None:
        return self._traces.get(key, name)

    async def recorded(self, after: int) -> list[tuple[int, str]]:
        return self._traces.since(after, PART)

    async def tally(self, counts: Counts) -> None:
        self._counts.update(counts)

    async def tallies(self) -> Counts:
        return dict(self._counts)
