"""`cleave submit`: pack the tree, hand the command to a running cluster as a job, follow it, pass its exit code on.

    cleave submit --address http://HOST:8265 -- evaluate configs/evaluate/demo.yaml problems=100

What runs on the cluster is `python -m cleave COMMAND` in the root of the sent tree, with the head's PATH. Left out: installing
anything there (the cluster's image has the dependencies), and starting clusters.
"""

import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleave.config.submit import SubmitConfig
from cleave.console import say
from cluster.dashboard import connect, details, reporting
from cluster.follow import follow
from cluster.package import build_package

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

NO_AGENT = "No available agent"
AGENT_WITHIN_S = 60.0
AGENT_POLL_S = 2.0
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def main(config: SubmitConfig, *, as_json: bool = False) -> int:
    """Submit one job; with `as_json` its log goes to stderr and its outcome to stdout. Returns the exit code to end with."""
    warn_of_secrets(config.env)
    client = connect(config.address)
    job = send(client, config)
    say(f"job {job} accepted by {config.address}")
    code = follow(client, job, config.address, to=sys.stderr if as_json else sys.stdout) if config.wait else 0
    if as_json:
        with reporting(config.address):
            print(json.dumps(details(client.get_job_info(job)), ensure_ascii=False))
    elif not config.wait:
        print(job)
    return code


def send(client: "JobSubmissionClient", config: SubmitConfig) -> str:
    """Upload the tree and submit the command. Returns the submission id."""
    with tempfile.TemporaryDirectory(prefix="cleave-submit-") as folder:
        package = Path(folder) / "tree.zip"
        files = build_package(Path(config.working_dir), package)
        say(f"sending {files} files, {package.stat().st_size / 2**20:.1f} MB")
        request: dict[str, Any] = {
            "entrypoint": entrypoint(config),
            "submission_id": config.name,
            "runtime_env": {"working_dir": str(package), "env_vars": config.env},
            "entrypoint_num_cpus": config.entrypoint_num_cpus or None,
        }
        with reporting(config.address):
            return submit_when_ready(client, request)


def submit_when_ready(client: "JobSubmissionClient", request: dict[str, Any]) -> str:
    """Submit, and wait for the job agent of a cluster that has only just started: its dashboard answers before it can run jobs."""
    deadline = time.monotonic() + AGENT_WITHIN_S
    while True:
        try:
            return str(client.submit_job(**request))
        except RuntimeError as error:
            if NO_AGENT not in str(error) or time.monotonic() > deadline:
                raise
        say("the cluster is still starting; trying again.")
        time.sleep(AGENT_POLL_S)


def entrypoint(config: SubmitConfig) -> str:
    """The shell command of the job: `python -m cleave COMMAND`, or the command itself where it starts with a python."""
    command = list(config.command)
    if command[0] == "--":
        command = command[1:]
    if Path(command[0]).name.startswith("python"):
        return shlex.join(command)
    if command[0] == "cleave":
        command = command[1:]
    return shlex.join([config.python, "-m", "cleave", *command])


def warn_of_secrets(env: dict[str, str]) -> None:
    """Say on stderr when a variable looks like a secret: Ray shows a job's environment to everyone who can see the dashboard."""
    named = [name for name in env if any(word in name.upper() for word in SECRET_WORDS)]
    if named:
        say(f"note: --env {', '.join(named)} will be readable in the dashboard; a secret belongs into the cluster's own environment.")
