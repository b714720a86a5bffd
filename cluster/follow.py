"""Following a job: print its log as it grows, wait for the end, pass the driver's exit code on.

A broken connection to the dashboard is retried, and what was printed is not printed again. Ctrl-C detaches: the job goes on.
"""

import asyncio
import sys
import time
from typing import TYPE_CHECKING, TextIO

from cleave.console import say
from cluster.dashboard import ClusterUnavailable, reporting

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

RECONNECTS = 5
RECONNECT_S = 2.0
POLL_S = 0.5
INTERRUPTED = 130


def follow(client: "JobSubmissionClient", job: str, address: str, to: TextIO | None = None) -> int:
    """Copy the job's log to `to` (stdout) until it ends. Returns its exit code, or 130 after Ctrl-C, which leaves the job running.

    Raises ClusterUnavailable when the dashboard stays away.
    """
    try:
        _copy_log(client, job, address, to or sys.stdout)
        ended = wait(client, job, address)
    except KeyboardInterrupt:
        say(f"detached; the job goes on: `cleave jobs logs {job} --follow` returns to it, `cleave jobs stop {job}` ends it.")
        return INTERRUPTED
    return exit_code(ended)


def wait(client: "JobSubmissionClient", job: str, address: str) -> "JobDetails":
    """Poll until the job has ended and return what the cluster knows about it."""
    while True:
        with reporting(address):
            info = client.get_job_info(job)
        if info.status.is_terminal():
            return info
        time.sleep(POLL_S)


def exit_code(ended: "JobDetails") -> int:
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


def _copy_log(client: "JobSubmissionClient", job: str, address: str, to: TextIO) -> None:
    printed = failures = 0
    while True:
        try:
            return asyncio.run(_tail(client, job, to, printed_before := printed))
        except _Cut as cut:
            printed = cut.printed
            failures = 0 if printed > printed_before else failures + 1
        if failures > RECONNECTS:
            raise ClusterUnavailable(
                f"lost the connection to {address}; the job may go on: `cleave jobs logs {job} --follow` returns to it."
            )
        time.sleep(RECONNECT_S)


class _Cut(Exception):
    """The connection broke after `printed` characters of the log."""

    def __init__(self, printed: int) -> None:
        super().__init__(printed)
        self.printed = printed


async def _tail(client: "JobSubmissionClient", job: str, to: TextIO, skip: int) -> None:
    import aiohttp

    seen = 0
    try:
        async for text in client.tail_job_logs(job):
            fresh = text[max(0, skip - seen) :]
            seen += len(text)
            to.write(fresh)
            to.flush()
    except (aiohttp.ClientError, ConnectionError, RuntimeError) as error:
        raise _Cut(max(seen, skip)) from error
