"""`cleave jobs list | logs | stop | artifacts`: the jobs of a running cluster, and what they left."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleave.console import print_table, say
from cleave.errors import ConfigError, StorageError
from cluster.dashboard import CHECK, connect, details, reporting
from cluster.follow import follow
from cluster.submit import RESULTS

if TYPE_CHECKING:
    from cleave.runs import RunFolder


def list_jobs(address: str, *, as_json: bool = False) -> int:
    """Print the submitted jobs, newest first. Drivers that were not submitted as jobs are left out, and checks that have ended."""
    client = connect(address)
    with reporting(address):
        jobs = [details(job) for job in client.list_jobs() if job.submission_id]
    jobs = [job for job in jobs if job["end_time"] is None or job["metadata"].get("cleave_program") != CHECK]
    jobs.sort(key=lambda job: job["start_time"] or 0, reverse=True)
    if as_json:
        print(json.dumps(jobs, ensure_ascii=False))
    else:
        print_table(("job", "status", "exit", "started", "seconds", "command"), [_row(job) for job in jobs], numbers=("exit", "seconds"))
    return 0


def show_logs(job: str, address: str, *, until_end: bool = False) -> int:
    """Print what the job has written until now; with `until_end` until its end, whose exit code is returned."""
    client = connect(address)
    if until_end:
        with reporting(address):
            client.get_job_info(job)
        return follow(client, job, address)
    with reporting(address):
        sys.stdout.write(client.get_job_logs(job))
    return 0


def stop_job(job: str, address: str, *, as_json: bool = False) -> int:
    """Ask the job to stop. Returns 0, also where it had ended before."""
    client = connect(address)
    with reporting(address):
        stopped = bool(client.stop_job(job))
    if as_json:
        print(json.dumps({"submission_id": job, "stopped": stopped}))
    else:
        print(f"{job} {'is asked to stop' if stopped else 'had ended already'}")
    return 0


def show_artifacts(job: str, address: str, *, to: Path | None = None, as_json: bool = False) -> int:
    """List what the job's run keeps, read from here; with `to` copy it there. Raises ConfigError where this machine cannot see it."""
    client = connect(address)
    with reporting(address):
        location = details(client.get_job_info(job))["metadata"].get(RESULTS)
    if location is None:
        raise ConfigError(f"job {job} keeps no results that `cleave submit` knows of; `cleave jobs logs {job}` shows what it wrote.")
    folder = results_of(job, location)
    names = folder.names(".", recursive=True)
    if to is not None:
        copy(folder, to)
        say(f"copied {len(names)} files of {location} to {to}")
    if as_json:
        print(json.dumps({"submission_id": job, "location": location, "files": names}))
    else:
        print("\n".join([location, *(f"  {name}" for name in names)]))
    return 0


def results_of(job: str, location: str) -> RunFolder:
    """The run folder of a job. Raises ConfigError with where it is instead."""
    from cleave.runs import RunFolder

    if "://" not in location and not location.startswith(("/", "~")):
        raise ConfigError(f"job {job} wrote to {location} inside its own copy of the tree; set storage_path to a shared path or a URL.")
    try:
        return RunFolder.at(location)
    except ConfigError as error:
        raise ConfigError(
            f"the results of job {job} are at {location}, which this machine does not see, or it has none yet; look from a node, or set "
            "storage_path to a URL."
        ) from error


def copy(folder: RunFolder, to: Path) -> None:
    """Copy a whole run folder. Raises StorageError."""
    from pyarrow import fs

    try:
        to.mkdir(parents=True, exist_ok=True)
        fs.copy_files(folder.root, str(to.absolute()), source_filesystem=folder.filesystem, destination_filesystem=fs.LocalFileSystem())
    except OSError as error:
        raise StorageError(
            f"cannot copy {folder.location} to {to} ({' '.join(str(error).split())[:200]}); check space and permissions."
        ) from error


def _row(job: dict[str, Any]) -> tuple[object, ...]:
    start, end = job["start_time"], job["end_time"]
    started = datetime.fromtimestamp(start).strftime("%Y-%m-%d %H:%M:%S") if start else ""
    return (
        job["submission_id"],
        job["status"],
        job["exit_code"],
        started,
        f"{end - start:.0f}" if start and end else "",
        job["entrypoint"],
    )
