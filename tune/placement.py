"""How many trials run at the same time, and whether one does.

A trial that trains in its own process takes what `resources_per_trial` says. One on several workers takes their room and a little of a CPU
for its driver, on whichever node Ray chooses. A driver whose workers have no room waits for it and keeps a part of it from others; so only
as many trials run as fit wherever their drivers are, in what is free when the search starts.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import ray

from actors.connection import connected
from cleave.config.tune import DRIVER
from cleave.demands import amounts, demands_of, total
from cleave.errors import CleaveError, ConfigError
from pipelines.ray_train import held

if TYPE_CHECKING:
    from tune.rounds import Search

Nodes = Sequence[Mapping[str, float]]
SETTLES_S = 15.0
"""How long what a killed search reserved may take to become free."""
_MOST = 128
"""Trials on several workers at a time; more are not looked for."""


def check_placement(config: Search) -> int:
    """How many trials run at the same time. Raises ConfigError where the cluster has no room for them, or, for several workers, no
    dashboard."""
    if config.on_workers:
        check_dashboard()
        return slots(config, settled(config))
    return slots(config, nodes())


def planned(config: Search) -> str:
    """How many would run at the same time, for --dry-run: on the cluster that is there, else on this machine. Nothing is refused."""
    try:
        if ray.is_initialized() or "RAY_ADDRESS" in os.environ:
            with connected():
                count = slots(config, free_nodes() if config.on_workers else nodes())
        else:
            count = slots(config, [this_machine()])
    except CleaveError as error:
        return f"here they would be refused: {str(error).rstrip('.')}"
    return f"{count} trial{'s' if count > 1 else ''} at a time"


def slots(config: Search, there: Nodes) -> int:
    """How many trials run at the same time on nodes. Raises ConfigError."""
    found, wanted = room(config, there), config.max_concurrent_trials
    if found < (wanted or 1):
        raise ConfigError(refusal(config, there, found))
    return wanted or found


def room(config: Search, there: Nodes) -> int:
    """How many trials fit on nodes."""
    if not config.on_workers:
        return sum(held(node, config.reserved) for node in there)
    from tune.rounds import example

    trial = example(config)
    left = places_left(there, trial.resources_per_worker, min(_MOST, sum(held(node, DRIVER) for node in there)))
    return max((count for count, places in enumerate(left) if count * trial.max_workers <= places), default=0)


def places_left(there: Nodes, each: Mapping[str, float], drivers: int) -> list[int]:
    """By the number of drivers, from none to `drivers`: the places for workers that are left where the drivers are most in the way."""
    least: list[float] = [0.0] + [math.inf] * drivers
    for node in there:
        beside = [held(_without(node, count), each) for count in range(min(drivers, held(node, DRIVER)) + 1)]
        least = [min(least[count - k] + beside[k] for k in range(min(count + 1, len(beside)))) for count in range(drivers + 1)]
    return [int(places) for places in least]


def refusal(config: Search, there: Nodes, found: int) -> str:
    """Why trials have no room, with the remedy."""
    count = config.max_concurrent_trials or 1
    demand, *drivers = demands_of(config)[config.name]
    name = max(demand.each, key=lambda name: demand.each[name] / max(total(there, name), 1e-9), default="CPU")
    have = total(there, name)
    share = max(0.0, (have - sum(count * one.each.get(name, 0.0) for one in drivers)) / demand.count)
    needs = amounts({name: demand.each.get(name, 0.0) * demand.count})
    if drivers:
        needs = f"{demand.count} workers with {amounts(demand.each)} each, and {amounts(DRIVER)} for each trial's driver"
    fewer = f"set max_concurrent_trials={found}, or" if found else "set"
    return (
        f"{count} trials at a time need {needs}, the cluster has {have:g} {name}{' free' if drivers else ''} and room for "
        f"{found} of them; {fewer} {demand.field}.{name}={math.floor(share * 1000 + 1e-6) / 1000:g}, or add nodes."
    )


def check_dashboard() -> None:
    """Raise ConfigError without Ray's dashboard."""
    from pipelines import doctor

    found = doctor.check_dashboard()
    if found.status != "ok":
        raise ConfigError(
            "trials on several workers need Ray's dashboard: without it the workers' room is not freed when a trial ends, and the search "
            f"hangs ({found.what}); {found.remedy}, or remove distill.backend and num_workers."
        )


def settled(config: Search) -> Nodes:
    """What is free on each node, once all is, or after a while."""
    wanted, ends = room(config, nodes()), time.monotonic() + SETTLES_S
    if config.max_concurrent_trials is not None:
        wanted = min(wanted, config.max_concurrent_trials)
    while room(config, free := free_nodes()) < wanted and time.monotonic() < ends:
        time.sleep(0.5)
    return free


def nodes() -> Nodes:
    """What each node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_nodes() -> Nodes:
    """What is free on each node of the cluster."""
    from ray._private.state import available_resources_per_node

    free: dict[str, dict[str, float]] = available_resources_per_node()
    return [free.get(node["NodeID"], {}) for node in ray.nodes() if node["Alive"]]


def this_machine() -> Mapping[str, float]:
    """What a cluster of this machine alone would have."""
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def _without(node: Mapping[str, float], drivers: int) -> dict[str, float]:
    return {name: there - drivers * DRIVER.get(name, 0.0) for name, there in node.items()}
