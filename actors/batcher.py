"""The micro-batcher: single requests in, batches to the model, single replies out. Pure asyncio; it knows neither Ray nor models.

Invariants, each held by a test in tests/test_batcher.py:
  1. A batch holds requests of one key only (equal sampling options and mode), in order of arrival.
  2. A batch holds at most `max_batch_size` sequences; a request that is larger on its own runs alone.
  3. A request that finds the model idle waits at most `batch_wait_timeout_s`, and not at all once its batch is full. While the
     model is busy requests accumulate.
  4. The request that has waited longest is in the next batch, whatever its key.
  5. A failing batch fails only its own requests. When the failure is a CleaveError its requests are repeated one by one, so one bad
     request does not take its siblings with it.
  6. A request cancelled while it waits never reaches the model. A running batch is cancelled once nobody waits for it any more.
  7. Every submitted request gets exactly one reply, one error, or its own cancellation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cleave.errors import CleaveError

Req = TypeVar("Req")
Rep = TypeVar("Rep")
OnBatch = Callable[[int, int], None]
"""Gets (requests, sequences) when a batch reaches the model."""


@dataclass(frozen=True)
class BatcherStats:
    """Counters since the start. `requests` and `sequences` count what reached the model, repeats included; `waiting` is the queue now."""

    batches: int = 0
    requests: int = 0
    sequences: int = 0
    failed_batches: int = 0
    waiting: int = 0
    running: int = 0

    @property
    def mean_batch_size(self) -> float:
        """Sequences per batch."""
        return self.sequences / self.batches if self.batches else 0.0


@dataclass(eq=False)
class _Ticket(Generic[Req, Rep]):
    request: Req
    key: Hashable
    size: int
    arrived: float
    reply: asyncio.Future[Rep]
    on_batch: OnBatch | None = None


class MicroBatcher(Generic[Req, Rep]):
    """Groups waiting requests and runs one batch after the other.

    Args:
        run: takes the requests of a batch, returns their replies in order.
        key: requests of equal keys may share a batch.
        size: sequences that a request makes the model decode (samples, or solutions to score).
        max_batch_size: most sequences per batch.
        batch_wait_timeout_s: seconds that a request waits for company while the model is idle.
        concurrency: batches that may run at the same time; 1 for a local model, more for a remote endpoint.
        on_batch: called with (requests, sequences) when a batch reaches the model.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Req]], Awaitable[Sequence[Rep]]],
        *,
        key: Callable[[Req], Hashable],
        size: Callable[[Req], int],
        max_batch_size: int = 64,
        batch_wait_timeout_s: float = 0.005,
        concurrency: int = 1,
        on_batch: OnBatch | None = None,
    ) -> None:
        self._run = run
        self._key = key
        self._size = size
        self._max_batch_size = max_batch_size
        self._wait = batch_wait_timeout_s
        self._concurrency = concurrency
        self._on_batch = on_batch
        self._waiting: dict[int, _Ticket[Req, Rep]] = {}  # by id of the ticket, in order of arrival
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._batches = self._requests = self._sequences = self._failed = 0

    @property
    def stats(self) -> BatcherStats:
        """Counters up to now."""
        return BatcherStats(self._batches, self._requests, self._sequences, self._failed, len(self._waiting), len(self._running))

    async def submit(self, request: Req, on_batch: OnBatch | None = None) -> Rep:
        """Wait for the reply to one request. `on_batch` is called for the batch that it is in, and again where it is repeated alone. Raises
        what the model raised for it."""
        loop = asyncio.get_running_loop()
        size, reply = max(1, self._size(request)), loop.create_future()
        ticket = _Ticket[Req, Rep](request, self._key(request), size, time.monotonic(), reply, on_batch)
        self._waiting[id(ticket)] = ticket
        self._pump()
        try:
            return await ticket.reply
        finally:
            if self._waiting.pop(id(ticket), None) is not None:  # cancelled before it ran
                self._pump()

    async def aclose(self) -> None:
        """Cancel what waits and what runs. Idempotent."""
        self._disarm()
        for ticket in list(self._waiting.values()):
            ticket.reply.cancel()
        self._waiting.clear()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _pump(self) -> None:
        """Start every batch that is due; set the timer for the one that may still grow."""
        self._disarm()
        while self._waiting and len(self._running) < self._concurrency:
            batch, full = self._next_batch()
            spare = batch[0].arrived + self._wait - time.monotonic()
            if not full and spare > 0:
                self._timer = asyncio.get_running_loop().call_later(spare, self._pump)
                return
            self._start(batch)

    def _next_batch(self) -> tuple[list[_Ticket[Req, Rep]], bool]:
        """The longest-waiting request with those behind it that fit, and whether another one would not fit."""
        head = next(iter(self._waiting.values()))
        batch: list[_Ticket[Req, Rep]] = []
        total = 0
        for ticket in self._waiting.values():
            if ticket.key != head.key:
                continue
            if batch and total + ticket.size > self._max_batch_size:
                return batch, True
            batch.append(ticket)
            total += ticket.size
        return batch, total >= self._max_batch_size

    def _start(self, batch: list[_Ticket[Req, Rep]]) -> None:
        for ticket in batch:
            del self._waiting[id(ticket)]
        task = asyncio.get_running_loop().create_task(self._serve(batch))
        self._running.add(task)
        task.add_done_callback(self._finished)
        abandon = _Abandon(task, len(batch))
        for ticket in batch:
            ticket.reply.add_done_callback(abandon)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._pump()

    async def _serve(self, batch: list[_Ticket[Req, Rep]]) -> None:
        try:
            await self._attempt(batch)
        except CleaveError as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            for ticket in batch:
                await self._attempt_alone(ticket)
        except Exception as error:
            _fail(batch, error)
        finally:
            for ticket in batch:  # only on cancellation of the batch itself
                ticket.reply.cancel()

    async def _attempt_alone(self, ticket: _Ticket[Req, Rep]) -> None:
        if ticket.reply.done():
            return
        try:
            await self._attempt([ticket])
        except Exception as error:
            _fail([ticket], error)

    async def _attempt(self, batch: list[_Ticket[Req, Rep]]) -> None:
        sequences = sum(ticket.size for ticket in batch)
        self._batches += 1
        self._requests += len(batch)
        self._sequences += sequences
        if self._on_batch is not None:
            self._on_batch(len(batch), sequences)
        for ticket in batch:
            if ticket.on_batch is not None:
                ticket.on_batch(len(batch), sequences)
        try:
            replies = await self._run([ticket.request for ticket in batch])
            if len(replies) != len(batch):
                raise RuntimeError(f"the role returned {len(replies)} replies to {len(batch)} requests")
        except Exception:
            self._failed += 1
            raise
        for ticket, reply in zip(batch, replies, strict=True):
            if not ticket.reply.done():
                ticket.reply.set_result(reply)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Abandon:
    """Cancels a batch when the last of its requests was cancelled."""

    def __init__(self, task: asyncio.Task[None], waiting: int) -> None:
        self._task = task
        self._waiting = waiting

    def __call__(self, reply: asyncio.Future[Rep]) -> None:
        if reply.cancelled():
            self._waiting -= 1
            if self._waiting == 0:
                self._task.cancel()


def _fail(batch: Sequence[_Ticket[Req, Rep]], error: Exception) -> None:
    for ticket in batch:
        if not ticket.reply.done():
            ticket.reply.set_exception(error)
