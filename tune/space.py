"""Search spaces: which values a point may have, drawn, listed, or as plain numbers that Optuna can model.

A point is a mapping from fields of a training's config (`curriculum.order`) to values. For Optuna, a choice is the place of its value, and
an order is a number in [0, 1] per item, the items sorted by it: so a model of single numbers learns which items come early, and orders of
any length can be searched.

    space = Space(config.domains)
    point = space.draw(random.Random(0))
    assert space.decode(space.encode(point)) == point

Left out: who proposes points (searcher.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations, product
from math import exp, log
from typing import Any, Protocol

from cleave.config.tune import DomainConfig

Point = dict[str, Any]
"""Field of the config → value."""
Given = dict[str, float]
"""The same in plain numbers: name of a dimension → place of a choice, or number."""


@dataclass(frozen=True)
class Dimension:
    """One number: an integer below `choices`, or from `low` to `high`."""

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: int = 0


class Domain(Protocol):
    """The values of one field."""

    def draw(self, rng: random.Random) -> Any: ...

    def values(self) -> Iterator[Any]:
        """All of them, where they can be listed."""
        ...

    def dimensions(self) -> list[Dimension]:
        """The numbers that stand for a value."""
        ...

    def encode(self, value: Any) -> list[float]: ...

    def decode(self, numbers: list[float]) -> Any: ...


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    options: tuple[Any, ...]

    def draw(self, rng: random.Random) -> Any:
        return rng.choice(self.options)

    def values(self) -> Iterator[Any]:
        return iter(self.options)

    def dimensions(self) -> list[Dimension]:
        return [Dimension(choices=len(self.options))]

    def encode(self, value: Any) -> list[float]:
        return [self.options.index(value)]

    def decode(self, numbers: list[float]) -> Any:
        return self.options[int(numbers[0])]


@dataclass(frozen=True)
class Range:
    """A number between two, evenly, or evenly over orders of magnitude."""

    low: float
    high: float
    log: bool = False

    def draw(self, rng: random.Random) -> float:
        return exp(rng.uniform(log(self.low), log(self.high))) if self.log else rng.uniform(self.low, self.high)

    def values(self) -> Iterator[float]:
        raise ValueError("a range cannot be listed")

    def dimensions(self) -> list[Dimension]:
        return [Dimension(self.low, self.high, self.log)]

    def encode(self, value: float) -> list[float]:
        return [value]

    def decode(self, numbers: list[float]) -> float:
        return numbers[0]


@dataclass(frozen=True)
class Orders:
    """Every order of some items."""

    items: tuple[str, ...]

    def draw(self, rng: random.Random) -> tuple[str, ...]:
        return tuple(rng.sample(self.items, len(self.items)))

    def values(self) -> Iterator[tuple[str, ...]]:
        return permutations(self.items)

    def dimensions(self) -> list[Dimension]:
        return [Dimension() for _ in self.items]

    def encode(self, value: tuple[str, ...]) -> list[float]:
        return [(value.index(item) + 0.5) / len(self.items) for item in self.items]

    def decode(self, numbers: list[float]) -> tuple[str, ...]:
        return tuple(item for _, item in sorted(zip(numbers, self.items, strict=True), key=lambda pair: pair[0]))


class Space:
    """Domains by field."""

    def __init__(self, domains: Mapping[str, DomainConfig]) -> None:
        self.domains = {key: domain_of(config) for key, config in domains.items()}

    def draw(self, rng: random.Random, fixed: Mapping[str, Any] | None = None) -> Point:
        """A random point, with the values of `fixed` as they are."""
        fixed = fixed or {}
        return {key: fixed[key] if key in fixed else domain.draw(rng) for key, domain in self.domains.items()}

    def grid(self) -> Iterator[Point]:
        """Every point, the last field changing fastest. Raises ValueError where a field is a range."""
        for values in product(*(list(domain.values()) for domain in self.domains.values())):
            yield dict(zip(self.domains, values, strict=True))

    def dimensions(self) -> dict[str, Dimension]:
        """The dimensions by name: the field's, or FIELD.k where a field has several."""
        return {name: dimension for key, domain in self.domains.items() for name, dimension in _named(key, domain.dimensions())}

    def encode(self, point: Mapping[str, Any]) -> Given:
        """The point in plain numbers."""
        return {name: number for key, domain in self.domains.items() for name, number in _named(key, domain.encode(point[key]))}

    def decode(self, given: Mapping[str, float]) -> Point:
        """The inverse of `encode`, for any numbers within the dimensions."""
        return {key: domain.decode([given[name] for name, _ in _named(key, domain.dimensions())]) for key, domain in self.domains.items()}


def domain_of(config: DomainConfig) -> Domain:
    """The domain that a config describes."""
    if config.uniform is not None:
        return Range(*config.uniform)
    if config.log_uniform is not None:
        return Range(*config.log_uniform, log=True)
    if config.permutations is not None:
        return Orders(config.permutations)
    return Choice(config.choice)


def _named(key: str, parts: list[Any]) -> list[tuple[str, Any]]:
    return [(key, parts[0])] if len(parts) == 1 else [(f"{key}.{k}", part) for k, part in enumerate(parts)]
