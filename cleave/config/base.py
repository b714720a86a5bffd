"""YAML into strict pydantic models: unknown keys are errors, dotted overrides, one sentence per mistake.

    config = load(EvaluateConfig, "configs/evaluate/demo.yaml", ["problems=100", "roles.solver=hf:my/checkpoint"])
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cleave.errors import ConfigError


class Config(BaseModel):
    """Base of all config models: unknown keys are errors, instances are frozen, a field's docstring is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


C = TypeVar("C", bound=Config)


def load(cls: type[C], path: str | Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file (None: defaults only) and apply `section.key=value` overrides, whose values are YAML too.

    Raises ConfigError for a missing file, bad YAML, an unknown key (with the nearest known one) or a bad value.
    """
    data = read_yaml(path) if path is not None else {}
    for override in overrides:
        _apply(data, override)
    return validate(cls, data, source=str(path) if path is not None else "the command line")


def validate(cls: type[C], data: Mapping[str, Any], source: str) -> C:
    """Build `cls` from plain data. Raises ConfigError with one sentence about the first mistake."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_sentence(cls, error, source)) from error


def dump(config: Config) -> str:
    """The resolved config as YAML, as it is written beside each result."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises ConfigError."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no config file at {path}; `ls configs/` shows the shipped ones.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be a mapping of keys to values, found {type(data).__name__}.")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not of the form section.key=value.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value in {override!r} is not valid YAML.") from error
    *parents, last = key.split(".")
    for parent in parents:
        child = data.setdefault(parent, {})
        if not isinstance(child, dict):
            data[parent] = child = {}
        data = child
    data[last] = float(value) if isinstance(value, str) and _is_exponent(value) else value


def _is_exponent(text: str) -> bool:
    """YAML 1.1 reads 1e-3 as a string; users mean a number."""
    try:
        float(text)
    except ValueError:
        return False
    return text[:1].isdigit() or text[:1] in "+-."


def _sentence(cls: type[BaseModel], error: ValidationError, source: str) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        near = difflib.get_close_matches(name, list(_field_names(cls)), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it."
        return f"unknown key {where!r} in {source}; {hint}"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where or cls.__name__} in {source}: {message}."


def _field_names(cls: type[BaseModel], seen: frozenset[type] = frozenset()) -> Iterator[str]:
    if cls in seen:
        return
    for name, field in cls.model_fields.items():
        yield name
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _field_names(part, seen | {cls})
