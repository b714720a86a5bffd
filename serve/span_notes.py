"""What an observer is told, noted on the span that it is told within: how a request ended on its own, what became of a problem on its."""

from __future__ import annotations

from opentelemetry.trace import get_current_span

from cleave.types import Trace
from serve.observer import Observer
from serve.open_span import fail
from serve.request_span import name_of
from serve.watch import UNROUTED

SERVER_ERROR = 500


class SpanNotes(Observer):
    """One per ingress replica."""

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        span = get_current_span()
        span.set_attribute("http.response.status_code", status)
        if route != UNROUTED:
            span.update_name(name_of(method, route))
            span.set_attribute("http.route", route)
        if status >= SERVER_ERROR:
            fail(span, str(status))

    def first_text(self, seconds: float) -> None:
        get_current_span().set_attribute("gen_ai.response.time_to_first_chunk", seconds)

    def answered(self, trace: Trace, rejected_plans: int) -> None:
        span = get_current_span()
        span.set_attributes(
            {
                "cleave.answered": trace.answer is not None,
                "cleave.solutions": len(trace.solutions),
                "cleave.rejected_plans": rejected_plans,
                **({} if trace.confidence is None else {"cleave.confidence": trace.confidence}),
            }
        )
        if trace.error is not None:
            span.set_attribute("error.type", trace.error.type)
            if trace.answer is None:
                fail(span, trace.error.type)
