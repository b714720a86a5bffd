"""Following a job: print its log as it grows, say how it fares when it is silent, wait for the end, pass the driver's exit code on.

A broken connection to the dashboard is tried again for two minutes, and what was printed is not printed again. Ctrl-C detaches: the
job goes on.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO, TypeVar

from cleave.console import say
from cluster.dashboard import ClusterUnavailable, reporting, wants_token

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

RECONNECT_WITHIN_S = 120.0
RECONNECT_S = 2.0
POLL_S = 0.5
BEAT_S = 5.0
SILENT_S = 30.0
"""Seconds without output after which a line says how the job fares, where stderr is no terminal."""
INTERRUPTED = 130

T = TypeVar("T")


def follow(client: JobSubmissionClient, job: str, address: str, to: TextIO | None = None) -> int:
    """Copy the job's log to `to` (stdout) until it ends. Returns its exit code, or 130 after Ctrl-C, which leaves the job running.

    Raises ClusterUnavailable when the dashboard stays away.
    """
    shown = StatusLine(job, to or sys.stdout)
    try:
        _copy_log(client, job, address, shown)
        ended = wait(client, job, address)
    except KeyboardInterrupt:
        shown.clear()
        say(f"detached; the job goes on: `cleave jobs logs {job} --follow` returns to it, `cleave jobs stop {job}` ends it.")
        return INTERRUPTED
    finally:
        shown.clear()
    return exit_code(ended)


def wait(client: JobSubmissionClient, job: str, address: str) -> JobDetails:
    """Poll until the job has ended and return what the cluster knows about it. Raises ClusterUnavailable."""
    lost = Lost(job, address)
    while True:
        try:
            info = _asked(address, lambda: client.get_job_info(job))
        except ClusterUnavailable:
            lost.again()
            continue
        lost.found()
        if info.status.is_terminal():
            return info
        time.sleep(POLL_S)


def exit_code(ended: JobDetails) -> int:
    """The driver's own exit code; 130 for a job that was stopped, 1 for one that never ran. Says on stderr why it is not 0."""
    if ended.status.value == "SUCCEEDED":
        return 0
    if ended.status.value == "STOPPED":
        say(f"job {ended.submission_id} was stopped.")
        return INTERRUPTED
    code = ended.driver_exit_code
    if code is None:
        say(f"error: job {ended.submission_id} did not start: {' '.join((ended.message or 'no reason given').split())[:500]}")
        return 1
    if code == 127:
        say("error: the head finds no such command; start Ray with the environment's bin folder on PATH, or pass --python.")
    # A driver ended by a signal has a negative code here and 128 + signal in a shell.
    return 128 - code if code < 0 else code or 1


class Lost:
    """A connection that is tried again until patience ends."""

    def __init__(self, job: str, address: str) -> None:
        self._job, self._address = job, address
        self._since: float | None = None

    def found(self) -> None:
        """It is there (again)."""
        if self._since is not None:
            say(f"connected to {self._address} again.")
        self._since = None

    def again(self) -> None:
        """It broke: wait a moment. Raises ClusterUnavailable after RECONNECT_WITHIN_S."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            say(f"lost the connection to {self._address}; trying again for {RECONNECT_WITHIN_S:.0f} s. The job goes on.")
        if now - self._since > RECONNECT_WITHIN_S:
            raise ClusterUnavailable(
                f"lost the connection to {self._address}; the job may go on: `cleave jobs logs {self._job} --follow` returns to it."
            )
        time.sleep(RECONNECT_S)


class StatusLine:
    """The log on `to`, and below it, on stderr, how the job fares: a live line on a terminal, else a line when it changes or is silent."""

    def __init__(self, job: str, to: TextIO) -> None:
        self._job, self._to = job, to
        self._live = sys.stderr.isatty()
        self._begun = self._spoken = time.monotonic()
        self._state = ""

    def log(self, text: str) -> None:
        """Print a part of the log."""
        self.clear()
        self._to.write(text)
        self._to.flush()
        self._spoken = time.monotonic()

    def beat(self, status: str, message: str) -> None:
        """Say how the job fares."""
        now = time.monotonic()
        waiting = status == "PENDING"
        why = f": {' '.join(message.split())[:160]}" if waiting and message else ""
        line = f"job {self._job} {status.lower()}, {now - self._begun:.0f} s{why}"
        if self._live:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        elif (status != self._state and waiting) or now - self._spoken >= SILENT_S:
            self._spoken = now
            say(line)
        self._state = status

    def clear(self) -> None:
        """Take the live line away."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _copy_log(client: JobSubmissionClient, job: str, address: str, shown: StatusLine) -> None:
    lost, printed = Lost(job, address), 0
    while True:
        try:
            asyncio.run(_tail(client, job, address, shown, printed, lost))
            return
        except _Cut as cut:
            printed = cut.printed
        lost.again()


class _Cut(Exception):
    """The connection broke after `printed` characters of the log."""

    def __init__(self, printed: int) -> None:
        super().__init__(printed)
        self.printed = printed


async def _tail(client: JobSubmissionClient, job: str, address: str, shown: StatusLine, skip: int, lost: Lost) -> None:
    import aiohttp

    seen = 0
    try:
        async with asyncio.timeout(None) as patience:
            beating = asyncio.create_task(_beat(client, job, shown, patience))
            try:
                async for text in client.tail_job_logs(job):
                    lost.found()
                    fresh = text[max(0, skip - seen) :]
                    seen += len(text)
                    if fresh:
                        shown.log(fresh)
            finally:
                beating.cancel()
    except (aiohttp.ClientError, ConnectionError, RuntimeError, TimeoutError) as error:
        if isinstance(error, aiohttp.WSServerHandshakeError) and error.status in (401, 403):
            raise wants_token(address) from error
        raise _Cut(max(seen, skip)) from error


async def _beat(client: JobSubmissionClient, job: str, shown: StatusLine, patience: asyncio.Timeout) -> None:
    """Say how the job fares; end `patience` with a head that does not answer any more: its log would stay silent for ever."""
    import requests
    from ray.exceptions import AuthenticationError

    while True:
        await asyncio.sleep(BEAT_S)
        try:
            info = await asyncio.to_thread(client.get_job_info, job)
            shown.beat(info.status.value, info.message or "")
        except requests.exceptions.Timeout:
            patience.reschedule(asyncio.get_running_loop().time())
            return
        except (AuthenticationError, RuntimeError, ConnectionError, requests.exceptions.RequestException):
            continue  # the log's own connection tells


def _asked(address: str, question: Callable[[], T]) -> T:
    with reporting(address):
        return question()
