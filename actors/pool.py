"""Actors of one role as a RoleHandle: placement, least-outstanding choice and metrics, nothing else.

    with pool_roles(config.roles) as roles:
        trace = await reason(problem, roles, strategy)

A dead actor is restarted, and its calls are repeated, by Ray (`max_restarts`, `max_task_retries`); calls carry their seeds, so a
repeat gives the same reply. An actor that Ray has given up gets no more calls. Cancelling a call cancels it in the actor. All
errors are of errors.py. Left out: hosting (host.py) and checking the cluster (placement.py).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.util.metrics import Gauge

from actors.batcher import BatcherStats
from actors.host import ACTORS, Health
from actors.local import LocalHandle, NotAsked
from actors.placement import preflight
from actors.verifier import build_likelihood
from cleave.config.roles import RoleConfig, RolesConfig
from cleave.console import say
from cleave.errors import CleaveError, RoleUnavailable
from cleave.roles import ROLES, Role, Roles
from cleave.types import ModelInfo

Q = TypeVar("Q")
A = TypeVar("A")
SAY_EVERY_S = 15.0
START_TIMEOUT_S = 1800.0


class PoolHandle(Generic[Q, A]):
    """A RoleHandle over some actors. Made by `start_pool`, which has seen them ready."""

    def __init__(self, role: Role, actors: Sequence[Any], info: ModelInfo) -> None:
        self.role = role
        self.actors = list(actors)
        self._info = info
        self._outstanding = [0] * len(self.actors)
        self._waiting = 0
        self._alive = set(range(len(self.actors)))
        self._last = -1
        self._gauge = Gauge("cleave_pool_outstanding", "Requests that wait for a reply", tag_keys=("role",))
        self._gauge.set_default_tags({"role": role})

    async def __call__(self, request: Q) -> A:
        index = self._choose()
        self._count(index, 1)
        reference = self.actors[index].call.remote(request)
        try:
            reply = await reference
        except asyncio.CancelledError:
            ray.cancel(reference)
            raise
        except TaskCancelledError as error:
            raise asyncio.CancelledError from error
        except RayTaskError:
            raise  # a bug in the role: it keeps its traceback
        except RayActorError as error:
            if isinstance(error, ActorDiedError):
                self._alive.discard(index)
            raise RoleUnavailable(self._lost()) from error
        except RayError as error:
            raise RoleUnavailable(f"a call to the {self.role} was lost ({type(error).__name__}); run the same command again.") from error
        finally:
            self._count(index, -1)
        if isinstance(reply, CleaveError):
            raise reply
        answer: A = reply
        return answer

    async def info(self) -> ModelInfo:
        return self._info

    async def health(self) -> list[Health]:
        """Process and node of each actor."""
        return [await actor.health.remote() for actor in self.actors]

    async def stats(self) -> list[BatcherStats]:
        """Batches, sizes and queue of each actor since its (re)start."""
        return [await actor.stats.remote() for actor in self.actors]

    def _choose(self) -> int:
        """The living actor with the fewest outstanding calls; among equals the one after the last choice."""
        if not self._alive:
            raise RoleUnavailable(self._lost())
        count = len(self.actors)
        self._last = min(self._alive, key=lambda i: (self._outstanding[i], (i - self._last - 1) % count))
        return self._last

    def _count(self, index: int, change: int) -> None:
        self._outstanding[index] += change
        self._waiting += change
        self._gauge.set(self._waiting)

    def _lost(self) -> str:
        return (
            f"a {self.role} actor died more often than roles.{self.role}.resources allows; look for its reason (often memory) in the "
            "Ray logs, then raise max_restarts or run the same command again."
        )


@contextmanager
def pool_roles(config: RolesConfig, only: Collection[Role] = ROLES, run: str = "") -> Iterator[Roles]:
    """Start the actors of all roles, or of some, on the cluster that Ray is connected to; stop them at the end. Ray's dashboard shows them
    as `run`'s, such as `demo solver 0`.

    Without a configured verifier, solutions are scored in this process by the likelihood that the solver reported.
    Raises ConfigError at once if the cluster is too small, and what a role raised that could not be built.
    """
    preflight(config, only)
    started: list[Any] = []
    try:
        mark = secrets.token_hex(2)  # names are unique among those that share a namespace
        waiting = {role: _start(role, wanted, started, f"{run} {role}".lstrip(), mark) for role, wanted in config.played(only).items()}
        handles = {role: PoolHandle[Any, Any](role, actors, _ready(role, actors)) for role, actors in waiting.items()}
        verifier = handles.get("verifier") or LocalHandle(build_likelihood(config.solver))
        yield Roles(handles.get("decomposer") or NotAsked("decomposer"), handles.get("solver") or NotAsked("solver"), verifier)
    finally:
        for actor in started:
            ray.kill(actor)


def _start(role: Role, config: RoleConfig, started: list[Any], title: str, mark: str) -> list[Any]:
    """Ask Ray for the actors of one role, adding each to `started`; returns without waiting."""
    resources = config.resources
    options = {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "max_concurrency": resources.max_ongoing_requests,
        "max_restarts": resources.max_restarts,
        "max_task_retries": resources.max_task_retries,
    }
    names = [f"{title} {i} ({mark})" for i in range(resources.num_replicas)]
    actors = [ACTORS[role].options(**options, name=name).remote(config) for name in names]
    started.extend(actors)
    return actors


def _ready(role: Role, actors: Sequence[Any]) -> ModelInfo:
    """Wait until every actor has built its role, saying what it waits for. Raises what a role raised, or RoleUnavailable."""
    waiting = [actor.ready.remote() for actor in actors]
    infos: list[ModelInfo] = []
    waited = 0.0
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=SAY_EVERY_S)
        infos += [_info(role, reference) for reference in done]
        if waiting:
            waited += SAY_EVERY_S
            say(f"waiting for {len(waiting)} {role} actor(s) to be placed and to load; free now: {_free()}")
        if waited >= START_TIMEOUT_S:
            raise RoleUnavailable(
                f"{len(waiting)} {role} actors were not ready after {waited:.0f} s; `ray status` shows what holds the CPUs."
            )
    return infos[0]


def _info(role: Role, reference: Any) -> ModelInfo:
    try:
        found = ray.get(reference)
    except RayActorError as error:
        first = str(error).strip().splitlines()[0]
        raise RoleUnavailable(f"the {role} actor died while it was starting ({first}); see the Ray logs for its reason.") from error
    if isinstance(found, CleaveError):
        raise found
    assert isinstance(found, ModelInfo)
    return found


def _free() -> str:
    available: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return f"{available.get('CPU', 0.0):g} CPU, {available.get('GPU', 0.0):g} GPU"
