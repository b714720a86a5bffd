"""The deployments that host the roles: a role host (actors/host.py) per replica, with our micro-batcher in front of the model. And the
ones that hold what the ingress replicas share (serve/ledger.py, serve/batches.py).

Each has its own replicas, resources and queue. A replica whose model cannot be built fails to start, with the reason as its error,
and is not started again and again. Typed errors travel as values, so they arrive as they left (serve/handle.py raises them).
Left out: HTTP (serve/ingress.py) and reasoning.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ray import serve as ray_serve
from ray.serve.config import BackpressureConfig

from actors.decomposer import Decomposer as DecomposerRole
from actors.host import DecomposerHost, RoleHost, SolverHost, VerifierHost
from actors.solver import Solver as SolverRole
from cleave.config.roles import RoleConfig
from cleave.config.serve import ServeArgs
from cleave.config.serve_tracing import TracingConfig
from cleave.errors import CleaveError, ConfigError
from cleave.roles import Role
from cleave.types import ModelInfo
from serve.batches import HostedBatches
from serve.event_log import log_call
from serve.ledger import LocalLedger
from serve.model_calls import Continue, ModelCall, RoleModel, Say
from serve.pins import Answer, Version
from serve.tracing import UNTRACED, Carrier, UntracedCall, spans_of

if TYPE_CHECKING:
    from serve.spans import Spans

START_ATTEMPTS = 1
"""A model that cannot be loaded will not load the second time either."""
HEALTH_PERIOD_S = 10.0
HEALTH_TIMEOUT_S = 30.0
LEDGER_REQUESTS = 1024
LEDGER_CPUS = 0.05
BATCHES_CPUS = 0.05
DRAIN_MARGIN_S = 5.0
"""Beyond the longest request, before a replica that shuts down is killed."""


class RoleReplica:
    """One replica of a role. A subclass names the host."""

    host: ClassVar[type[RoleHost]]
    _spans: Spans | None = None  # also where the constructor fails

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: RoleConfig, logs_calls: bool = False, tracing: TracingConfig | None = None
    ) -> None:
        self._logs_calls = logs_calls
        self._spans = spans_of(tracing or TracingConfig())
        self._host = cast(Any, self.host(config))
        ready = await self._host.ready()
        if isinstance(ready, CleaveError):
            raise ready
        self._version = Version.of(config, ready)
        self._model = _model_of(self._host._handle.role)

    async def __call__(self, request: Any, carrier: Carrier | None = None) -> Any:
        """The reply to one request, or the CleaveError that it met. `carrier`: the caller's span, here and below (serve/tracing.py)."""
        start = time.perf_counter()
        with self._told(carrier) as told:
            reply = await self._host.call(request, told.batch)
            told.reply(reply)
        if self._logs_calls:
            log_call(self.host.role_name, reply, time.perf_counter() - start)
        return reply

    async def answer(self, request: Any, wanted: Version | None, carrier: Carrier | None = None) -> Answer:
        """The same, and whose it is; nothing where another version is wanted (serve/pins.py)."""
        if wanted is not None and wanted != self._version:
            return Answer(self._version, declined=True)
        return Answer(self._version, await self(request, carrier))

    async def info(self) -> ModelInfo | CleaveError:
        """Which weights answer."""
        info: ModelInfo | CleaveError = await self._host.ready()
        return info

    async def ask_model(self, call: ModelCall, carrier: Carrier | None = None) -> Any:
        """What the model behind the role replies (serve/model_calls.py), or the CleaveError that it met."""
        with self._told(carrier) as told:
            try:
                reply = await self._asked().ask(call)
            except CleaveError as error:
                reply = error
            told.reply(reply)
            return reply

    async def stream_model(self, call: Say | Continue, wanted: Version | None = None, carrier: Carrier | None = None) -> AsyncIterator[Any]:
        """Whose reply it is, then pieces of it and, at the end, all of it, or the CleaveError that it met; nothing more where another
        version is wanted."""
        yield self._version
        if wanted is not None and wanted != self._version:
            return
        with self._told(carrier) as told:
            try:
                async for item in self._asked().stream(call):
                    told.reply(item)
                    yield item
            except CleaveError as error:
                told.reply(error)
                yield error

    def __del__(self) -> None:
        """Serve calls it when the replica stops."""
        if self._spans is not None:
            self._spans.close()

    def _told(self, carrier: Carrier | None) -> AbstractContextManager[UntracedCall]:
        if self._spans is None or carrier is None:
            return nullcontext(UNTRACED)
        return self._spans.call(self.host.role_name, self._version.model.name, carrier)

    def _asked(self) -> RoleModel:
        if self._model is None:
            raise ConfigError(f"the {self.host.role_name} replies with scores, not with text; ask the solver or the decomposer.")
        return self._model


