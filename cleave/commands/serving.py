"""`cleave serve`: the composed pipeline behind a URL. `cleave serve status`, `promote` and `rollback`: what runs, and changing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from cleave.commands.arguments import AsJson, DryRun, Overrides, config_or_override

RUN = "run"
"""What `cleave serve` alone does."""


class ServeCommands(TyperGroup):
    """A first word that is no command is the config of `run`, so that `cleave serve CONFIG` and `cleave serve --port 9000` work."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [RUN, *args]
        return super().parse_args(ctx, args)


serve_app = typer.Typer(cls=ServeCommands, help="Serve the pipeline over HTTP.")

RoleName = Annotated[Literal["decomposer", "solver", "verifier"], typer.Argument(metavar="ROLE", help="decomposer, solver or verifier.")]
Application = Annotated[str, typer.Option("--application", help="Name of the application in Ray Serve.")]
Cluster = Annotated[str, typer.Option("--address", help="Ray cluster that it runs on; default the one of this machine.")]


@serve_app.command(RUN)
def serve(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="YAML file; none: the shipped models.")] = None,
    overrides: Overrides = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on; default 8000.")] = None,
    dry_run: DryRun = False,
) -> int:
    """Serve the pipeline over HTTP until Ctrl-C: a page at /, /v1/solve, /v1/chat/completions, /docs. `run` may be left out.

    What runs: `cleave serve status`. Another version of a role: `cleave serve promote ROLE MODEL`, back: `cleave serve rollback ROLE`.
    """
    from cleave.config.serve import load_serve

    listen = [f"{key}={json.dumps(value)}" for key, value in (("host", host), ("port", port)) if value is not None]
    resolved = load_serve(*config_or_override(config, [*(overrides or []), *listen]))
    from serve.run import main

    return main(resolved, dry_run=dry_run)


@serve_app.command("status")
def serve_status(
    application: Annotated[str | None, typer.Option("--application", help="One application; default all.")] = None,
    address: Cluster = "auto",
    as_json: AsJson = False,
) -> int:
    """Show what is served, its replicas and which models play the roles; exit code 1 if something does not run."""
    from serve.status import main

    return main(application=application, address=address, as_json=as_json)


@serve_app.command("promote")
def serve_promote(
    role: RoleName,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The new version: hf:PATH, reference:NAME or openai:MODEL@URL.")],
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Problems with known answers that both versions are asked; may be repeated.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the tasks.")] = "test",
    problems: Annotated[int, typer.Option("-n", min=1, help="Problems per task.")] = 200,
    max_nfr: Annotated[float, typer.Option("--max-nfr", help="Most problems that may be lost, in percent.")] = 2.0,
    min_gain: Annotated[float, typer.Option("--min-gain", help="Least gain in accuracy, in points.")] = 0.0,
    recorded: Annotated[int, typer.Option("--recorded", min=0, help="Last answered requests that the new version is asked too.")] = 0,
    shadow: Annotated[float, typer.Option("--shadow", min=0, max=1, help="Share of live requests that it is asked too.")] = 0.0,
    minutes: Annotated[float, typer.Option("--minutes", min=0, help="How long to shadow.")] = 5.0,
    max_changed: Annotated[
        float | None, typer.Option("--max-changed", help="Most of those requests with another answer or none, in percent.")
    ] = None,
    watch: Annotated[
        float | None, typer.Option("--watch", min=0, help="Minutes to watch for failures afterwards; default upgrades.watch_s.")
    ] = None,
    application: Application = "cleave",
    address: Cluster = "auto",
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare and judge, change nothing.")] = False,
) -> int:
    """Put another version of a role in use if it loses few enough problems; exit code 1 and their list if it does not.

    With --watch it stays, and goes back by itself if problems fail with the new version (exit code 1)."""
    from cleave.comparison import Limits
    from cleave.config.base import validate
    from cleave.config.workload import TaskShare

    tasks = [validate(TaskShare, {"task": name, "split": split, "problems": problems}, "--task") for name in task or []]
    from serve.promote import promote
    from serve.recorded import Replay

    limits = Limits(max_nfr / 100, min_gain / 100, None if max_changed is None else max_changed / 100)
    replay = Replay(recorded, shadow, 60 * minutes if shadow else 0.0)
    return promote(
        role,
        model,
        tasks,
        limits,
        application=application,
        address=address,
        wanted=replay,
        watch_s=None if watch is None else 60 * watch,
        dry_run=dry_run,
        as_json=as_json,
    )


@serve_app.command("rollback")
def serve_rollback(role: RoleName, application: Application = "cleave", address: Cluster = "auto") -> int:
    """Put the version of a role back in use that its last promotion replaced."""
    from serve.promote import rollback

    return rollback(role, application=application, address=address)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(serve_app, name="serve")
