"""`cleave render`: manifests, cluster files and Dockerfiles from typed configs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cleave.commands.doctor import Where


def render(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="Print the manifest of one command, such as: -- evaluate CONFIG.")
    ] = None,
    where: Where = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the files go.")] = Path("cluster"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 where files on disk differ.")] = False,
) -> int:
    """Write KubeRay manifests, `ray up` files and Dockerfiles from where files and configs."""
    from cluster.render import main

    return main(where, command or [], out, only_check=check)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(context_settings={"allow_interspersed_args": False})(render)
