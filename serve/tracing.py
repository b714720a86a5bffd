"""Whether requests have spans, and the context that a call takes along to its replica. OpenTelemetry is imported only where they have.

    spans = spans_of(args.tracing)                 # None: there are none
    service = Service(roles, limits, spans=spans)

Context travels as W3C headers do, as one more argument of a call. Left out: the spans (serve/spans.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from cleave.config.serve_tracing import TracingConfig
from cleave.errors import ConfigError

if TYPE_CHECKING:
    from serve.spans import Spans

Carrier = Mapping[str, str]
CARRIER: ContextVar[Carrier | None] = ContextVar("carrier", default=None)
"""Of the call that is under way; every call sets its own (serve/call_spans.py)."""


class UntracedCall:
    """A call in the replica that answers it, of which nothing is told."""

    def batch(self, requests: int, sequences: int) -> None:
        """It has reached the model, in such a batch."""

    def reply(self, reply: Any) -> None:
        """It was answered, or ended in a CleaveError."""


UNTRACED = UntracedCall()


def carried() -> tuple[Carrier, ...]:
    """What a call takes along: its carrier as a further argument; nothing where there are no spans."""
    carrier = CARRIER.get()
    return (carrier,) if carrier else ()


def spans_of(config: TracingConfig) -> Spans | None:
    """The spans of this replica. Raises ConfigError for an exporter that is not installed, or variables that it cannot follow."""
    if not config.on:
        return None
    try:
        from serve.spans import Spans
    except ImportError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise ConfigError(
            "tracing needs OpenTelemetry's OTLP exporter, which is not installed here; run `pip install -c constraints.txt -e '.[otel]'`."
        ) from error
    return Spans.exported(config)
