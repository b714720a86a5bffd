"""How far skills are from each other, by what a model makes of their examples (prototypes.py).

A skill's prototype is the mean state of its examples. `cosine` and `euclidean` compare prototypes; `transport` compares the sets of states
by optimal transport and needs the package POT (`pip install 'cleave-llm[designer]'`).

    table = skill_distances({"add": states, "sub": states}, "cosine")     # [2, 2], symmetric, in the order of the mapping
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cleave.errors import ConfigError, DataError

States = npt.NDArray[np.float64]
Kind = Literal["cosine", "euclidean", "transport"]
_SAME = 1e-12
"""Distances below this, in units of the states' size, are rounding."""


def skill_distances(states: Mapping[str, npt.NDArray[Any]], kind: Kind = "cosine") -> States:
    """The distances [n, n] of n skills from the states [examples, width] of each.

    Raises DataError for one skill, for a skill without examples and for skills with the same prototype, ConfigError for `transport`
    without POT.
    """
    if len(states) < 2:
        raise DataError("one skill has no order; split it (curriculum.skills), or name two tasks or more.")
    if empty := [name for name, each in states.items() if not len(each)]:
        raise DataError(f"the skill {empty[0]!r} has no examples; leave it out, or check its task's filters.")
    points = [np.asarray(each, dtype=np.float64) for each in states.values()]
    if not all(np.isfinite(each).all() for each in points):
        raise DataError("the model's hidden states are not all finite; take another model, layer or dtype.")
    table = _BETWEEN[kind](points)
    _refuse_equal(list(states), points, table)
    return table


def _cosine(points: Sequence[States]) -> States:
    means = _prototypes(points)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    if not lengths.all():
        raise DataError("a skill's mean state is zero, which has no direction; use distance: euclidean.")
    directions = means / lengths
    return _symmetric(1.0 - directions @ directions.T)


def _euclidean(points: Sequence[States]) -> States:
    means = _prototypes(points)
    return _symmetric(np.linalg.norm(means[:, None] - means[None], axis=2))


def _transport(points: Sequence[States]) -> States:
    """The mean way, in Euclidean length, by which one skill's states become the other's."""
    try:
        import ot  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ConfigError(
            "distance: transport needs the package POT; install it with `pip install 'cleave-llm[designer]'` or `pip install POT`, "
            "or use cosine."
        ) from error
    table = np.zeros((len(points), len(points)))
    for i, one in enumerate(points):
        for j, other in enumerate(points[:i]):
            table[i, j] = ot.emd2([], [], ot.dist(one, other, metric="euclidean"))
    return table + table.T


_BETWEEN: dict[Kind, Callable[[Sequence[States]], States]] = {"cosine": _cosine, "euclidean": _euclidean, "transport": _transport}
assert set(_BETWEEN) == set(get_args(Kind))


def _prototypes(points: Sequence[States]) -> States:
    return np.stack([each.mean(0) for each in points])


def _symmetric(table: States) -> States:
    """Without what rounding adds: equal both ways, not negative, zero from a skill to itself."""
    table = np.clip((table + table.T) / 2, 0.0, None)
    np.fill_diagonal(table, 0.0)
    return table


def _refuse_equal(names: Sequence[str], points: Sequence[States], table: States) -> None:
    size = max(1.0, max(float(np.abs(each).max()) for each in points))
    same = np.argwhere(np.triu(table <= _SAME * size, k=1))
    if len(same):
        one, other = (names[int(place)] for place in same[0])
        raise DataError(f"the skills {one!r} and {other!r} look the same to the model; merge them, or take another layer or model.")
