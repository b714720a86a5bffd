"""One problem under way: the calls to its roles, each admitted, booked, timed and reported. Made by reasoning.py, one per problem.

Left out: what is asked (attempt.py), and in which order (strategies.py, stages.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from cleave.budget import Meter
from cleave.errors import BudgetExceeded, CleaveError
from cleave.events import Event, OnEvent
from cleave.roles import Role, RoleHandle, Roles
from cleave.types import Failure, ModelInfo, Problem, Usage

Q = TypeVar("Q")
A = TypeVar("A")


class RoleFailed(Exception):
    """A role's typed error as data, on its way to the trace. Never leaves the loop."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass
class Case:
    """`usage` and `models` by role, `timings` in wall seconds by phase: over everything that is tried."""

    problem: Problem
    roles: Roles
    meter: Meter
    on_event: OnEvent | None = None
    usage: dict[str, Usage] = field(default_factory=dict)
    models: dict[str, ModelInfo] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    def emit(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)

    async def identify(self) -> None:
        """Note which models answer. Raises RoleFailed."""
        with failing():
            self.models.update(await self.roles.models())

    def grant(self, samples: int) -> int:
        """How many of that many samples may be drawn, at least one. Raises RoleFailed if none may."""
        with failing("solver"):
            return self.meter.grant(samples)

    def check_samples(self) -> None:
        """Raise RoleFailed if no further sample may be drawn."""
        with failing("solver"):
            self.meter.check_samples()

    def check_budget(self, role: Role) -> None:
        """Raise RoleFailed if the calls so far have passed a limit."""
        with failing(role):
            self.meter.check()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one phase in wall seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start

    async def call(self, role: Role, handle: RoleHandle[Q, A], request: Q) -> A:
        """Ask a role. Raises RoleFailed."""
        try:
            with failing(role), self.meter.call(free=self._is_free(role)) as entry:
                try:
                    reply = await handle(request)
                    entry.usage = reply.usage  # type: ignore[attr-defined]
                finally:
                    self.usage[role] = self.usage.get(role, Usage()) + entry.usage
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            message = "the host cancelled the call; check that it is still running."  # nobody here asked for it
            raise RoleFailed(Failure("RoleUnavailable", message, role)) from cancelled
        return reply

    def _is_free(self, role: Role) -> bool:
        """Whether the role asks no model: it says so by having no parameters (the likelihood verifier)."""
        info = self.models.get(role)
        return info is not None and info.parameters == 0


@contextmanager
def failing(role: str = "") -> Iterator[None]:
    """A typed error of the body is raised as that role's RoleFailed."""
    try:
        yield
    except CleaveError as error:
        raise RoleFailed(failure_of(error, role)) from error


def failure_of(error: CleaveError, role: str = "") -> Failure:
    """An error as data."""
    return Failure(type(error).__name__, str(error), role)


def is_budget(failure: Failure) -> bool:
    """Whether a limit ran out, which ends everything; any other failure may concern one sample, plan or stage."""
    return failure.type == BudgetExceeded.__name__
