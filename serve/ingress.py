"""The deployment that speaks HTTP: the FastAPI application of serve/api.py over handles to the roles' deployments.

A client that leaves cancels its request: Serve cancels the route, the route its calls, each call its batch. Left out: routes
(serve/openai_routes.py, serve/solve_routes.py) and models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle

from actors.local import LocalHandle
from actors.verifier import build_likelihood
from cleave.config.serve import ServeArgs
from cleave.config.serve_keys import is_loopback
from cleave.errors import ConfigError
from cleave.roles import Role, RoleHandle, Roles
from serve.api import create_app
from serve.batch_worker import BatchWorker
from serve.catalogue import Catalogue
from serve.deployments import common_options
from serve.event_log import EventLog
from serve.handle import BatchesHandle, LedgerHandle, ServeHandle
from serve.keys import KeyRing
from serve.metrics import Metrics
from serve.observer import Later, Observer, Observers
from serve.service import Service
from serve.tally import Tally
from serve.tracing import spans_of

if TYPE_CHECKING:
    from serve.spans import Spans

HEADROOM = 32
"""Requests that a replica takes beyond those it works on, to answer them with 429 itself or to report its health."""


@ray_serve.deployment
@ray_serve.ingress()
class Ingress:
    """One HTTP replica."""

    _spans: Spans | None = None  # also where the constructor fails

    def __init__(
        self,
        args: ServeArgs,
        handles: Mapping[Role, DeploymentHandle[Any]],
        ledger: DeploymentHandle[Any] | None = None,
        batches: DeploymentHandle[Any] | None = None,
    ) -> None:
        """Raises ConfigError for keys that cannot be read, or are missing where others reach Serve, and for spans that cannot be sent."""
        self._args = args
        check_guarded(args, host_of_serve())
        self._keys = KeyRing.read(args.keys) if args.keys.required else None
        self._spans = spans_of(args.tracing)
        self._ledger = LedgerHandle(ledger) if ledger is not None else None
        self._batches = BatchesHandle(batches, args.batches) if batches is not None else None
        roles = serve_roles(args, handles)
        self._tally = Tally(self._ledger) if args.upgrades.watch_s and self._ledger is not None else None
        observer = observer_of(args) if self._tally is None else Observers((observer_of(args), self._tally))
        models: dict[Role, Any] = {"decomposer": roles.decomposer, "solver": roles.solver}
        traces = self._ledger if args.traces.max_traces else None
        self._service = Service(roles, args.limits, models, traces, observer, self._spans)

    async def current_args(self) -> ServeArgs:
        """What the application was built from."""
        return self._args

    def __del__(self) -> None:
        """Serve calls it when the replica stops."""
        if self._spans is not None:
            self._spans.close()

    def __serve_build_asgi_app__(self) -> FastAPI:
        catalogue, background = Catalogue.of(self._args), [] if self._tally is None else [self._tally.run]
        if self._batches is not None:
            inner = create_app(self._service, catalogue)
            background.append(BatchWorker(self._args, self._batches, inner, self._service.admission, self._ledger).run)
        return create_app(self._service, catalogue, self._keys, self._ledger, self._batches, background)


def check_guarded(args: ServeArgs, host: str | None) -> None:
    """Raise ConfigError where anybody could ask: `serve run`, `serve deploy` and a Serve that ran before do not check it."""
    if not args.keys.required and host is not None and not is_loopback(host):
        raise ConfigError(f"Serve listens on {host}, which others reach, so keys are needed; set keys.env or keys.file, or its host.")


def host_of_serve() -> str | None:
    """Where the proxies listen, as Serve was started; None: there are none. There is no public way to ask it."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    host: str | None = client.http_config.host
    return host


def observer_of(args: ServeArgs) -> Observer:
    """Metrics always, a log where it is wanted."""
    metrics = Later(Metrics())
    return Observers((metrics, EventLog())) if args.logs.encoding == "JSON" else metrics


def ingress_options(args: ServeArgs) -> dict[str, Any]:
    """Serve's options for the ingress."""
    return {
        "num_replicas": args.ingress.num_replicas,
        "max_ongoing_requests": args.limits.max_concurrent_requests + HEADROOM,
        "ray_actor_options": {"num_cpus": args.ingress.num_cpus},
        **common_options(args),
    }


def serve_roles(args: ServeArgs, handles: Mapping[Role, DeploymentHandle[Any]]) -> Roles:
    """The cast over Serve handles. Without a verifier's model, solutions are scored here, by the likelihood that the solver reported. What
    travels are this package's dataclasses, which the plain pickle writes several times faster than Ray's default."""
    roles = args.roles
    pickled = {role: handle.options(request_serialization="pickle", response_serialization="pickle") for role, handle in handles.items()}
    verifier: RoleHandle[Any, Any] = LocalHandle(build_likelihood(roles.solver))
    if roles.verifier is not None:
        verifier = ServeHandle("verifier", pickled["verifier"], roles.verifier.resources.max_task_retries)
    return Roles(
        ServeHandle("decomposer", pickled["decomposer"], roles.decomposer.resources.max_task_retries),
        ServeHandle("solver", pickled["solver"], roles.solver.resources.max_task_retries),
        verifier,
    )
