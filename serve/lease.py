"""Who asks, and what the request has cost so far: the lease that a request holds while it is worked on.

Set by serve/gate.py around a request and by serve/batch_worker.py around one of a batch, read by serve/service.py, which books every reply
of a role as it arrives, so that work that was cancelled is paid for as well. Without keys there is no lease and nothing is booked.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from cleave.roles import RoleHandle, Roles
from cleave.types import ModelInfo, Usage

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass
class Lease:
    """`key` is a key's name, never the key itself. `tokens`: prompt plus generated ones over all roles. `borrows`: the request is of a
    batch and has a place already."""

    key: str
    tokens: int = 0
    borrows: bool = False


CURRENT: ContextVar[Lease | None] = ContextVar("lease", default=None)


def holder() -> str:
    """Name of the key that asks; empty without keys."""
    lease = CURRENT.get()
    return lease.key if lease is not None else ""


def borrows() -> bool:
    """Whether the request under way is of a batch."""
    lease = CURRENT.get()
    return lease is not None and lease.borrows


def book(usage: Usage) -> None:
    """Add the cost of one call to the request under way."""
    lease = CURRENT.get()
    if lease is not None:
        lease.tokens += usage.tokens


class Booked(Generic[Q, A]):
    """A role whose calls are booked."""

    def __init__(self, handle: RoleHandle[Q, A]) -> None:
        self._handle = handle

    async def __call__(self, request: Q) -> A:
        reply = await self._handle(request)
        book(reply.usage)  # type: ignore[attr-defined]
        return reply

    async def info(self) -> ModelInfo:
        return await self._handle.info()


def booked(roles: Roles) -> Roles:
    """The cast with every call booked."""
    verifier = None if roles.verifier is None else Booked(roles.verifier)
    return replace(roles, decomposer=Booked(roles.decomposer), solver=Booked(roles.solver), verifier=verifier)
