"""A span that is open for as long as a block runs. It tells which error ended the block, never what it said: that may quote texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode


@contextmanager
def open_span(span: Span) -> Iterator[Span]:
    """End the span with the block."""
    try:
        yield span
    except Exception as error:
        fail(span, type(error).__name__)
        raise
    except BaseException:
        span.set_attribute("cleave.cancelled", True)
        raise
    finally:
        span.end()


@contextmanager
def current_span(span: Span) -> Iterator[Span]:
    """The same; what begins within the block is its child. Not for blocks of async generators, whose context is their reader's."""
    with open_span(span), trace.use_span(span, record_exception=False, set_status_on_exception=False):
        yield span


def fail(span: Span, error: str) -> None:
    """Mark the span as failed. `error`: the name of a class, or a status."""
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))
