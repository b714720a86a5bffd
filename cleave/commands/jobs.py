"""`cleave submit` and `cleave jobs list|logs|stop|artifacts`: work on a running cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cleave.commands.arguments import Address, AsJson, default_address
from cleave.commands.doctor import Where
from cleave.errors import ConfigError

jobs_app = typer.Typer(help="List, follow and stop the jobs of a cluster, and fetch what they left.")


def submit(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="What to run, such as: -- evaluate configs/evaluate/demo.yaml.")
    ],
    address: Address = None,
    where: Where = None,
    name: Annotated[str | None, typer.Option("--name", metavar="ID", help="Submission id, unique on the cluster.")] = None,
    working_dir: Annotated[str | None, typer.Option("--working-dir", help="Folder that is sent along; default the current one.")] = None,
    storage_path: Annotated[
        str | None, typer.Option("--storage-path", metavar="PATH", help="Where results go: a path all nodes share, or a URL.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="KEY[=VALUE]", help="Environment variable of the job; repeatable; shown in the dashboard."),
    ] = None,
    python: Annotated[str | None, typer.Option("--python", help="Interpreter on the head's PATH, or its path there.")] = None,
    entrypoint_num_cpus: Annotated[float | None, typer.Option("--entrypoint-num-cpus", help="CPUs reserved for the driver itself.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return as soon as the job is accepted.")] = False,
    skip_doctor: Annotated[bool, typer.Option("--skip-doctor", help="Do not examine the cluster before.")] = False,
    as_json: AsJson = False,
) -> int:
    """Examine a running cluster, run a command there as a job, follow its logs and pass its exit code on."""
    from cleave.config.base import validate
    from cleave.config.submit import SubmitConfig, parse_env
    from cleave.config.where import where_fields

    try:
        variables = parse_env(env or [], dict(os.environ))
    except ValueError as error:
        raise ConfigError(f"--env: {error}.") from error
    given: dict[str, Any] = {
        "command": command,
        "address": address,
        "name": name,
        "working_dir": working_dir,
        "storage_path": storage_path,
        "env": variables,
        "python": python,
        "entrypoint_num_cpus": entrypoint_num_cpus,
        "wait": not no_wait,
        "doctor": not skip_doctor,
    }
    fields = where_fields(where, given)
    fields.setdefault("address", default_address())
    config = validate(SubmitConfig, fields, source="the command line")
    from cluster.submit import main

    return main(config, as_json=as_json)


@jobs_app.command("list")
def jobs_list(address: Address = None, as_json: AsJson = False) -> int:
    """Show the cluster's jobs, newest first."""
    from cluster.jobs import list_jobs

    return list_jobs(address or default_address(), as_json=as_json)


@jobs_app.command("logs")
def jobs_logs(
    job: Annotated[str, typer.Argument(help="Submission id.")],
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the job ends and pass its exit code on.")] = False,
) -> int:
    """Print what a job has written."""
    from cluster.jobs import show_logs

    return show_logs(job, address or default_address(), until_end=follow)


@jobs_app.command("stop")
def jobs_stop(job: Annotated[str, typer.Argument(help="Submission id.")], address: Address = None, as_json: AsJson = False) -> int:
    """Ask a job to stop; what it has finished is kept."""
    from cluster.jobs import stop_job

    return stop_job(job, address or default_address(), as_json=as_json)


@jobs_app.command("artifacts")
def jobs_artifacts(
    job: Annotated[str, typer.Argument(help="Submission id.")],
    address: Address = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help="Copy the files there.")] = None,
    as_json: AsJson = False,
) -> int:
    """Show what a job's run keeps: report, traces, checkpoint; wherever storage_path is."""
    from cluster.jobs import show_artifacts

    return show_artifacts(job, address or default_address(), to=to, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(context_settings={"allow_interspersed_args": False})(submit)
