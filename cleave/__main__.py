"""The command line: `python -m cleave COMMAND` or `cleave COMMAND`; `--help` lists the commands.

Every command is a thin function: it parses, then imports and calls what does the work. This is the one file that may reach
upward (pipelines, serve, cluster), and only inside functions, so that `--help` and mistakes in a config are answered at once.
Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 a mistake that the user can correct,
130 interrupted. Left out: any work.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cleave.console import say, say_error
from cleave.errors import CleaveError, ConfigError, DataError


class Interrupted(Exception):
    """Ctrl-C reached the command line; typer by itself would end without a word."""


class Commands(TyperGroup):
    """The root of the commands."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted from error


app = typer.Typer(
    cls=Commands,
    name="cleave",
    help="Split a problem, solve the parts, verify; evaluate, distil and serve the three roles on Ray.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
tasks_app = typer.Typer(help="List, show and export the tasks.")
jobs_app = typer.Typer(help="List, follow and stop the jobs of a cluster.")
app.add_typer(tasks_app, name="tasks")
app.add_typer(jobs_app, name="jobs")

MODEL_HELP = "Model that decomposes: hf:PATH, openai:MODEL@URL, recorded:FILE or reference:NAME."
HOW_TO_RESUME = {
    "evaluate": "run the same command again to go on from here",
    "distill": "run the same command again to go on from the last checkpoint",
    "submit": "the job goes on; `cleave jobs list` shows it",
}

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; shipped ones are under configs/.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides such as train.learning_rate=1e-3.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the resolved config and stop.")]
Record = Annotated[
    Path | None, typer.Option("--record", metavar="FILE", help="Write every model call to FILE, to be replayed as recorded:FILE.")
]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Such as arithmetic, gsm8k or jsonl:FILE; `cleave tasks list` shows them.")]
Split = Annotated[str | None, typer.Option("--split", help="Split; default: the task's first.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Number of problems.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the draw.")]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="The cluster's dashboard; default $RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265."),
]


@app.callback()
def _root() -> None:
    """Nothing is common to all commands; the callback keeps single commands from taking over the root."""


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question; - reads it from stdin.")],
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML with `roles` and `reasoning`.")] = None,
    roles: Annotated[Path | None, typer.Option("--roles", metavar="FILE", help="YAML with the roles alone.")] = None,
    decomposer: Annotated[str | None, typer.Option("--decomposer", metavar="MODEL", help=MODEL_HELP)] = None,
    solver: Annotated[str | None, typer.Option("--solver", metavar="MODEL", help="The same for the solver.")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", help="direct, single, static or stepwise.")] = None,
    n: Annotated[int | None, typer.Option("-n", help="Solutions to sample; several vote.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Sampling temperature of the solver.")] = None,
    as_json: AsJson = False,
    record: Record = None,
) -> int:
    """Answer one question and show plan, steps, answer, confidence and cost."""
    from actors.local import open_roles
    from cleave.asking import main

    return main(
        question,
        open_roles=open_roles,
        config=config,
        overrides=overrides or [],
        roles=roles,
        decomposer=decomposer,
        solver=solver,
        strategy=strategy,
        n=n,
        temperature=temperature,
        as_json=as_json,
        record=record,
    )


@app.command()
def evaluate(
    config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False, record: Record = None
) -> int:
    """Measure the three roles on a task split; a stopped run resumes."""
    from cleave.config.base import load
    from cleave.config.evaluate import EvaluateConfig

    resolved = load(EvaluateConfig, config, overrides or [])
    from pipelines.evaluate import main

    return main(resolved, dry_run=dry_run, as_json=as_json, record=record)


@app.command()
def distill(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False) -> int:
    """Train a role's model; a stopped run resumes from its last checkpoint."""
    from cleave.config.base import load
    from cleave.config.distill import DistillConfig

    resolved = load(DistillConfig, config, overrides or [])
    from pipelines.distill import main

    return main(resolved, dry_run=dry_run, as_json=as_json)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="YAML file; none: the shipped models.")] = None,
    overrides: Overrides = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on; default 8000.")] = None,
    dry_run: DryRun = False,
) -> int:
    """Serve the pipeline over HTTP until Ctrl-C: /v1/solve, /v1/chat/completions, /docs."""
    from cleave.config.serve import load_serve

    listen = [f"{key}={json.dumps(value)}" for key, value in (("host", host), ("port", port)) if value is not None]
    resolved = load_serve(*config_or_override(config, [*(overrides or []), *listen]))
    from serve.run import main

    return main(resolved, dry_run=dry_run)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")], as_json: AsJson = False) -> int:
    """Draw report.html again from a run folder."""
    from cleave.report import main

    return main(run, as_json=as_json)


@app.command(context_settings={"allow_interspersed_args": False})
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


@tasks_app.command("list")
def tasks_list(as_json: AsJson = False) -> int:
    """Show the tasks, their splits and whether their data is here."""
    from cleave.tasks.listing import print_list

    print_list(as_json=as_json)
    return 0


@tasks_app.command("show")
def tasks_show(name: TaskName, split: Split = None, limit: Limit = 3, seed: Seed = 0, as_json: AsJson = False) -> int:
    """Print some problems with their gold plan, steps and answer."""
    from cleave.tasks.listing import print_show

    print_show(name, split=split, limit=3 if limit is None else limit, as_json=as_json, seed=seed)
    return 0


@tasks_app.command("export")
def tasks_export(
    name: TaskName,
    file: Annotated[Path, typer.Argument(help="A .jsonl or .parquet file.")],
    split: Split = None,
    limit: Limit = None,
    seed: Seed = 0,
) -> int:
    """Write problems to a file, streaming."""
    from cleave.tasks.listing import export

    say(f"wrote {export(name, file, split=split, limit=limit, seed=seed)} problems to {file}")
    return 0


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


def default_address() -> str:
    """The dashboard named by Ray's own variables, else the usual local one. A RAY_ADDRESS that is no URL names no dashboard."""
    jobs_server, cluster = os.environ.get("RAY_API_SERVER_ADDRESS", ""), os.environ.get("RAY_ADDRESS", "")
    return jobs_server or (cluster if cluster.startswith("http") else "") or "http://127.0.0.1:8265"


def config_or_override(config: Path | None, overrides: list[str]) -> tuple[Path | None, list[str]]:
    """Where CONFIG may be left out, a first word such as port=9000 is an override."""
    if config is not None and "=" in config.name and not config.exists():
        return None, [str(config), *overrides]
    return config, overrides


def check_arguments(arguments: list[str]) -> None:
    """Refuse arguments that are not UTF-8: Python smuggles their bytes through as lone surrogates. Raises DataError."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError("an argument is not UTF-8; check the terminal's encoding.") from error


def usage_sentence(error: typer.TyperException) -> str:
    """What is wrong with the command line, and which --help tells more."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "cleave"
    return f"{error.format_message().rstrip('.')}; see `{command} --help`."


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. Errors of the user's making are one sentence; anything else keeps its traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        check_arguments(arguments)
        code = app(args=arguments or ["--help"], prog_name="cleave", standalone_mode=False)
    except CleaveError as error:
        say_error(str(error))
        return error.exit_code
    except typer.TyperException as error:
        say_error(usage_sentence(error))
        return error.exit_code
    except (Interrupted, KeyboardInterrupt, typer.Abort):
        command = next((word for word in arguments if not word.startswith("-")), "")
        say(f"interrupted; {HOW_TO_RESUME.get(command, 'nothing was changed')}.")
        return 130
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
