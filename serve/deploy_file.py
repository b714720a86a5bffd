"""Strict check of a Ray Serve config file: Serve itself accepts unknown keys in silence (`num_replica: 1` passes), this does not.

    python -m serve.deploy_file configs/serve/reference.yaml

Checks every key against Ray's own schema, the values with Ray's own validation, and the `args` and deployment names of our application.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from cleave.config.base import read_yaml
from cleave.config.serve import validate_args
from cleave.config.serve_keys import is_loopback
from cleave.console import say, say_error
from cleave.errors import CleaveError, ConfigError

BUILDER = "serve.app:build"
DEPLOYMENTS = ("Ingress", "Decomposer", "Solver", "Verifier", "Ledger", "Batches")


def check_deploy_file(path: str | Path) -> ServeDeploySchema:
    """Read a Ray Serve config file. Raises ConfigError with one sentence about the first mistake."""
    data = read_yaml(path)
    for mistake in unknown_keys(data, ServeDeploySchema):
        raise ConfigError(f"{mistake} in {path}.")
    try:
        schema = ServeDeploySchema.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where} in {path}: {first['msg'].rstrip('.')}.") from error
    for application in data["applications"]:
        if application["import_path"] == BUILDER:
            _check_application(application, path, schema.http_options.host)
    return schema


def unknown_keys(data: Any, annotation: Any, path: str = "") -> Iterator[str]:
    """A sentence for each key of `data` that the pydantic models within `annotation` do not know. Free mappings are not looked into."""
    if isinstance(data, list):
        (inner,) = _list_items(annotation) or (None,)
        for i, item in enumerate(data):
            yield from unknown_keys(item, inner, f"{path}.{i}" if path else str(i))
    model = _model(annotation)
    if model is None or not isinstance(data, Mapping):
        return
    fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key in fields:
            yield from unknown_keys(value, fields[key], where)
            continue
        near = difflib.get_close_matches(str(key), fields, n=1)
        yield f"unknown key {where!r}; " + (f"did you mean {near[0]!r}?" if near else "remove it")


def main(arguments: list[str]) -> int:
    """Check each file; 0 if all are good, 2 at the first that is not."""
    if not arguments:
        say_error("name a Ray Serve config file, such as configs/serve/reference.yaml.")
        return 2
    try:
        for path in arguments:
            check_deploy_file(path)
            say(f"{path}: good")
    except CleaveError as error:
        say_error(str(error))
        return error.exit_code
    return 0


def _check_application(application: Mapping[str, Any], path: str | Path, host: str) -> None:
    prefix = application.get("route_prefix", "/")
    if prefix is not None and not str(prefix).startswith("/"):
        raise ConfigError(f"route_prefix {prefix!r} in {path} must start with a slash.")
    args = validate_args(application.get("args") or {}, source=f"args of {path}")
    if not args.keys.required and not is_loopback(host):
        raise ConfigError(f"{path} listens on {host}, which others reach, so keys are needed; set args.keys.env or args.keys.file.")
    for deployment in application.get("deployments") or ():
        if deployment["name"] not in DEPLOYMENTS:
            raise ConfigError(f"{path} overrides the deployment {deployment['name']!r}; ours are {', '.join(DEPLOYMENTS)}.")


def _model(annotation: Any) -> type[BaseModel] | None:
    """The one pydantic model that a mapping here would be read as."""
    models = [part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
    return models[0] if len(models) == 1 else None


def _list_items(annotation: Any) -> tuple[Any, ...] | None:
    return next((get_args(part) for part in _parts(annotation) if get_origin(part) is list), None)


def _parts(annotation: Any) -> Iterator[Any]:
    """The members of a union, or the annotation itself."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
