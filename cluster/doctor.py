"""`cleave doctor --address http://…`, and what `cleave submit` asks before anything starts: `cleave doctor` run as a job of the cluster.

So it sees what the command will see: the same tree, environment, network and storage. The job reserves nothing and is
stopped when it takes too long. Left out: the checks themselves (pipelines/doctor.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleave.config.programs import command_of
from cleave.config.submit import SubmitConfig
from cleave.console import say
from cleave.demands import Demand, Resources
from cleave.doctor import Finding, as_json, check_room, show, worst
from cluster.dashboard import CHECK, connect, reporting

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ANSWER_WITHIN_S = 300.0
"""For the job to start, with its environment, and to ask every node."""
SAY_EVERY_S = 10.0
POLL_S = 0.5
FAILED = 2


def main(config: SubmitConfig, *, json_output: bool = False) -> int:
    """Examine the cluster with a config, or its machines alone (`config.command` is `doctor [CONFIG …]`). Returns 0, or 2 for a failure.

    Raises ConfigError and ClusterUnavailable.
    """
    from cluster.submit import packed

    client = connect(config.address)
    with packed(config) as package:
        findings, nodes = examine(client, config, package, config.words[1:])
    scope = f"cluster of {len(nodes)} node{'' if len(nodes) == 1 else 's'} behind {config.address}"
    if json_output:
        print(json.dumps(as_json(findings, scope, nodes), ensure_ascii=False))
    else:
        show(findings, scope)
    return FAILED if worst(findings) == "fail" else 0


def fits(client: JobSubmissionClient, config: SubmitConfig, package: Path) -> bool:
    """Whether the command can run, saying what is wrong or doubtful. Commands that read no config and reserve nothing always can."""
    reads = command_of(config.words)
    if reads is None and not config.reserved and not config.secrets:
        return True
    say("examining the cluster …")
    findings, _ = examine(client, config, package, [] if reads is None else [reads.path, *reads.overrides])
    for found in findings:
        if found.status != "ok":
            remedy = f"; {found.remedy}" if found.remedy else ""
            say(f"{'error' if found.status == 'fail' else 'warning'}: {found.name}: {found.what}{remedy}.")
    return worst(findings) != "fail"


def examine(
    client: JobSubmissionClient, config: SubmitConfig, package: Path, words: Sequence[str]
) -> tuple[list[Finding], list[Resources]]:
    """The findings of the job, with the driver's own reservation, and what the nodes have."""
    from cluster.submit import send

    variables = [word for secret in config.secrets for word in ("--variable", secret)]
    asked = config.model_copy(
        update={
            "command": ("doctor", *words, "--json", "--address", "auto", *variables),
            "name": None,
            "entrypoint_num_cpus": 0.0,
            "entrypoint_num_gpus": 0.0,
            "entrypoint_memory": 0,
            "entrypoint_resources": {},
            "storage_path": None,
        }
    )
    job = send(client, asked, package, {"cleave_program": CHECK, "job_name": "doctor"})
    try:
        ended = _wait(client, job, config.address)
        with reporting(config.address):
            log = client.get_job_logs(job)
    finally:
        _stop(client, job, config.address)
    said = last_report(log)
    if said is None:
        return [_no_report(ended, log)], []
    findings = [Finding(**found) for found in said["findings"]]
    if config.reserved:
        findings += check_room({"driver": [Demand("driver", 1, config.reserved, "entrypoint_*")]}, said["nodes"])
    return findings, said["nodes"]


def last_report(log: str) -> dict[str, Any] | None:
    """What `cleave doctor --json` printed, found in the log of a job."""
    for line in reversed(log.splitlines()):
        if line.startswith('{"status"'):
            found: dict[str, Any] = json.loads(line)
            return found
    return None


def _wait(client: JobSubmissionClient, job: str, address: str) -> JobDetails:
    """Until the job has ended or its time is over."""
    start = said = time.monotonic()
    while True:
        with reporting(address):
            info = client.get_job_info(job)
        if info.status.is_terminal():
            return info
        now = time.monotonic()
        if now - start > ANSWER_WITHIN_S:
            return info
        if now - said > SAY_EVERY_S:
            said = now
            say(f"{now - start:.0f} s: the check is {info.status.value.lower()}: {' '.join((info.message or '').split())[:160]}")
        time.sleep(POLL_S)


def _stop(client: JobSubmissionClient, job: str, address: str) -> None:
    """Stop a job that did not end. It stays on the list: of a deleted one the dashboard would go on to show a driver that failed."""
    with reporting(address):
        if not client.get_job_info(job).status.is_terminal():
            client.stop_job(job)


def _no_report(ended: JobDetails, log: str) -> Finding:
    lines = [line.strip() for line in log.splitlines() if line.strip()] or [" ".join((ended.message or "it said nothing").split())]
    if ended.driver_exit_code == 127:
        remedy = "start Ray with the environment's bin folder on PATH, or pass --python"
        return Finding("job", "fail", "the head finds no such interpreter", remedy)
    if not ended.status.is_terminal():
        what = f"the check did not end within {ANSWER_WITHIN_S:.0f} s ({ended.status.value.lower()}: {lines[-1][:200]})"
        return Finding("job", "fail", what, "see the job's log in the dashboard")
    return Finding("job", "fail", lines[-1].removeprefix("error: ").rstrip(".")[:400], "see the job's log in the dashboard")
