"""Who proposes candidates: a list that is known before anything is trained (grid, random, by the designer), or Optuna, which learns from
figures.

A list is a function of the config, so a search that goes on has the same one. Optuna is told at each start what is known already.
Candidates that would be trained alike are proposed once; `key` says which those are. Left out: how well they do (search.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any

from cleave.config.tune import ORDER, SearchConfig
from cleave.curriculum.prediction import stratified
from tune.space import Dimension, Given, Point, Space

if TYPE_CHECKING:
    from ray.tune.search.optuna import OptunaSearch

    from tune.pareto_optuna import ParetoOptuna

Order = tuple[str, ...]
_TRIES = 1000
"""Draws in a row that give nothing new before a space counts as used up."""


def proposals(config: SearchConfig, space: Space, orders: Sequence[Order], key: Callable[[Point], str]) -> list[Point]:
    """The candidates of a search whose searcher is not Optuna; of Optuna's search those that come first. `orders` are the designer's, the
    best first."""
    rng = random.Random(config.seed)
    if config.searcher == "grid":
        return list(islice(distinct(space.grid(), key), config.num_samples))
    if config.searcher == "optuna":
        return list(distinct((space.draw(rng, {ORDER: order}) for order in orders[: config.designed]), key))
    first = orders if config.by_designer else orders[: config.designed]
    if config.searcher == "stratified":
        ranks = range(len(orders), 0, -1)
        first = [orders[k] for k in stratified(list(ranks), min(config.num_samples or 0, len(orders)), config.seed)]
    fixed: Iterator[Mapping[str, Any]] = chain(({ORDER: order} for order in first), repeat({}))
    return list(islice(distinct((space.draw(rng, one) for one in fixed), key), config.num_samples))


def distinct(points: Iterator[Point], key: Callable[[Point], str]) -> Iterator[Point]:
    """The points without those that are trained like an earlier one; ends with them, or where nothing new comes for long."""
    known: set[str] = set()
    vain = 0
    for point in points:
        name = key(point)
        vain = vain + 1 if name in known else 0
        if vain > _TRIES:
            return
        if not vain:
            known.add(name)
            yield point


def optuna_search(
    space: Space, first: Sequence[Point], known: Sequence[tuple[Given, float | None]], *, metric: str, mode: str, seed: int
) -> OptunaSearch:
    """Optuna's tree-structured Parzen estimator as Ray Tune takes it. `first` are asked for first; `known` are candidates with the figure
    that they reached, None for those that failed. Each start draws other numbers, or it would propose what is known."""
    from ray.tune.search.optuna import OptunaSearch

    distributions, points = _as_optuna(space, first)
    searcher = OptunaSearch(distributions, metric=metric, mode=mode, points_to_evaluate=points or None, seed=seed + len(known))
    for given, value in known:
        searcher.add_evaluated_point(dict(given), value, error=value is None)
    return searcher


def pareto_search(space: Space, first: Sequence[Point], metrics: list[str], modes: list[str], seed: int) -> ParetoOptuna:
    """The same for several figures at once."""
    from tune.pareto_optuna import ParetoOptuna

    distributions, points = _as_optuna(space, first)
    return ParetoOptuna(distributions, metric=metrics, mode=modes, points_to_evaluate=points or None, seed=seed)


def _as_optuna(space: Space, points: Sequence[Point]) -> tuple[dict[str, Any], list[Given]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return {name: _distribution(dimension) for name, dimension in space.dimensions().items()}, [space.encode(point) for point in points]


def _distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if dimension.choices:
        return CategoricalDistribution(list(range(dimension.choices)))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
