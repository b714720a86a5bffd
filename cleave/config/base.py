"""YAML into strict pydantic models: unknown keys are errors, dotted overrides, one sentence per mistake.

config = load(EvaluateConfig, "configs/evaluate/demo.yaml", ["problems=100", "roles.solver=hf:my/checkpoint"])
"""

import difflib
import re
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

SHORT = "short"
"""Where an override goes into a section that is written as a short string (`model: hf:x`), the string moves under this key of a mapping."""


def split_short(data: object) -> tuple[str | None, dict[str, Any]]:
    """The short string of a section, if it has one, and its other fields: 'hf:x' and {'short': 'hf:x', 'dtype': …} alike."""
    if isinstance(data, str):
        return data, {}
    if isinstance(data, dict):
        return data.get(SHORT), {key: value for key, value in data.items() if key != SHORT}
    return None, {}


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, as users mean it; YAML 1.1 reads it as a string."""


class _Dumper(yaml.SafeDumper):
    """The inverse: quotes a string that `_Loader` would take for a number."""


_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def load(cls: type[C], path: str | Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file (None: defaults only) and apply `section.key=value` overrides, whose values are YAML too.

    Raises ConfigError for a missing file, bad YAML, an unknown key (with the nearest known one) or a bad value.
    """
    data = read_yaml(path) if path is not None else {}
    for override in overrides:
        _apply(data, override)
    return validate(cls, data, source=str(path) if path is not None else "the command line")


def overridden(config: C, overrides: Sequence[str]) -> C:
    """A copy with `section.key=value` overrides; what was left out stays left out. Raises ConfigError."""
    data = config.model_dump(mode="json", exclude_unset=True)
    for override in overrides:
        _apply(data, override)
    return validate(type(config), data, source="the command line")


def validate_part(cls: type[C], data: dict[str, Any], where: str) -> C:
    """A config inside another, built by a validator of the outer one. Raises ValueError that names the place of the first mistake."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (where, *first["loc"]))
        raise ValueError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error


def validate(cls: type[C], data: Mapping[str, Any], source: str) -> C:
    """Build `cls` from plain data. Raises ConfigError with one sentence about the first mistake."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_sentence(cls, error, source)) from error


def dump(config: Config) -> str:
    """The resolved config as YAML, as it is written beside each result."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, section by section."""
    whole = dict(base)
    for key, value in changes.items():
        whole[key] = merged(whole[key], value) if isinstance(value, dict) and isinstance(whole.get(key), dict) else value
    return whole


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises ConfigError."""
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
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
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value in {override!r} is not valid YAML.") from error
    *parents, last = key.split(".")
    place: Any = data
    for parent in parents:
        place = _enter(place, parent, override)
    if isinstance(place, list):
        place[_index(place, last, override)] = value
    else:
        place[last] = value


def _enter(place: Any, part: str, override: str) -> Any:
    """The section below `place`: an item of a list by its number, else a mapping, made where there is none."""
    key = _index(place, part, override) if isinstance(place, list) else part
    if isinstance(place, dict):
        place.setdefault(key, {})
    if isinstance(place[key], str):
        place[key] = {SHORT: place[key]}
    elif not isinstance(place[key], dict | list):
        place[key] = {}
    return place[key]


def _index(place: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(place):
        raise ConfigError(f"override {override!r}: {part!r} is no item of a list of {len(place)}; items count from 0.")
    return int(part)


def _sentence(cls: type[BaseModel], error: ValidationError, source: str) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = _nearest(cls, where)
        hint = f"did you mean {near!r}?" if near else "remove it."
        return f"unknown key {where!r} in {source}; {hint}"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where or cls.__name__} in {source}: {message}."


def _nearest(cls: type[BaseModel], where: str) -> str | None:
    """The known dotted key that `where` most likely means: one with a similar last name, at the most similar place (numbers of list items
    stay as they were written)."""
    known: dict[str, list[str]] = {}
    for path in _field_paths(cls):
        known.setdefault(path.rpartition(".")[2], []).append(path)
    place, _, name = where.rpartition(".")
    similar = difflib.get_close_matches(name, list(known), n=1)
    if not similar:
        return None
    near = difflib.get_close_matches(where, known[similar[0]], n=1, cutoff=0)[0]
    section = ".".join(part for part in place.split(".") if not part.isdecimal())
    return f"{place}.{similar[0]}" if place and section == near.rpartition(".")[0] else near


def _field_paths(cls: type[BaseModel], prefix: str = "", seen: frozenset[type] = frozenset()) -> Iterator[str]:
    if cls in seen:
        return
    for name, field in cls.model_fields.items():
        yield f"{prefix}{name}"
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _field_paths(part, f"{prefix}{name}.", seen | {cls})
