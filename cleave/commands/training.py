"""`cleave distill`: models are trained."""

from __future__ import annotations

import typer

from cleave.commands.arguments import AsJson, ConfigPath, DryRun, Overrides


def distill(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False) -> int:
    """Train a role's model; a stopped run resumes from its last checkpoint."""
    from cleave.config.base import load
    from cleave.config.distill import DistillConfig

    resolved = load(DistillConfig, config, overrides or [])
    from pipelines.distill import main

    return main(resolved, dry_run=dry_run, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (distill,):
        app.command()(command)
