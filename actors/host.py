"""The Ray actors that host the roles: one role object, one micro-batcher, metrics.

    solver = SolverActor.options(num_cpus=1).remote(role_config)
    reply = await solver.call.remote(SolveRequest(problem))

Typed errors travel as values (`call` returns them, the pool raises them), so they arrive as they left. A role that cannot be built
keeps its error for `ready`, so that Ray does not restart it in vain. Left out: choosing among actors (pool.py), and what a role
does (decomposer.py, solver.py, verifier.py).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from actors.batcher import BatcherStats, OnBatch
from actors.decomposer import build_decomposer
from actors.handle import BatchingHandle
from actors.local import BatchedRole
from actors.solver import build_solver
from actors.verifier import build_verifier
from cleave.config.roles import RoleConfig
from cleave.deferral import defer
from cleave.errors import CleaveError, RoleUnavailable
from cleave.roles import Role
from cleave.types import ModelInfo, Usage

CONTROL = "control"
LATENCY_BOUNDARIES_S: list[float] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]
BATCH_BOUNDARIES: list[float] = [1, 2, 4, 8, 16, 32, 64, 128, 256]


@dataclass(frozen=True)
class Health:
    """Where an actor lives and since when."""

    pid: int
    node: str
    seconds_up: float


class RoleHost:
    """Hosts one role. A subclass names the role and how to build it."""

    role_name: ClassVar[Role]

    @staticmethod
    def build(config: RoleConfig) -> BatchedRole[Any, Any]:
        """The role's object. Raises ConfigError."""
        raise NotImplementedError

    def __init__(self, config: RoleConfig) -> None:
        self._started = time.monotonic()
        self._handle: BatchingHandle[Any, Any] | None = None
        self._broken: CleaveError = RoleUnavailable(f"the {self.role_name} has not started; wait for ready().")
        self._metrics = HostMetrics(self.role_name, config.model.short)
        try:
            limit_threads(config)
            self._handle = BatchingHandle(type(self).build(config), config, self._metrics.batch)
        except CleaveError as error:
            self._broken = error

    @ray.method(concurrency_group=CONTROL)  # type: ignore[untyped-decorator, unused-ignore]
    async def ready(self) -> ModelInfo | CleaveError:
        """The model's information once the role is built, or why it could not be."""
        return await self._handle.info() if self._handle is not None else self._broken

    @ray.method(concurrency_group=CONTROL)  # type: ignore[untyped-decorator, unused-ignore]
    async def health(self) -> Health:
        return Health(os.getpid(), ray.get_runtime_context().get_node_id(), time.monotonic() - self._started)

    @ray.method(concurrency_group=CONTROL)  # type: ignore[untyped-decorator, unused-ignore]
    async def stats(self) -> BatcherStats:
        return self._handle.stats if self._handle is not None else BatcherStats()

    async def call(self, request: Any, on_batch: OnBatch | None = None) -> Any:
        """The reply to one request, or the CleaveError that it met. `on_batch`: told of its batch; for callers in this process."""
        start, reply, outcome = time.perf_counter(), None, "error"
        try:
            reply = await self._answer(request, on_batch)
            outcome = type(reply).__name__ if isinstance(reply, CleaveError) else "ok"
            return reply
        finally:
            self._tell(outcome, time.perf_counter() - start, reply)

    async def _answer(self, request: Any, on_batch: OnBatch | None) -> Any:
        if self._handle is None:
            return self._broken
        try:
            return await self._handle(request, on_batch)
        except CleaveError as error:
            return error

    def _tell(self, outcome: str, seconds: float, reply: Any) -> None:
        """Tell the metrics of a call, once its reply is on its way."""
        usage = reply.usage if outcome == "ok" else Usage()

        def tell() -> None:
            self._metrics.call(outcome, seconds)
            self._metrics.tokens(usage.prompt_tokens, usage.completion_tokens)
            self._metrics.waiting(0 if self._handle is None else self._handle.stats.waiting)

        defer(tell)


class DecomposerHost(RoleHost):
    role_name = "decomposer"

    @staticmethod
    def build(config: RoleConfig) -> BatchedRole[Any, Any]:
        return build_decomposer(config)


class SolverHost(RoleHost):
    role_name = "solver"

    @staticmethod
    def build(config: RoleConfig) -> BatchedRole[Any, Any]:
        return build_solver(config)


class VerifierHost(RoleHost):
    role_name = "verifier"

    @staticmethod
    def build(config: Any) -> BatchedRole[Any, Any]:
        return build_verifier(config)


_actor: Any = ray.remote(concurrency_groups={CONTROL: 8})  # type: ignore[call-overload]
DecomposerActor: Any = _actor(DecomposerHost)
SolverActor: Any = _actor(SolverHost)
VerifierActor: Any = _actor(VerifierHost)
ACTORS: dict[Role, Any] = {"decomposer": DecomposerActor, "solver": SolverActor, "verifier": VerifierActor}


class HostMetrics:
    """Prometheus metrics of one host, through Ray's exporter; names start with ray_cleave_role_."""

    def __init__(self, role: Role, model: str) -> None:
        tags = {"role": role, "model": model}
        keys = ("role", "model")
        self._calls = Counter("cleave_role_calls", "Requests by outcome", tag_keys=(*keys, "outcome"))
        self._latency = Histogram(
            "cleave_role_seconds", "Seconds from request to reply", boundaries=LATENCY_BOUNDARIES_S, tag_keys=(*keys, "outcome")
        )
        self._tokens = Counter("cleave_role_tokens", "Tokens by kind", tag_keys=(*keys, "kind"))
        self._sequences = Histogram("cleave_role_batch_size", "Sequences per batch", boundaries=BATCH_BOUNDARIES, tag_keys=keys)
        self._batched = Gauge("cleave_role_batch_requests", "Requests in the last batch", tag_keys=keys)
        self._waiting = Gauge("cleave_role_waiting", "Requests that wait for a batch", tag_keys=keys)
        for metric in (self._calls, self._latency, self._tokens, self._sequences, self._batched, self._waiting):
            metric.set_default_tags(tags)

    def call(self, outcome: str, seconds: float) -> None:
        self._calls.inc(1, tags={"outcome": outcome})
        self._latency.observe(seconds, tags={"outcome": outcome})

    def tokens(self, prompt: int, completion: int) -> None:
        for kind, count in (("prompt", prompt), ("completion", completion)):
            if count:
                self._tokens.inc(count, tags={"kind": kind})

    def waiting(self, requests: int) -> None:
        self._waiting.set(requests)

    def batch(self, requests: int, sequences: int) -> None:
        self._batched.set(requests)
        self._sequences.observe(sequences)


def threads(config: RoleConfig) -> int:
    """Threads that the model of a role computes with."""
    return max(1, int(config.resources.num_cpus))


def limit_threads(config: RoleConfig) -> None:
    """Hold torch to the role's threads. Ray has set OMP_NUM_THREADS from num_cpus, unless the user's environment did."""
    if config.model.backend in ("hf", "reference"):
        import torch

        torch.set_num_threads(threads(config))
