"""Whether a cluster can hold the actors that a config asks for: answered before anything starts, with the remedy.

A bundle (CPUs, GPUs) has to fit on one node as a whole. What counts is what the nodes have, not what is free now: a busy cluster
makes a job wait, a too small one would make it wait for ever. Left out: autoscaling; a cluster that starts at zero nodes has to be
scaled up first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cleave.config.roles import RolesConfig
from cleave.errors import ConfigError
from cleave.roles import ROLES, Role

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Bundle:
    """What one actor reserves, and how many actors of the role there are."""

    role: Role
    count: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def bundles(config: RolesConfig, only: Collection[Role] = ROLES) -> list[Bundle]:
    """The bundles of all roles that have actors, or of some."""
    return [
        Bundle(role, wanted.resources.num_replicas, wanted.resources.num_cpus, wanted.resources.num_gpus)
        for role, wanted in config.played(only).items()
    ]


def preflight(config: RolesConfig, only: Collection[Role] = ROLES) -> None:
    """Raise ConfigError if the cluster that Ray is connected to cannot hold all actors at the same time."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    check(bundles(config, only), [node["Resources"] for node in nodes if node["Alive"]])


def check(wanted: Sequence[Bundle], nodes: Sequence[Mapping[str, float]]) -> None:
    """Place every actor on a node, largest first. Raises ConfigError naming what does not fit and the remedy."""
    free = [[node.get("CPU", 0.0), node.get("GPU", 0.0)] for node in nodes]
    for bundle in sorted(wanted, key=lambda bundle: (bundle.gpus, bundle.cpus), reverse=True):
        for placed in range(bundle.count):
            node = next((node for node in free if _fits(bundle, node)), None)
            if node is None:
                raise ConfigError(_sentence(bundle, placed, wanted, nodes))
            node[0] -= bundle.cpus
            node[1] -= bundle.gpus


def _fits(bundle: Bundle, free: Sequence[float]) -> bool:
    return bundle.cpus <= free[0] + TOLERANCE and bundle.gpus <= free[1] + TOLERANCE


def _sentence(bundle: Bundle, placed: int, wanted: Sequence[Bundle], nodes: Sequence[Mapping[str, float]]) -> str:
    cpus = [node.get("CPU", 0.0) for node in nodes]
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    missing = bundle.count - placed
    field = f"roles.{bundle.role}.resources"
    if bundle.gpus and sum(other.gpus * other.count for other in wanted) > gpus + TOLERANCE:
        remedy = f"set {field}.num_gpus={_share(gpus, [other for other in wanted if other.gpus]):g} or add nodes with GPUs"
    elif bundle.count > 1 and bundle.cpus <= max(cpus, default=0.0):
        remedy = f"set {field}.num_replicas={max(1, placed)}, {field}.num_cpus={_share(sum(cpus), wanted):g}, or start Ray with more CPUs"
    else:
        remedy = f"set {field}.num_cpus={_share(max(cpus, default=0.0), wanted):g} or start Ray with more CPUs"
    total = sum(other.count for other in wanted)
    return (
        f"the cluster cannot place {missing} of {bundle.count} {bundle.role} actors ({total} actors in all): each needs {bundle}, "
        f"and {_nodes(len(nodes))} {sum(cpus):g} CPU and {gpus:g} GPU; {remedy}."
    )


def _nodes(count: int) -> str:
    return "its one node has" if count == 1 else f"its {count} nodes have together"


def _share(total: float, wanted: Sequence[Bundle]) -> float:
    """An equal share of `total` for every actor, rounded down to hundredths."""
    return math.floor(100 * total / max(1, sum(bundle.count for bundle in wanted))) / 100
