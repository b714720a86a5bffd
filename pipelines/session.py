"""Putting a workload to the roles: a few workers take problems from one stream, every problem yields one trace, a stop loses nothing.

`cleave evaluate` and `cleave collect` bring an `Errand` (which items, what becomes of a trace) and share the rest: hosting the
roles in actors or in this process, progress, Ctrl-C and SIGTERM, outages. Left out: what is asked (workload.py), keeping (trace_sink.py).
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from cleave.config.workload import WorkloadConfig
from cleave.console import Progress, progress, say
from cleave.errors import CleaveError
from cleave.reasoning import judge, reason
from cleave.roles import Role, Roles
from cleave.traces import ScoredTrace
from cleave.types import ModelInfo, Trace
from pipelines.trace_sink import TraceSink
from pipelines.workload import Item

INTERRUPTED = 130
TERMINATED = 143


class Errand(Protocol):
    """What a program wants of a session."""

    name: str
    """What progress calls it."""
    hosted: Collection[Role]
    """The roles that are asked; the others are not hosted."""
    total: int | None
    """Traces in all, those of earlier sessions included; None while unknown."""

    def begin(self, models: Mapping[str, ModelInfo]) -> TraceSink:
        """The roles are up. Says where traces go. Raises ConfigError if other models answered before."""
        ...

    def items(self) -> Iterator[Item]:
        """What is left to ask; called once, after `begin`."""
        ...

    def take(self, row: ScoredTrace) -> str:
        """Note a trace that was kept; returns what progress says beside the count."""
        ...

    def pause(self, seconds: float) -> None:
        """The session was stopped before its end."""
        ...

    def finish(self, seconds: float) -> None:
        """Everything was asked and kept."""
        ...


def run(errand: Errand, config: WorkloadConfig, record: Path | None = None) -> int:
    """Ask everything. Returns 0, or the exit code of the signal that stopped it; `record` appends every call of a model to that file."""
    session = Session(errand, config)
    start = time.monotonic()
    try:
        _host_and_ask(session, record)
        session.close()
        errand.finish(time.monotonic() - start)
    except (KeyboardInterrupt, asyncio.CancelledError) as stop:
        session.keep(start)
        where = "before anything was asked" if session.kept is None else f"after {session.kept} of {errand.total or 'its'} traces"
        say(f"stopped {where}; run the same command again to go on from here.")
        return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
    except BaseException:
        session.keep(start)
        raise
    return 0


def _host_and_ask(session: Session, record: Path | None) -> None:
    """Host the roles as the config says and put the workload to them."""
    if session.config.backend == "inline" or record is not None:
        asyncio.run(_inline(session, record))
        return
    from actors.connection import connected
    from actors.pool import pool_roles

    say("starting the roles …")
    with connected(), pool_roles(session.config.roles, session.hosted, session.config.name) as roles:
        asyncio.run(session.ask(roles))


async def _inline(session: Session, record: Path | None) -> None:
    from actors.handle import inline_roles

    say("loading the roles …")
    async with inline_roles(session.config.roles, record, session.hosted) as roles:
        await session.ask(roles)


class Session:
    """One run of the process."""

    def __init__(self, errand: Errand, config: WorkloadConfig) -> None:
        self.config = config
        self.hosted = errand.hosted
        self._errand = errand
        self._sink: TraceSink | None = None

    @property
    def kept(self) -> int | None:
        """Traces that are kept, those of earlier sessions included; None before the roles are up."""
        return None if self._sink is None else self._sink.before + self._sink.kept

    async def ask(self, roles: Roles) -> None:
        """Ask everything that is not finished. Raises the first typed error that is not one problem's alone."""
        _stop_on_sigterm()
        self._sink = sink = self._errand.begin(await roles.models())
        total = self._errand.total
        left = None if total is None else max(0, total - sink.before)
        items = self._errand.items()
        with progress(self._errand.name, left) as shown:
            try:
                await self._work(items, roles, sink, shown, workers=min(self.config.max_in_flight, left or self.config.max_in_flight))
            except BaseExceptionGroup as errors:
                raise _first(errors) from None

    def close(self) -> None:
        """All problems were asked: write what waits."""
        if self._sink is not None:
            self._sink.finish()

    def keep(self, start: float) -> None:
        """Save what is finished; a failure to do so must not hide why the session stopped."""
        with suppress(CleaveError):
            if self._sink is not None:
                self._sink.flush()
            self._errand.pause(time.monotonic() - start)

    async def _work(self, items: Iterator[Item], roles: Roles, sink: TraceSink, shown: Progress, workers: int) -> None:
        async with asyncio.TaskGroup() as group:
            flushing = group.create_task(sink.flush_regularly())
            working = [group.create_task(self._worker(items, roles, sink, shown)) for _ in range(workers)]
            await asyncio.gather(*working)
            flushing.cancel()

    async def _worker(self, items: Iterator[Item], roles: Roles, sink: TraceSink, shown: Progress) -> None:
        for item in items:
            row = score(item, await _trace(item, roles))
            sink.add(row)
            shown.advance(note=self._errand.take(row))


async def _trace(item: Item, roles: Roles) -> Trace:
    if item.recorded is None:
        return await reason(item.problem, roles, item.strategy)
    return await judge(item.recorded, roles, item.strategy)


def score(item: Item, trace: Trace) -> ScoredTrace:
    """Judge a trace by its task's rules; without a gold answer there is nothing to judge."""
    if item.problem.answer is None:
        return ScoredTrace(item.variant, item.label, item.index, trace)
    correct = trace.answer is not None and item.task.score(item.problem, trace.answer)
    text = trace.solutions[trace.chosen].text if trace.chosen is not None else ""
    return ScoredTrace(item.variant, item.label, item.index, trace, correct, bool(text) and item.task.lenient(item.problem, text))


def _stop_on_sigterm() -> None:
    """`ray job stop` and schedulers send SIGTERM: end as on Ctrl-C."""
    task = asyncio.current_task()
    if threading.current_thread() is threading.main_thread() and task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report of several that met at the same time: a bug before a typed error."""
    found = list(_leaves(errors))
    bugs = [error for error in found if not isinstance(error, CleaveError)]
    return (bugs or found)[0]


def _leaves(errors: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
