"""`cleave jobs list | logs | stop`: the jobs of a running cluster."""

import json
import sys
from datetime import datetime
from typing import Any

from cleave.console import print_table
from cluster.dashboard import connect, details, reporting
from cluster.follow import follow


def list_jobs(address: str, *, as_json: bool = False) -> int:
    """Print the submitted jobs, newest first. Drivers that were not submitted as jobs are left out."""
    client = connect(address)
    with reporting(address):
        jobs = [details(job) for job in client.list_jobs() if job.submission_id]
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
