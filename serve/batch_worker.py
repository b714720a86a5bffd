"""Works on batches where there is room: takes a request from the store, puts it to the application, gives the reply back.

One per ingress replica. A request of a batch is the same to the application as one that comes over HTTP, without the gate: its key is
known, what it costs is booked on it. It holds a place only while requests over HTTP leave one (serve/admission.py), and it is put back
where the roles are overloaded or away, or where its key has used its tokens of the day. Nothing is queued here: what waits lies in the
store. A worker that dies, dies with what it was at work on, which the store hands out again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

import httpx
from starlette.types import ASGIApp

from cleave.config.serve import ServeArgs
from cleave.errors import CleaveError, RoleUnavailable
from serve.admission import Admission
from serve.batch_tables import Work
from serve.batches import Batches
from serve.failures import RETRYABLE
from serve.lease import CURRENT, Lease
from serve.ledger import Ledger

POLL_S = 1.0
"""Between two looks for work where there was none."""
PAUSE_S = 5.0
"""For which a batch rests whose roles are busy or away."""
LEASE_MARGIN_S = 10.0
STORE_ATTEMPTS = 5
logger = logging.getLogger(__name__)


class BatchWorker:
    """Runs until it is cancelled."""

    def __init__(self, args: ServeArgs, batches: Batches, app: ASGIApp, admission: Admission, ledger: Ledger | None = None) -> None:
        """`app`: the application without its gate; `ledger`: where what a key spends is booked."""
        self._batches, self._admission, self._ledger = batches, admission, ledger
        self._places = args.batches.max_concurrent_requests
        self._lease_s = args.limits.request_timeout_s + LEASE_MARGIN_S
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://batch", timeout=None)

    async def run(self) -> None:
        """Work. Nothing that fails ends it."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._admission.borrow(self._places)
                work = await self._take()
                if work is None:
                    self._admission.give_back()
                    await asyncio.sleep(POLL_S)
                else:
                    group.create_task(self._do(work))

    async def _take(self) -> Work | None:
        try:
            return await self._batches.take(self._lease_s)
        except CleaveError as error:
            logger.warning("no batch can be worked on: %s", error)
            return None

    async def _do(self, work: Work) -> None:
        try:
            pause_s = await self._waits(work.key)
            if pause_s is None:
                await self._answer(work)
            else:
                await self._batches.put_back(work, pause_s)
        except CleaveError as error:
            logger.warning("request %d of %s is left for later: %s", work.number, work.batch, error)
        except asyncio.CancelledError:
            with suppress(CleaveError):
                await asyncio.shield(self._batches.put_back(work, 0.0))
            raise
        except Exception:  # a bug in one request is no reason to leave the others
            logger.exception("request %d of %s is left for later", work.number, work.batch)
        finally:
            self._admission.give_back()

    async def _waits(self, key: str) -> float | None:
        """For how long a key may spend no more; None: it may."""
        refusal = None if self._ledger is None else await self._ledger.afford(key)
        return None if refusal is None else float(refusal.retry_after_s)

    async def _answer(self, work: Work) -> None:
        """Ask, and store what came of it. Raises CleaveError where it cannot be stored."""
        response, tokens = await self._ask(work)
        if response["status_code"] in RETRYABLE:
            await self._batches.put_back(work, PAUSE_S)
        else:
            await self._finish(work, response)
        if self._ledger is not None:
            await self._ledger.release(work.key, "", tokens)

    async def _finish(self, work: Work, response: dict[str, Any]) -> None:
        """Store a reply, also where the store is just being replaced: asking again would cost more."""
        for attempt in range(STORE_ATTEMPTS):
            try:
                return await self._batches.finish(work, response)
            except RoleUnavailable:
                if attempt == STORE_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(POLL_S)

    async def _ask(self, work: Work) -> tuple[dict[str, Any], int]:
        """The reply as a batch's file has it, and the tokens that it took."""
        lease = Lease(work.key, borrows=True)
        before = CURRENT.set(lease)
        try:
            reply = await self._client.post(work.endpoint, content=work.body, headers={"Content-Type": "application/json"})
        finally:
            CURRENT.reset(before)
        body: Any = json.loads(reply.content)
        return {"status_code": reply.status_code, "request_id": f"{work.batch}-{work.number}", "body": body}, lease.tokens
