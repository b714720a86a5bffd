"""The Serve adapters of RoleHandle, RoleModel, Ledger and Batches: a request to a deployment, a reply back, with Serve's errors as ours.

Serve does not repeat a call whose replica died; calls carry their seeds, so this adapter may, and does. A call of a request that is
pinned to a version of the role is routed until a replica of that version takes it. A caller that is cancelled cancels the call. Left
out: choosing a replica (Serve's router) and grouping requests (actors/batcher.py, in the replica).
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

from cleave.config.serve_batches import BatchesConfig
from cleave.errors import CleaveError, Overloaded, RoleUnavailable
from cleave.roles import Role
from cleave.types import ModelInfo
from serve.batches import Batches
from serve.ledger import Counts
from serve.limiter import Refusal
from serve.model_calls import Continue, Continued, ModelCall, Piece, Said, Say
from serve.pins import CURRENT, Answer, Pins, Version
from serve.tracing import carried

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
ROUTINGS = 8
"""Replicas that a call is offered to before the version that it wants is taken for gone."""
ROUTE_PAUSE_S = 0.05
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
        pins = CURRENT.get()
        reply: A = await (self._ask("__call__", request, *carried()) if pins is None else self._ask_pinned(pins, request))
        return reply

    async def info(self) -> ModelInfo:
        """Which weights answer; asked again when the last answer is some seconds old, since a deployment may be upgraded."""
        if self._info is None or time.monotonic() - self._info[0] > INFO_AGE_S:
            self._info = (time.monotonic(), await self._ask("info"))
        return self._info[1]

    async def ask(self, call: ModelCall) -> Any:
        """See RoleModel (serve/model_calls.py)."""
        return await self._ask("ask_model", call, *carried())

    async def stream(self, call: Say | Continue) -> AsyncIterator[Piece | Said | Continued]:
        """See RoleModel. When the replica dies, another one begins again; what was streamed already is not repeated."""
        attempt, declined, sent, pins = 0, 0, _Sent(), CURRENT.get() or Pins()
        while True:
            try:
                async for item in self._stream_once(call, pins):
                    if not isinstance(item, Piece):
                        yield item
                    elif piece := sent.fresh(item):
                        yield piece
                return
            except _Declined:
                declined += 1
                await self._route_anew(pins, declined)
            except LOST as error:
                self._check(attempt, error)
                await _pause(attempt)
                attempt += 1
            sent.restart()

    async def _ask_pinned(self, pins: Pins, request: Q) -> Any:
        """A reply of the version that the request is pinned to. Raises RoleUnavailable, with the pins mixed, where it is gone."""
        declined = 0
        while True:
            answer: Answer = await self._ask("answer", request, pins.versions.get(self.role), *carried())
            self._info = (time.monotonic(), answer.version.model)
            if pins.fits(self.role, answer.version) and not answer.declined:
                if isinstance(answer.reply, CleaveError):
                    raise answer.reply
                return answer.reply
            declined += 1
            await self._route_anew(pins, declined)

    async def _route_anew(self, pins: Pins, declined: int) -> None:
        """Give the router another go. Raises RoleUnavailable, with the pins mixed, after enough of them."""
        if pins.mixed or declined >= ROUTINGS:
            pins.mixed = True
            raise RoleUnavailable(f"the {self.role} was replaced during the request; send it again.")
        await asyncio.sleep(ROUTE_PAUSE_S)

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

    async def _stream_once(self, call: Say | Continue, pins: Pins) -> AsyncIterator[Any]:
        """One streaming call, cancelled when its reader leaves. Raises _Declined where another version replies."""
        response: Any = self._handle.options(stream=True).stream_model.remote(call, pins.versions.get(self.role), *carried())
        whole = False
        try:
            with self._typed():
                async for item in response:
                    if isinstance(item, CleaveError):
                        raise item
                    if not isinstance(item, Version):
                        yield item
                    elif not pins.fits(self.role, item):
                        raise _Declined
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


class _Declined(Exception):
    """A replica of another version than the one that the request is pinned to."""


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

    async def afford(self, key: str) -> Refusal | None:
        refusal: Refusal | None = await self._ask("afford", key)
        return refusal

    async def release(self, key: str, lease: str, tokens: int) -> None:
        await self._ask("release", key, lease, tokens)

    async def keep(self, key: str, name: str, document: str) -> None:
        await self._ask("keep", key, name, document)

    async def get(self, key: str, name: str) -> str | None:
        document: str | None = await self._ask("get", key, name)
        return document

    async def recorded(self, after: int) -> list[tuple[int, str]]:
        documents: list[tuple[int, str]] = await self._ask("recorded", after)
        return documents

    async def tally(self, counts: Counts) -> None:
        await self._ask("tally", counts)

    async def tallies(self) -> Counts:
        counts: Counts = await self._ask("tallies")
        return counts

    async def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self._handle, method).remote(*arguments)
        except (ray.exceptions.RayError, serve_exceptions.RayServeException) as error:
            raise RoleUnavailable("the ledger of keys and traces cannot be reached; try again later.") from error


class BatchesHandle(Batches):
    """A store of batches over its deployment."""

    def __init__(self, handle: DeploymentHandle[Any], config: BatchesConfig) -> None:
        super().__init__(config)
        self._handle = handle

    async def ask(self, method: str, *arguments: Any) -> Any:
        try:
            reply = await self._handle.ask.remote(method, *arguments)
        except (ray.exceptions.RayError, serve_exceptions.RayServeException) as error:
            raise RoleUnavailable("the store of batches cannot be reached; try again later.") from error
        if isinstance(reply, CleaveError):
            raise reply
        return reply
