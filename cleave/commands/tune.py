"""`cleave tune curriculum`, `sparsity` and `predict`: searches on Ray Tune, and what foresaw their figures."""

from __future__ import annotations

import typer

from cleave.commands.arguments import AsJson, ConfigPath, DryRun, Overrides

tune_app = typer.Typer(help="Search with Ray Tune; a stopped search goes on with the same command.")


@tune_app.callback()
def _group() -> None:
    """Keeps a single command from taking over the group."""


@tune_app.command("curriculum")
def tune_curriculum(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False) -> int:
    """Search the order, pacing and mixture of a training's curriculum; leaves the best config for `cleave distill`."""
    from cleave.config.base import load
    from cleave.config.tune import CurriculumSearchConfig

    resolved = load(CurriculumSearchConfig, config, overrides or [])
    from tune.curriculum import main

    return main(resolved, dry_run=dry_run, as_json=as_json)


@tune_app.command("sparsity")
def tune_sparsity(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False) -> int:
    """Search how sparse a role can be, accuracy against what the sliced model costs; keeps the chosen config and checkpoint."""
    from cleave.config.base import load
    from cleave.config.sparsity import SparsitySearchConfig

    resolved = load(SparsitySearchConfig, config, overrides or [])
    from tune.sparsity import main

    return main(resolved, dry_run=dry_run, as_json=as_json)


@tune_app.command("predict")
def tune_predict(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> int:
    """Say whether the designer's score predicted how the orders of a finished search did."""
    from cleave.config.base import load
    from cleave.config.tune import CurriculumSearchConfig

    resolved = load(CurriculumSearchConfig, config, overrides or [])
    from tune.prediction import main

    return main(resolved, as_json=as_json)
