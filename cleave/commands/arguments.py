"""Arguments and options that several commands share, and how they are read. Left out: the commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cleave.errors import DataError

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; shipped ones are under configs/.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides such as train.learning_rate=1e-3.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the resolved config and stop.")]
Record = Annotated[
    Path | None, typer.Option("--record", metavar="FILE", help="Write every model call to FILE, to be replayed as recorded:FILE.")
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="The cluster's dashboard; default $RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265."),
]


def default_address() -> str:
    """The dashboard named by Ray's own variables, else the usual local one. A RAY_ADDRESS that is no URL names no dashboard."""
    jobs_server, cluster = os.environ.get("RAY_API_SERVER_ADDRESS", ""), os.environ.get("RAY_ADDRESS", "")
    return jobs_server or (cluster if cluster.startswith("http") else "") or "http://127.0.0.1:8265"


def config_or_override(config: Path | None, overrides: list[str]) -> tuple[Path | None, list[str]]:
    """Where CONFIG may be left out, a first word such as port=9000 is an override."""
    if config is not None and "=" in config.name and not config.exists():
        return None, [str(config), *overrides]
    return config, overrides


def check_arguments(arguments: list[str]) -> None:
    """Refuse arguments that are not UTF-8: Python smuggles their bytes through as lone surrogates. Raises DataError."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError("an argument is not UTF-8; check the terminal's encoding.") from error
