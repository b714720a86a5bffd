"""`cleave evaluate CONFIG`: problems stream through the roles, traces stream into the run folder, figures and a report come out.

    python -m cleave evaluate configs/evaluate/demo.yaml tasks.0.problems=50

Every submitted problem yields one trace, failed or not. A run that was stopped, by Ctrl-C, a kill or an outage, goes on when the same
command runs again; what is finished is not asked again. Memory does not grow with the number of problems.
Left out: the figures (cleave/evaluation.py), the report (cleave/report.py), the folder's rules (evaluation_folder.py).
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cleave.config.evaluate import EvaluateConfig
from cleave.console import Progress, progress, say
from cleave.errors import CleaveError
from cleave.evaluation import Evaluation
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.traces import ScoredTrace
from cleave.types import Trace
from pipelines.evaluation_folder import EvaluationFolder
from pipelines.evaluation_summary import print_plan, publish
from pipelines.trace_sink import TraceSink
from pipelines.workload import Finished, Item, Workload

INTERRUPTED = 130
TERMINATED = 143


def main(config: EvaluateConfig, *, dry_run: bool = False, as_json: bool = False, record: Path | None = None) -> int:
    """Run, or go on with, an evaluation; returns the exit code. Raises CleaveError for what the user has to put right.

    `record` appends every call of a model to that file; the roles are then hosted in this process.
    """
    workload = Workload(config)
    if dry_run:
        print_plan(config, workload, as_json=as_json)
        return 0
    run = EvaluationFolder.claim(config)
    if run.complete:
        run.check_models()
        say(f"{run.folder.location} is complete, nothing is asked again; set overwrite=true to start anew.")
    else:
        code = ask_all(config, workload, run, record)
        if code:
            return code
    publish(config, run, as_json=as_json)
    return 0


def ask_all(config: EvaluateConfig, workload: Workload, run: EvaluationFolder, record: Path | None) -> int:
    """Ask what is not finished yet. Returns 0 once everything is, else the exit code of the signal that stopped it."""
    finished = Finished.read(run.folder)
    if len(finished):
        say(f"going on with {run.folder.location}: {len(finished)} of {workload.total or 'its'} traces are there already.")
    sink = TraceSink(run.folder, config, len(finished))
    session = Session(config, workload, finished, run, sink)
    start = time.monotonic()
    try:
        host_and_ask(session, record)
        sink.finish()
        run.finish(time.monotonic() - start, workload.hashes())
    except (KeyboardInterrupt, asyncio.CancelledError) as stop:
        _keep(run, sink, start)
        say(f"stopped after {sink.before + sink.kept} of {workload.total or 'its'} traces; run the same command again to go on from here.")
        return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
    except BaseException:
        _keep(run, sink, start)
        raise
    return 0


def _keep(run: EvaluationFolder, sink: TraceSink, start: float) -> None:
    """Save what is finished; a failure to do so must not hide why the run stopped."""
    with suppress(CleaveError):
        sink.flush()
        run.pause(time.monotonic() - start)


def host_and_ask(session: Session, record: Path | None) -> None:
    """Host the roles as the config says and put the workload to them."""
    if session.config.backend == "inline" or record is not None:
        asyncio.run(_inline(session, record))
        return
    from actors.connection import connected
    from actors.pool import pool_roles

    say("starting the roles …")
    with connected(), pool_roles(session.config.roles) as roles:
        asyncio.run(session.ask(roles))


async def _inline(session: Session, record: Path | None) -> None:
    from actors.handle import inline_roles

    say("loading the roles …")
    async with inline_roles(session.config.roles, record) as roles:
        await session.ask(roles)


class Session:
    """One run of the process: a few workers take items from one stream until it ends."""

    def __init__(self, config: EvaluateConfig, workload: Workload, finished: Finished, run: EvaluationFolder, sink: TraceSink) -> None:
        self.config = config
        self._workload = workload
        self._finished = finished
        self._run = run
        self._sink = sink
        self._live = Evaluation(list(workload.strategies))

    async def ask(self, roles: Roles) -> None:
        """Ask everything that is not finished. Raises the first typed error that is not one problem's alone."""
        _stop_on_sigterm()
        self._run.begin(await roles.models())
        total = self._workload.total
        left = None if total is None else max(0, total - len(self._finished))
        items = self._workload.items(self._finished)
        with progress("evaluate", left) as shown:
            try:
                await self._work(items, roles, shown, workers=min(self.config.max_in_flight, left or self.config.max_in_flight))
            except BaseExceptionGroup as errors:
                raise _first(errors) from None

    async def _work(self, items: Iterator[Item], roles: Roles, shown: Progress, workers: int) -> None:
        async with asyncio.TaskGroup() as group:
            flushing = group.create_task(self._sink.flush_regularly())
            working = [group.create_task(self._worker(items, roles, shown)) for _ in range(workers)]
            await asyncio.gather(*working)
            flushing.cancel()

    async def _worker(self, items: Iterator[Item], roles: Roles, shown: Progress) -> None:
        for item in items:
            trace = await reason(item.problem, roles, item.strategy)
            row = score(item, trace)
            self._sink.add(row)
            self._live.add(row)
            shown.advance(note=self._note())

    def _note(self) -> str:
        tallies = ((variant, self._live.tally(variant)) for variant in self._live.variants)
        return "  ".join(f"{variant} {100 * tally.right / tally.n:.0f} %" for variant, tally in tallies if tally.n)


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
