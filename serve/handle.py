"""The Serve adapters of RoleHandle, RoleModel and Ledger: one request to a deployment, one reply back, with Serve's errors as ours.

Serve does not repeat a call whose replica died; calls carry their seeds, so this adapter may, and does. A caller that is cancelled
cancels the call. Left out: choosing a replica (Serve's router) and grouping requests (actors/batcher.py, in the replica).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import ray.exceptions
from ray.serve import exceptions as serve_exceptions
from ray.serve.handle import DeploymentHandle

from cleave.errors import CleaveError, Overloaded, RoleUnavailable
from cleave.roles import Role
from cleave.types import ModelInfo
from serve.limiter import Refusal
from serve.model_calls import Continue, Continued, ModelCall, Piece, Said, Say

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

    async def ask(self, call: ModelCall) -> Any:
        """See RoleModel (serve/model_calls.py)."""
        return await self._ask("ask_model", call)

    async def stream(self, call: Say | Continue) -> AsyncIterator[Piece | Said | Continued]:
        """See RoleModel. When the replica dies, another one begins again; what was streamed already is not repeated."""
        attempt, sent = 0, _Sent()
        while True:
            try:
                async for item in self._stream_once(call):
                    if not isinstance(item, Piece):
                        yield item
                    elif piece := sent.fresh(item):
                        yield piece
                return
            except LOST as error:
                self._check(attempt, error)
            await _pause(attempt)
            attempt += 1
            sent.restart()

    async def _ask(self, method: str, *arguments: Any) -> Any:
        attempt = 0
        while True:
            try:
                return await self._once(method, *arguments)
            except LOST as error:
                self._check(attempt, error)
            await _pause(attempt)
            attempt += 1

    def _check(self, attempt: int, error: Exception) -> None:
        """Raise RoleUnavailable once a call was repeated often enough."""
        if 0 <= self._retries <= attempt:
            raise RoleUnavailable(f"the {self.role} went away {attempt + 1} times during one call; try again later.") from error

    async def _once(self, method: str, *arguments: Any) -> Any:
        """One call. Raises CleaveError, and LOST where a repeat may help."""
        response = getattr(self._handle, method).remote(*arguments)
        try:
            with self._typed():
                reply = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        if isinstance(reply, CleaveError):
            raise reply
        return reply

    async def _stream_once(self, call: Say | Continue) -> AsyncIterator[Any]:
        """One streaming call, cancelled when its reader leaves."""
        response: Any = self._handle.options(stream=True).stream_model.remote(call)
        whole = False
        try:
            with self._typed():
                async for item in response:
                    if isinstance(item, CleaveError):
                        raise item
                    yield item
            whole = True
        finally:
            if not whole:
                response.cancel()

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Serve's own refusals as ours."""
        try:
            yield
        except serve_exceptions.BackPressureError as error:
            raise Overloaded(f"the {self.role} has as many requests waiting as it accepts; try again a little later.") from error
        except serve_exceptions.DeploymentUnavailableError as error:
            raise RoleUnavailable(f"the {self.role} failed to start; its replica's log has the reason.") from error


class _Sent:
    """How much of each text was passed on. A repeated call sends the same text, cut into pieces in another way."""

    def __init__(self) -> None:
        self._lengths: dict[int, int] = {}
        self._seen: dict[int, int] = {}

    def restart(self) -> None:
        self._seen.clear()

    def fresh(self, piece: Piece) -> Piece | None:
        """What of the piece is new."""
        seen, sent = self._seen.get(piece.index, 0), self._lengths.get(piece.index, 0)
        self._seen[piece.index] = seen + len(piece.text)
        self._lengths[piece.index] = max(sent, seen + len(piece.text))
        new = piece.text[max(0, sent - seen) :]
        return Piece(piece.index, new) if new else None


async def _pause(attempt: int) -> None:
    await asyncio.sleep(PAUSE_S * 2 ** min(attempt, 5))


class LedgerHandle:
    """A Ledger over its deployment."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def acquire(self, key: str, lease: str) -> Refusal | None:
        refusal: Refusal | None = await self._ask("acquire", key, lease)
        return refusal

    async def release(self, key: str, lease: str, tokens: int) -> None:
        await self._ask("release", key, lease, tokens)

    async def keep(self, key: str, name: str, document: str) -> None:
        await self._ask("keep", key, name, document)

    async def get(self, key: str, name: str) -> str | None:
        document: str | None = await self._ask("get", key, name)
        return document

    async def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self._handle, method).remote(*arguments)
        except (ray.exceptions.RayError, serve_exceptions.RayServeException) as error:
            raise RoleUnavailable("the ledger of keys and traces cannot be reached; try again later.") from error
