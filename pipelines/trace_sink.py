"""Where finished traces go: to disk in small batches, so that a stop at any moment loses almost nothing.

A role whose model, endpoint or actor is down would fail every problem that is left. So failures of that kind are held back while they
come in a row: a reply of the same role releases them; after `max_consecutive_failures` of one type the run stops with that error, and
the held problems stay unanswered for the next session. Left out: what the traces mean (cleave/evaluation.py).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable

from cleave import errors
from cleave.config.workload import WorkloadConfig
from cleave.errors import CleaveError
from cleave.traces import ScoredTrace

OUTAGES = ("RoleUnavailable", "GenerationError", "ConfigError", "FingerprintError")


class TraceSink:
    """Takes each trace once and gives them to `write(name, rows)`, each time under another name that sorts by time.

    `kept` counts those that are on disk or about to be, `before` those of earlier sessions.
    """

    def __init__(self, config: WorkloadConfig, write: Callable[[str, list[ScoredTrace]], None], before: int = 0) -> None:
        self._config = config
        self._write = write
        self._session = f"{time.time_ns():020d}-{uuid.uuid4().hex[:6]}"
        self._shards = 0
        self._waiting: list[ScoredTrace] = []
        self._held: dict[str, list[ScoredTrace]] = {}  # by the role that is down
        self._flushed = time.monotonic()
        self.before = before
        self.kept = 0

    def add(self, row: ScoredTrace) -> None:
        """Take a trace. Raises the outage's own error once too many came in a row, StorageError if writing fails."""
        error = row.trace.error
        down = error.role if error is not None and _is_outage(row) else None
        for role in list(self._held):
            if role != down and _replied(row, role):
                self._release(role)
        if down is None:
            self._keep(row)
        else:
            self._hold(row, down)

    def flush(self) -> None:
        """Write what waits. Raises StorageError; then it still waits."""
        if self._waiting:
            self._write(f"{self._session}-{self._shards:06d}", self._waiting)
            self._shards += 1
            self._waiting = []
        self._flushed = time.monotonic()

    async def flush_regularly(self) -> None:
        """Flush every few seconds until cancelled, for problems that take long."""
        while True:
            await asyncio.sleep(self._config.flush_seconds)
            self.flush()

    def finish(self) -> None:
        """All problems were asked: failures that are still held are results like any other, unless nothing ever worked."""
        for role, held in self._held.items():
            if not self.kept and not self.before:
                raise self._stopped(held[0], role)
        for role in list(self._held):
            self._release(role)
        self.flush()

    def _hold(self, row: ScoredTrace, role: str) -> None:
        held = self._held.get(role)
        if held and _type(held[-1]) != _type(row):
            self._release(role)
        self._held.setdefault(role, []).append(row)
        if len(self._held[role]) >= self._config.max_consecutive_failures:
            raise self._stopped(row, role)

    def _release(self, role: str) -> None:
        for row in self._held.pop(role):
            self._keep(row)

    def _keep(self, row: ScoredTrace) -> None:
        self._waiting.append(row)
        self.kept += 1
        if len(self._waiting) >= self._config.flush_traces or time.monotonic() - self._flushed >= self._config.flush_seconds:
            self.flush()

    def _stopped(self, row: ScoredTrace, role: str) -> CleaveError:
        error = row.trace.error
        assert error is not None
        count = len(self._held[role])
        many = f"{count} problems in a row" if count > 1 else "the only problem"
        kind: type[CleaveError] = getattr(errors, error.type)
        return kind(
            f"{error.message.rstrip('.')} ({many} failed like this, so the run was stopped); put that right and run the same command "
            "again: finished problems are kept."
        )


def _is_outage(row: ScoredTrace) -> bool:
    error = row.trace.error
    return error is not None and row.trace.answer is None and error.type in OUTAGES


def _replied(row: ScoredTrace, role: str) -> bool:
    """Whether the role has replied to this problem; '' stands for failures that name no role, which any reply ends."""
    error = row.trace.error
    if not role:
        return error is None
    usage = row.trace.usage.get(role)
    return usage is not None and usage.calls > 0 and (error is None or error.role != role)


def _type(row: ScoredTrace) -> str:
    return row.trace.error.type if row.trace.error is not None else ""
