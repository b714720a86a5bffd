"""`cleave submit`: pack the tree, examine the cluster, hand the command over as a job, follow it, pass its exit code on.

    cleave submit --address http://HOST:8265 -- evaluate configs/evaluate/demo.yaml problems=100
    cleave submit --where where.yaml -- distill configs/distill/student.yaml backend=ray num_workers=4

What runs on the cluster is `python -m cleave COMMAND` in the root of the sent tree, with the head's PATH. Left out: installing more
than `pip` names (the cluster's image has the dependencies), and starting clusters.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleave.config.programs import Command, command_of, storage_of
from cleave.config.submit import SubmitConfig
from cleave.config.where import is_secret
from cleave.console import say
from cluster.dashboard import connect, details, reporting
from cluster.follow import follow
from cluster.package import build_package

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

NO_AGENT = "No available agent"
AGENT_WITHIN_S = 60.0
AGENT_POLL_S = 2.0
RESULTS = "cleave_results"
"""The metadata key that says where a job's results are."""
REFUSED = 2


def main(config: SubmitConfig, *, as_json: bool = False) -> int:
    """Submit one job; with `as_json` its log goes to stderr and its outcome to stdout. Returns the exit code to end with."""
    from cluster.doctor import fits

    warn_of_secrets(config.env)
    metadata = metadata_of(config)
    client = connect(config.address)
    with packed(config) as package:
        if config.doctor and not fits(client, config, package):
            say("nothing was submitted; --skip-doctor submits all the same.")
            return REFUSED
        job = send(client, config, package, metadata)
    say(f"job {job} accepted by {config.address}")
    code = follow(client, job, config.address, to=sys.stderr if as_json else sys.stdout) if config.wait else 0
    if as_json:
        with reporting(config.address):
            print(json.dumps(details(client.get_job_info(job)), ensure_ascii=False))
    elif not config.wait:
        print(job)
    return code


@contextmanager
def packed(config: SubmitConfig) -> Iterator[Path]:
    """The tree as a zip file that exists while the body runs. Raises ConfigError where it is too large."""
    with tempfile.TemporaryDirectory(prefix="cleave-submit-") as folder:
        package = Path(folder) / "tree.zip"
        files = build_package(Path(config.working_dir), package, int(config.max_package_mb * 2**20), config.excludes)
        say(f"sending {files} files, {package.stat().st_size / 2**20:.1f} MB")
        yield package


def send(client: JobSubmissionClient, config: SubmitConfig, package: Path, metadata: dict[str, str]) -> str:
    """Upload the tree, unless the cluster has it, and submit the command. Returns the submission id."""
    request: dict[str, Any] = {
        "entrypoint": entrypoint(config),
        "submission_id": config.name,
        "runtime_env": {"working_dir": str(package), "env_vars": config.env, **({"pip": list(config.pip)} if config.pip else {})},
        "entrypoint_num_cpus": config.entrypoint_num_cpus or None,
        "entrypoint_num_gpus": config.entrypoint_num_gpus or None,
        "entrypoint_memory": config.entrypoint_memory or None,
        "entrypoint_resources": config.entrypoint_resources or None,
        "metadata": metadata or None,
    }
    with reporting(config.address):
        return submit_when_ready(client, request)


def submit_when_ready(client: JobSubmissionClient, request: dict[str, Any]) -> str:
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
    words = config.words
    if Path(words[0]).name.startswith("python"):
        return shlex.join(words)
    return shlex.join([config.python, "-m", "cleave", *words])


def metadata_of(config: SubmitConfig) -> dict[str, str]:
    """What the dashboard shows beside the job: its name, the where file's, the program, and where results are. Raises ConfigError for a
    config that its program refuses."""
    reads = command_of(config.words)
    if reads is None:
        return config.metadata
    return {"cleave_program": reads.program, **_of_run(config, reads), **config.metadata}


def warn_of_secrets(env: dict[str, str]) -> None:
    """Say on stderr when a variable looks like a secret: Ray shows a job's environment to everyone who can see the dashboard."""
    named = [name for name in env if is_secret(name)]
    if named:
        say(f"note: --env {', '.join(named)} will be readable in the dashboard; a secret belongs into the cluster's own environment.")


def _of_run(config: SubmitConfig, reads: Command) -> dict[str, str]:
    """The run's name, which Ray's dashboard shows under this key, and its place."""
    resolved = reads._replace(path=str(Path(config.working_dir) / reads.path)).config()
    storage, name = storage_of(resolved), getattr(resolved, "name", None)
    named = {"job_name": name} if name else {}
    return named | ({RESULTS: f"{storage.rstrip('/')}/{name}"} if storage and name else {})
