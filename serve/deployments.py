"""The deployments that host the roles: a role host (actors/host.py) per replica, with our micro-batcher in front of the model.

Each has its own replicas, resources and queue. A replica whose model cannot be built fails to start, with the reason as its error,
and is not started again and again. Typed errors travel as values, so they arrive as they left (serve/handle.py raises them).
Left out: HTTP (serve/ingress.py) and reasoning.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from ray import serve as ray_serve
from ray.serve.config import BackpressureConfig

from actors.host import DecomposerHost, RoleHost, SolverHost, VerifierHost
from cleave.config.roles import RoleConfig
from cleave.config.serve import LimitsConfig, ServeArgs
from cleave.errors import CleaveError
from cleave.roles import Role
from cleave.types import ModelInfo

START_ATTEMPTS = 1
"""A model that cannot be loaded will not load the second time either."""
HEALTH_PERIOD_S = 10.0
HEALTH_TIMEOUT_S = 30.0
DRAIN_MARGIN_S = 5.0
"""Beyond the longest request, before a replica that shuts down is killed."""


class RoleReplica:
    """One replica of a role. A subclass names the host."""

    host: ClassVar[type[RoleHost]]

    async def __init__(self, config: RoleConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        self._host = cast(Any, self.host(config))
        ready = await self._host.ready()
        if isinstance(ready, CleaveError):
            raise ready

    async def __call__(self, request: Any) -> Any:
        """The reply to one request, or the CleaveError that it met."""
        return await self._host.call(request)

    async def info(self) -> ModelInfo | CleaveError:
        """Which weights answer."""
        info: ModelInfo | CleaveError = await self._host.ready()
        return info


@ray_serve.deployment
class Decomposer(RoleReplica):
    """Problems in, plans out."""

    host = DecomposerHost


@ray_serve.deployment
class Solver(RoleReplica):
    """Problems, with or without plans, in; solutions out."""

    host = SolverHost


@ray_serve.deployment
class Verifier(RoleReplica):
    """Solutions in, verdicts out."""

    host = VerifierHost


DEPLOYMENTS: dict[Role, Any] = {"decomposer": Decomposer, "solver": Solver, "verifier": Verifier}


def bind_roles(args: ServeArgs) -> dict[Role, Any]:
    """The deployments of the roles that have a model of their own, bound to their configs."""
    wanted: dict[Role, RoleConfig | None] = {
        "decomposer": args.roles.decomposer,
        "solver": args.roles.solver,
        "verifier": args.roles.verifier,
    }
    return {
        role: DEPLOYMENTS[role].options(**role_options(config, args.limits)).bind(config)
        for role, config in wanted.items()
        if config is not None
    }


def role_options(config: RoleConfig, limits: LimitsConfig) -> dict[str, Any]:
    """Serve's options for a role's deployment."""
    resources = config.resources
    return {
        "num_replicas": resources.num_replicas,
        "max_ongoing_requests": resources.max_ongoing_requests,
        # Ray gives the replica OMP_NUM_THREADS = max(1, floor(num_cpus)), the host holds torch to the same.
        "ray_actor_options": {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus},
        **common_options(limits),
    }


def common_options(limits: LimitsConfig) -> dict[str, Any]:
    """Options of every deployment: refuse with 429 before memory grows, finish what runs, keep the old version until the new one is up."""
    return {
        "max_queued_requests": limits.max_queued_requests,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=limits.retry_after_s),
        "graceful_shutdown_timeout_s": limits.request_timeout_s + DRAIN_MARGIN_S,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "max_constructor_retry_count": START_ATTEMPTS,
        "max_surge_percent": 100,
    }
