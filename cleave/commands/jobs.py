"""`cleave submit` and `cleave jobs list|logs|stop`: work on a running cluster."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from cleave.commands.arguments import Address, AsJson, default_address
from cleave.errors import ConfigError

jobs_app = typer.Typer(help="List, follow and stop the jobs of a cluster.")


def submit(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="What to run, such as: -- evaluate configs/evaluate/demo.yaml.")
    ],
    address: Address = None,
    name: Annotated[str | None, typer.Option("--name", metavar="ID", help="Submission id, unique on the cluster.")] = None,
    working_dir: Annotated[str, typer.Option("--working-dir", help="Folder that is sent along.")] = ".",
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="KEY[=VALUE]", help="Environment variable of the job; repeatable; shown in the dashboard."),
    ] = None,
    python: Annotated[str, typer.Option("--python", help="Interpreter on the head's PATH, or its path there.")] = "python",
    entrypoint_num_cpus: Annotated[float, typer.Option("--entrypoint-num-cpus", help="CPUs reserved for the driver itself.")] = 0.0,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return as soon as the job is accepted.")] = False,
    as_json: AsJson = False,
) -> int:
    """Run a command as a job of a running cluster, follow its logs and pass its exit code on."""
    from cleave.config.base import validate
    from cleave.config.submit import SubmitConfig, parse_env

    try:
        variables = parse_env(env or [], dict(os.environ))
    except ValueError as error:
        raise ConfigError(f"--env: {error}.") from error
    given: dict[str, Any] = {
        "command": command,
        "address": address or default_address(),
        "name": name,
        "working_dir": working_dir,
        "env": variables,
        "python": python,
        "entrypoint_num_cpus": entrypoint_num_cpus,
        "wait": not no_wait,
    }
    config = validate(SubmitConfig, given, source="the command line")
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


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(context_settings={"allow_interspersed_args": False})(submit)
