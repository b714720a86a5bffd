"""How many problems each version of a role has had to do with, and how many of them failed by a server's error.

An ingress replica counts (`Tally`, an observer) and hands its counts on to the ledger every second; `cleave serve promote` reads them there
while it watches a version that was just put in use. On with `upgrades.watch_s`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from cleave.errors import CleaveError
from cleave.roles import ROLES
from cleave.types import ModelInfo, Trace
from serve.failures import status_of
from serve.ledger import Counts, Ledger
from serve.observer import Observer

FLUSH_S = 1.0
UNKNOWN = ""
"""The version of a role that could not be asked which it is."""
logger = logging.getLogger(__name__)


def label(info: ModelInfo) -> str:
    """A version's name in the counts."""
    return f"{info.name}@{info.revision}"


def share_failed(counts: Counts, role: str, version: str) -> tuple[int, float]:
    """Problems of a version of a role, those of an unknown one included, and the share that failed; (0, 0) of none."""
    done = {failed: sum(counts.get((role, each, failed), 0) for each in (version, UNKNOWN)) for failed in (False, True)}
    total = sum(done.values())
    return total, done[True] / total if total else 0.0


class Tally(Observer):
    """The counts of one replica. One event loop."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._counts = ledger, Counter[tuple[str, str, bool]]()

    def answered(self, trace: Trace, rejected_plans: int) -> None:
        failed = trace.answer is None and trace.error is not None and status_of(trace.error) >= 500
        for role in ROLES:
            info = trace.models.get(role)
            self._counts[role, UNKNOWN if info is None else label(info), failed] += 1

    async def run(self) -> None:
        """Hand the counts on, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            if self._counts:
                await self._flush()

    async def _flush(self) -> None:
        counts, self._counts = self._counts, Counter()
        try:
            await self._ledger.tally(dict(counts))
        except CleaveError as error:
            logger.warning("counts of problems wait for the ledger: %s", error)
            self._counts.update(counts)
