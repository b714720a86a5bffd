"""`cleave doctor`: does a config fit this machine or a cluster?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cleave.commands.arguments import AsJson, Overrides, config_or_override

Where = Annotated[Path | None, typer.Option("--where", metavar="FILE", help="YAML that says where commands run; see configs/where/.")]


def doctor(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="YAML file of any program; none: the machines alone.")] = None,
    overrides: Overrides = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="URL", help="The cluster: its dashboard (http://HOST:8265), or auto from one of its nodes."),
    ] = None,
    where: Where = None,
    variable: Annotated[
        list[str] | None, typer.Option("--variable", metavar="NAME", help="Variable that every node has to have; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check whether a config fits this machine or a cluster: room, versions, storage, clocks, models; exit code 2 where it does not."""
    config, overrides = config_or_override(config, overrides or [])
    if where is not None or (address or "").startswith("http"):
        from cleave.config.base import validate
        from cleave.config.submit import SubmitConfig
        from cleave.config.where import where_fields
        from cluster.doctor import main as examine

        words = ["doctor", *([] if config is None else [str(config)]), *overrides]
        fields = where_fields(where, {"address": address, "command": words})
        fields["secrets"] = [*fields.get("secrets", ()), *(variable or [])]
        return examine(validate(SubmitConfig, fields, source="the command line"), json_output=as_json)
    from pipelines.doctor import main

    return main(config, overrides, address, variables=variable or [], json_output=as_json)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(doctor)
