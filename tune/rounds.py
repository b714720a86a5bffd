"""What is left of a search, one round per training seed: of the first seed all proposals, of the others the leaders.

Left out: how a round's trials run (search.py), what is searched (curriculum.py, sparsity.py).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cleave.config.base import dump
from cleave.config.distill import DistillConfig
from cleave.config.sparsity import SparsitySearchConfig
from cleave.config.tune import ON_WORKERS, CurriculumSearchConfig
from cleave.runs import RunFolder
from tune.candidates import Candidate, leaders, read_candidates
from tune.searcher import Order, proposals
from tune.space import Point, Space

if TYPE_CHECKING:
    from tune.search import Round

Search = CurriculumSearchConfig | SparsitySearchConfig
Lead = Callable[[Sequence[Candidate], Sequence[int], int], list[Candidate]]
"""From all candidates, the seeds so far and a number to those that go on."""
_NOT_TRAINING = {"name", "storage_path", "output_dir", "seed"}


def run_rounds(config: Search, left: Callable[[int], Round]) -> bool:
    """Train what is `left` at each seed's place, one seed after another. Returns whether nothing is left; time may run out before."""
    from actors.connection import connected
    from tune.placement import check_placement
    from tune.search import run_round

    began = time.monotonic()
    with connected(dashboard=config.on_workers):
        slots = check_placement(config)
        for place in range(len(config.seeds)):
            seconds = None if config.time_budget_s is None else config.time_budget_s - (time.monotonic() - began)
            this = left(place)
            if seconds is not None and seconds <= 0 and this.trials:
                return False
            run_round(this, slots=slots, seconds=seconds, scheduled=place == 0)
            out_of_time = config.time_budget_s is not None and time.monotonic() - began >= config.time_budget_s
            if out_of_time and left(place).trials:
                return False
    return True


def round_of(
    config: Search, folder: RunFolder, place: int, orders: Sequence[Order] = (), *, lead: Lead | None = None, **changes: Any
) -> Round:
    """What is left to do with the seed at a place. `lead` chooses who goes on, by default the best; `changes` are fields of the round."""
    from tune.search import Round

    seed, known, space = config.seeds[place], read_candidates(folder), Space(config.domains)

    def key(point: Point) -> str:
        return key_of(config, point)

    def best(candidates: Sequence[Candidate], seeds: Sequence[int], count: int) -> list[Candidate]:
        return leaders(candidates, config.metric, seeds, count)

    settled = {candidate.key for candidate in known if seed in candidate.outcomes}
    if place == 0:
        wanted = proposals(config, space, orders, key)
        points = {name: point for point in wanted if (name := key(point)) not in settled}
        samples = max(0, (config.num_samples or 0) - len(settled)) if config.searcher == "optuna" else 0
        points = points if config.searcher != "optuna" or samples else {}
    else:
        first = (lead or best)(known, config.seeds[:place], config.leaders[place - 1])
        points, samples = {one.key: one.point for one in first if one.key not in settled}, 0
    own: dict[str, Any] = {"points": points, "samples": samples, "build": config.trial, "key": key, "known": known}
    return Round(config=config, folder=folder, space=space, seed=seed, metric=config.metric, **own, **changes)


def size(config: Search) -> str:
    """How many trials there are."""
    count = config.num_samples
    if config.searcher == "grid":
        count = len(proposals(config, Space(config.domains), [], lambda point: key_of(config, point)))
    further = f" and {sum(config.leaders)} with further seeds" if config.leaders else ""
    return f"{config.searcher} search of {count} candidates{further}, for {config.metric}"


def example(config: Search) -> DistillConfig:
    """One trial of the search, whichever."""
    return config.trial({key: domain.examples[0] for key, domain in config.domains.items()}, config.seeds[0])


def key_of(config: Search, point: Mapping[str, Any]) -> str:
    """A name for what a point trains, whatever the seed."""
    trial = config.trial(point, 0)
    content = trial.model_dump(mode="json", exclude=_NOT_TRAINING | (ON_WORKERS if trial.backend == "ray" else set()))
    (content.get("curriculum") or {}).pop("designer", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def best_config(config: Search, point: Mapping[str, Any]) -> str:
    """The config of `cleave distill` that trains the best candidate anew."""
    return dump(config.trial(point, config.seeds[0], f"{config.name}-best", config.storage_path))
