"""`cleave ask`, `evaluate`, `replay`, `report`, `compare` and `cascade`: questions in, answers and figures out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cleave.commands.arguments import AsJson, ConfigPath, DryRun, Overrides, Record

MODEL_HELP = "Model that decomposes: hf:PATH, openai:MODEL@URL, recorded:FILE or reference:NAME."
SELECTION_HELP = "How the answer is chosen among samples, as reasoning.selection; all: show every rule (needs reasoning.n above 1)."


def ask(
    question: Annotated[str, typer.Argument(help="The question; - reads it from stdin.")],
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML with `roles` and `reasoning`.")] = None,
    roles: Annotated[Path | None, typer.Option("--roles", metavar="FILE", help="YAML with the roles alone.")] = None,
    decomposer: Annotated[str | None, typer.Option("--decomposer", metavar="MODEL", help=MODEL_HELP)] = None,
    solver: Annotated[str | None, typer.Option("--solver", metavar="MODEL", help="The same for the solver.")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", help="direct, single, static, stepwise, dynamic or adaptive.")] = None,
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


def evaluate(
    config: ConfigPath,
    overrides: Overrides = None,
    selection: Annotated[str | None, typer.Option("--selection", metavar="RULE", help=SELECTION_HELP)] = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    record: Record = None,
) -> int:
    """Measure the three roles on a task split; a stopped run resumes."""
    from cleave.config.base import load
    from cleave.config.evaluate import EvaluateConfig

    chosen = [] if selection in (None, "all") else [f"reasoning.selection={selection}"]
    resolved = load(EvaluateConfig, config, [*(overrides or []), *chosen])
    if selection == "all":
        resolved.require_samples()
    from pipelines.evaluate import main

    return main(resolved, dry_run=dry_run, as_json=as_json, record=record)


def report(run: Annotated[Path, typer.Argument(help="A run folder.")], as_json: AsJson = False) -> int:
    """Draw report.html again from a run folder."""
    from cleave.report import main

    return main(run, as_json=as_json)


def compare(
    old: Annotated[Path, typer.Argument(help="A finished evaluation of the version in use.")],
    new: Annotated[Path, typer.Argument(help="The same problems under the version that shall replace it.")],
    variant: Annotated[str | None, typer.Option("--variant", metavar="NAME", help="Which variant, where the runs hold several.")] = None,
    max_nfr: Annotated[
        float | None, typer.Option("--max-nfr", help="Refuse when more than this percentage of the problems is lost.")
    ] = None,
    min_gain: Annotated[float | None, typer.Option("--min-gain", help="Refuse when accuracy gains fewer points than this.")] = None,
    as_json: AsJson = False,
) -> int:
    """Compare two versions on the same problems: what is won, what is lost, at what cost; exit code 1 refuses the new one."""
    from cleave.comparison import main

    return main(old, new, variant=variant, max_nfr=max_nfr, min_gain=min_gain, as_json=as_json)


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder or URL of a finished evaluation.")],
    overrides: Overrides = None,
    problem: Annotated[str | None, typer.Option("--problem", metavar="ID", help="Ask this one problem only, and write nothing.")] = None,
    as_json: AsJson = False,
) -> int:
    """Ask a finished evaluation again, as its folder says, and show what differs; exit code 1 if anything was answered differently."""
    from pipelines.replay import main

    return main(run, overrides or [], problem=problem, as_json=as_json)


def cascade(
    run: Annotated[Path, typer.Argument(help="A finished evaluation of several ways to reason, with several samples each.")],
    cost: Annotated[str, typer.Option("--cost", help="What a problem costs: tokens, flops or price.")] = "tokens",
    max_cost: Annotated[float | None, typer.Option("--max-cost", help="The best cascade that costs at most this per problem.")] = None,
    min_accuracy: Annotated[float | None, typer.Option("--min-accuracy", help="The cheapest that solves at least this share.")] = None,
    as_json: AsJson = False,
) -> int:
    """Search recorded samples for a cheaper way to reason in stages (the strategy adaptive); no model is asked."""
    from cleave.cascade_report import main

    return main(run, cost=cost, max_cost=max_cost, min_accuracy=min_accuracy, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (ask, evaluate, replay, report, compare, cascade):
        app.command()(command)
