"""The Serve adapter of RoleHandle: one request to a deployment, one reply back, with Serve's errors turned into ours.

Serve does not repeat a call whose replica died; calls carry their seeds, so this adapter may, and does. A caller that is cancelled
cancels the call. Left out: choosing a replica (Serve's router) and grouping requests (actors/batcher.py, in the replica).
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Generic, TypeVar

import ray.exceptions
from ray.serve import exceptions as serve_exceptions
from ray.serve.handle import DeploymentHandle

from cleave.errors import CleaveError, Overloaded, RoleUnavailable
from cleave.roles import Role
from cleave.types import ModelInfo

Q = TypeVar("Q")
A = TypeVar("A")

LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    serve_exceptions.ReplicaUnavailableError,
)
"""The replica went away during the call."""
PAUSE_S = 0.2
"""Before the first repeat; doubles with each one."""
INFO_AGE_S = 5.0
"""How long the answer to `info` is kept."""


class ServeHandle(Generic[Q, A]):
    """A RoleHandle over a deployment of serve/deployments.py."""

    def __init__(self, role: Role, handle: DeploymentHandle[Any], retries: int = 3) -> None:
        """`retries`: repeats of a call whose replica died; -1 without limit."""
        self.role = role
        self._handle = handle
        self._retries = retries
        self._info: tuple[float, ModelInfo] | None = None

    async def __call__(self, request: Q) -> A:
        reply: A = await self._ask("__call__", request)
        return reply

    async def info(self) -> ModelInfo:
        """Which weights answer; asked again when the last answer is some seconds old, since a deployment may be upgraded."""
        if self._info is None or time.monotonic() - self._info[0] > INFO_AGE_S:
            self._info = (time.monotonic(), await self._ask("info"))
        return self._info[1]

    async def _ask(self, method: str, *arguments: Any) -> Any:
        attempt = 0
        while True:
            try:
                return await self._once(method, *arguments)
            except LOST as error:
                if 0 <= self._retries <= attempt:
                    raise RoleUnavailable(f"the {self.role} went away {attempt + 1} times during one call; try again later.") from error
            await asyncio.sleep(PAUSE_S * 2 ** min(attempt, 5))
            attempt += 1

    async def _once(self, method: str, *arguments: Any) -> Any:
        """One call. Raises CleaveError, and LOST where a repeat may help."""
        response = getattr(self._handle, method).remote(*arguments)
        try:
            reply = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except serve_exceptions.BackPressureError as error:
            raise Overloaded(f"the {self.role} has as many requests waiting as it accepts; try again a little later.") from error
        except serve_exceptions.DeploymentUnavailableError as error:
            raise RoleUnavailable(f"the {self.role} failed to start; its replica's log has the reason.") from error
        if isinstance(reply, CleaveError):
            raise reply
        return reply