def _model_of(role: Any) -> RoleModel | None:
    """The model of a role that speaks."""
    if not isinstance(role, DecomposerRole | SolverRole):
        return None
    from serve.token_model import TokenModel  # imports torch

    return TokenModel(role)


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


Ledger: Any = ray_serve.deployment(name="Ledger")(LocalLedger)
Batches: Any = ray_serve.deployment(name="Batches")(HostedBatches)
DEPLOYMENTS: dict[Role, Any] = {"decomposer": Decomposer, "solver": Solver, "verifier": Verifier}


def bind_roles(args: ServeArgs) -> dict[Role, Any]:
    """The deployments of the roles that have a model of their own, bound to their configs."""
    wanted: dict[Role, RoleConfig | None] = {
        "decomposer": args.roles.decomposer,
        "solver": args.roles.solver,
        "verifier": args.roles.verifier,
    }
    return {
        role: DEPLOYMENTS[role].options(**role_options(config, args)).bind(config, args.logs.encoding == "JSON", args.tracing)
        for role, config in wanted.items()
        if config is not None
    }


def bind_ledger(args: ServeArgs) -> Any:
    """The deployment of the ledger; None where nothing needs it. Always one replica: its counts are of all requests."""
    if not args.needs_ledger:
        return None
    options = {"num_replicas": 1, "max_ongoing_requests": LEDGER_REQUESTS, "ray_actor_options": {"num_cpus": LEDGER_CPUS}}
    return Ledger.options(**options, **common_options(args)).bind(args)


def bind_batches(args: ServeArgs) -> Any:
    """The deployment of the store of batches; None where there are none. Always one replica: it owns the folder."""
    if args.batches.folder is None:
        return None
    options = {"num_replicas": 1, "max_ongoing_requests": LEDGER_REQUESTS, "ray_actor_options": {"num_cpus": BATCHES_CPUS}}
    return Batches.options(**options, **common_options(args)).bind(args)


def role_options(config: RoleConfig, args: ServeArgs) -> dict[str, Any]:
    """Serve's options for a role's deployment."""
    resources = config.resources
    return {
        "num_replicas": resources.num_replicas,
        "max_ongoing_requests": resources.max_ongoing_requests,
        # Ray gives the replica OMP_NUM_THREADS = max(1, floor(num_cpus)), the host holds torch to the same.
        "ray_actor_options": {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus},
        **common_options(args),
    }


def common_options(args: ServeArgs) -> dict[str, Any]:
    """Options of every deployment: refuse with 429 before memory grows, finish what runs, keep the old version until the new one is up."""
    limits, logs = args.limits, args.logs.model_dump(exclude_none=True)
    return {
        **({"logging_config": logs} if logs else {}),
        "max_queued_requests": limits.max_queued_requests,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=limits.retry_after_s),
        "graceful_shutdown_timeout_s": limits.request_timeout_s + DRAIN_MARGIN_S,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "max_constructor_retry_count": START_ATTEMPTS,
        "max_surge_percent": 100,
    }
