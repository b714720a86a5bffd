"""`cleave collect`, `distill` and `study`: a teacher's traces are gathered, models are trained, pairs of them compared."""

from __future__ import annotations

import typer

from cleave.commands.arguments import AsJson, ConfigPath, DryRun, Overrides, Record


def collect(
    config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False, record: Record = None
) -> int:
    """Gather a teacher's traces on a train split; what is there is never asked again."""
    from cleave.config.base import load
    from cleave.config.collect import CollectConfig

    resolved = load(CollectConfig, config, overrides or [])
    from pipelines.collect import main

    return main(resolved, dry_run=dry_run, as_json=as_json, record=record)


def distill(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False) -> int:
    """Train a role's model; a stopped run resumes from its last checkpoint."""
    from cleave.config.base import load
    from cleave.config.distill import DistillConfig

    resolved = load(DistillConfig, config, overrides or [])
    from pipelines.distill import main

    return main(resolved, dry_run=dry_run, as_json=as_json)


def study(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False) -> int:
    """Collect, train students and compare pairs of roles: which part is worth distilling; a stopped study resumes."""
    from cleave.config.base import load
    from cleave.config.study import StudyConfig

    resolved = load(StudyConfig, config, overrides or [])
    from pipelines.study import main

    return main(resolved, dry_run=dry_run, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (collect, distill, study):
        app.command()(command)
