"""What a config asks of a cluster, and whether nodes can hold it: bundles of CPUs, GPUs, memory and custom resources.

A bundle has to fit on one node as a whole. What counts is what nodes have, not what is free now: a busy cluster makes a job wait, a
too small one would make it wait for ever. Left out: autoscaling; a cluster that starts small is judged as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cleave.config.base import Config
from cleave.config.distill import DistillConfig
from cleave.config.programs import runs_of
from cleave.config.roles import RolesConfig
from cleave.config.serve import ServeArgs
from cleave.config.tune import SearchConfig
from cleave.config.workload import WorkloadConfig

TOLERANCE = 1e-6
Resources = Mapping[str, float]


@dataclass(frozen=True)
class Demand:
    """`count` bundles at the same time, each on one node."""

    what: str
    count: int
    each: Resources
    field: str
    """Where the config says so."""

    def __str__(self) -> str:
        return f"{self.count} {self.what} with {amounts(self.each)} each"


@dataclass(frozen=True)
class Shortage:
    """A demand of which only `placed` bundles fit, and the resource that is missing."""

    run: str
    demand: Demand
    placed: int
    missing: str


def demands_of(config: Config) -> dict[str, list[Demand]]:
    """By run: what it reserves at the same time. Runs come one after another; what stays in one process reserves nothing."""
    if isinstance(config, SearchConfig):
        return {config.name: _of_search(config)}
    return {name: found for name, run in runs_of(config).items() if (found := _of_run(run))}


def shortages(demands: Mapping[str, Sequence[Demand]], nodes: Sequence[Resources]) -> list[Shortage]:
    """What does not fit on the nodes, placing the largest bundles first."""
    return [shortage for run, wanted in demands.items() for shortage in _place(run, wanted, nodes)]


def amounts(resources: Resources) -> str:
    """`2 CPU and 1 GPU`, memory in GB."""
    parts = [f"{value / 2**30:.3g} GB memory" if name == "memory" else f"{value:g} {name}" for name, value in resources.items()]
    return " and ".join(parts) or "nothing"


def total(nodes: Sequence[Resources], name: str) -> float:
    """What all nodes have of a resource."""
    return sum(node.get(name, 0.0) for node in nodes)


def _of_search(config: SearchConfig) -> list[Demand]:
    """Its trials at the same time; where several workers train for each, those and what starts them."""
    count = config.max_concurrent_trials or 1
    if not config.on_workers:
        return [Demand("trials", count, config.reserved, "resources_per_trial")]
    each = config.distill.get("resources_per_worker", {"CPU": 1.0})
    workers = Demand("workers", count * int(config.distill.get("num_workers", 1)), _positive(each), "distill.resources_per_worker")
    return [workers, Demand("drivers of trials", count, config.reserved, "max_concurrent_trials")]


def _of_run(run: Config) -> list[Demand]:
    if isinstance(run, DistillConfig):
        workers = Demand("workers", run.min_workers, _positive(run.resources_per_worker), "resources_per_worker")
        return [workers] if run.backend == "ray" else []
    if isinstance(run, WorkloadConfig):
        return _of_roles(run.roles) if run.backend == "actors" else []
    if isinstance(run, ServeArgs):
        ingress = Demand("ingress replicas", run.ingress.num_replicas, {"CPU": run.ingress.num_cpus}, "ingress.num_cpus")
        return [*_of_roles(run.roles), ingress]
    return []


def _of_roles(roles: RolesConfig) -> list[Demand]:
    return [
        Demand(
            f"{role} actors",
            wanted.resources.num_replicas,
            _positive({"CPU": wanted.resources.num_cpus, "GPU": wanted.resources.num_gpus}),
            f"roles.{role}.resources",
        )
        for role, wanted in roles.played().items()
    ]


def _place(run: str, wanted: Sequence[Demand], nodes: Sequence[Resources]) -> list[Shortage]:
    free = [dict(node) for node in nodes]
    short: list[Shortage] = []
    for demand in sorted(wanted, key=lambda demand: (demand.each.get("GPU", 0.0), demand.each.get("CPU", 0.0)), reverse=True):
        for placed in range(demand.count):
            node = next((node for node in free if not _lacks(demand.each, node)), None)
            if node is None:
                nearest = min((_lacks(demand.each, node) for node in free), key=len, default=list(demand.each))
                short.append(Shortage(run, demand, placed, nearest[0]))
                break
            for name, amount in demand.each.items():
                node[name] = node.get(name, 0.0) - amount
    return short


def _lacks(each: Resources, node: Resources) -> list[str]:
    return [name for name, amount in each.items() if amount > node.get(name, 0.0) + TOLERANCE]


def _positive(resources: Resources) -> dict[str, float]:
    return {name: amount for name, amount in resources.items() if amount > 0}
