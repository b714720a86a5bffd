"""`cleave tasks list|show|export`: the problems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cleave.commands.arguments import AsJson
from cleave.console import say

tasks_app = typer.Typer(help="List, show and export the tasks.")

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Such as arithmetic, gsm8k or jsonl:FILE; `cleave tasks list` shows them.")]
Split = Annotated[str | None, typer.Option("--split", help="Split; default: the task's first.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Number of problems.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the draw.")]


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
