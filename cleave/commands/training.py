"""`cleave collect`, `distill`, `study` and `iterate`: a teacher's traces are gathered, models are trained and compared, in rounds."""

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
    """Train a role's model, or several students; a stopped run resumes from its last checkpoint."""
    from cleave.config.students import StudentsConfig, load_distill

    resolved = load_distill(config, overrides or [])
    from pipelines import distill, students

    if isinstance(resolved, StudentsConfig):
        return students.main(resolved, dry_run=dry_run, as_json=as_json)
    return distill.main(resolved, dry_run=dry_run, as_json=as_json)


def study(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False) -> int:
    """Collect, train students and compare: which part is worth distilling, or which verifier chooses best; a stopped study resumes."""
    from cleave.config.verifier_study import VerifierStudyConfig, load_study

    resolved = load_study(config, overrides or [])
    from pipelines import study, verifier_study

    if isinstance(resolved, VerifierStudyConfig):
        return verifier_study.main(resolved, dry_run=dry_run, as_json=as_json)
    return study.main(resolved, dry_run=dry_run, as_json=as_json)


def iterate(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False) -> int:
    """Train a solver in rounds on its own right solutions beside its teacher's; a stopped iteration resumes."""
    from cleave.config.base import load
    from cleave.config.iterate import IterateConfig

    resolved = load(IterateConfig, config, overrides or [])
    from pipelines.iterate import main

    return main(resolved, dry_run=dry_run, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (collect, distill, study, iterate):
        app.command()(command)
