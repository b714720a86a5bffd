"""`cleave curriculum rank|design`: orders of skills, before anything is trained."""

from __future__ import annotations

import typer

from cleave.commands.arguments import AsJson, ConfigPath, DryRun, Overrides

curriculum_app = typer.Typer(help="Rank and design orders of a distill config's skills.")


@curriculum_app.command("rank")
def curriculum_rank(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False) -> int:
    """Score every order of up to seven skills by how far they are from each other."""
    from cleave.config.base import load
    from cleave.config.distill import DistillConfig

    resolved = load(DistillConfig, config, overrides or [])
    from pipelines.design import rank

    return rank(resolved, dry_run=dry_run, as_json=as_json)


@curriculum_app.command("design")
def curriculum_design(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False) -> int:
    """Design an order of any number of skills; prints the section to train with it."""
    from cleave.config.base import load
    from cleave.config.distill import DistillConfig

    resolved = load(DistillConfig, config, overrides or [])
    from pipelines.design import design

    return design(resolved, dry_run=dry_run, as_json=as_json)
