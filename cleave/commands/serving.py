"""`cleave serve`: the composed pipeline behind a URL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cleave.commands.arguments import DryRun, Overrides, config_or_override


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


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (serve,):
        app.command()(command)
