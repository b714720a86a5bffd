"""Makes the spans of one replica and sends them, in batches and beside the requests, to a receiver of OTLP over HTTP.

A receiver that cannot be reached costs spans, never a request: what does not fit its queue is dropped. Spans are made by a provider of
our own, beside any that Ray or a library may install. They hold figures, names and options; questions, answers, keys and headers never.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from fastapi import FastAPI
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from cleave import __version__
from cleave.config.serve_tracing import TracingConfig
from cleave.errors import ConfigError
from cleave.roles import Role, Roles
from serve.call_spans import Called, CalledModel, ReplicaCall, replica_call
from serve.model_calls import RoleModel
from serve.problem_spans import ProblemSpans, problem_spans
from serve.request_span import RequestSpan
from serve.span_notes import SpanNotes
from serve.tracing import Carrier

NAME = "cleave"
PROTOCOL = "http/protobuf"
UNNAMED = "unknown_service"
"""What the SDK's own name of a service begins with."""
CLOSE_S = 2.0
"""Seconds that a replica which stops waits for its last spans to be sent."""


class Spans:
    """The spans of one replica."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(NAME, __version__)
        self.notes = SpanNotes()

    @classmethod
    def exported(cls, config: TracingConfig) -> Spans:
        """Spans that are sent to the receiver of the config. Raises ConfigError."""
        _check_protocol()
        provider = TracerProvider(resource=_resource(config), shutdown_on_exit=False)
        if os.environ.get("OTEL_TRACES_EXPORTER") != "none":
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(_endpoint(config))))
        return cls(provider)

    def watch(self, app: FastAPI) -> None:
        """Give every request of an application a span. Goes last: it is the outermost middleware."""
        app.add_middleware(RequestSpan, tracer=self._tracer)

    def problem(self, strategy: str) -> AbstractContextManager[ProblemSpans]:
        """Those of a problem."""
        return problem_spans(self._tracer, strategy)

    def roles(self, roles: Roles) -> Roles:
        """The cast with a span for every call."""
        verifier = None if roles.verifier is None else Called(self._tracer, "verifier", roles.verifier)
        decomposer, solver = Called(self._tracer, "decomposer", roles.decomposer), Called(self._tracer, "solver", roles.solver)
        return replace(roles, decomposer=decomposer, solver=solver, verifier=verifier)

    def models(self, models: Mapping[Role, RoleModel]) -> dict[Role, RoleModel]:
        """The models behind the roles, the same."""
        return {role: CalledModel(self._tracer, role, model) for role, model in models.items()}

    def call(self, role: Role, model: str, carrier: Carrier) -> AbstractContextManager[ReplicaCall]:
        """That of a call, in the replica that answers it."""
        return replica_call(self._tracer, role, model, carrier)

    def close(self) -> None:
        """Send what waits to be sent, for a moment at most."""
        sender = threading.Thread(target=self._provider.shutdown, daemon=True)
        sender.start()
        sender.join(CLOSE_S)


def _check_protocol() -> None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if wanted := os.environ.get(name):
            if wanted != PROTOCOL:
                raise ConfigError(f"spans are sent as {PROTOCOL}, not as {wanted}; set ${name} to that, and a receiver's HTTP port.")
            return


def _endpoint(config: TracingConfig) -> str | None:
    """URL that spans are posted to; None: the exporter reads the standard variables. Raises ConfigError."""
    base, name = config.endpoint, config.endpoint_env
    if name is not None:
        base = os.environ.get(name, "")
        if not base.startswith(("http://", "https://")):
            raise ConfigError(f"${name} holds no URL; set it to that of an OTLP receiver, such as http://localhost:4318.")
        if name.startswith("OTEL_"):
            return None
    return f"{(base or '').rstrip('/')}/v1/traces"


def _resource(config: TracingConfig) -> Resource:
    """Which process makes the spans. The environment may add to it and say otherwise, but for a name in the config."""
    ours = Resource({"service.version": __version__, "service.instance.id": str(uuid.uuid4())})
    resource = ours.merge(Resource.create())
    name = config.service_name
    if name is None and str(resource.attributes["service.name"]).startswith(UNNAMED):
        name = NAME
    return resource if name is None else resource.merge(Resource({"service.name": name}))
