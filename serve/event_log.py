"""One log line per request, per problem and per call to a role, with figures as fields of their own. On with `logs.encoding: JSON`.

Written to Serve's logger, which adds the request's id, the application, the deployment and the replica: the id is the same in every role
that a request came to, is the reply's X-Request-Id, and may be given by the client. Questions and answers are never logged.
"""

from __future__ import annotations

import logging
from typing import Any

from cleave.errors import CleaveError
from cleave.roles import Role
from cleave.types import Trace
from serve.lease import holder
from serve.observer import Observer

logger = logging.getLogger("ray.serve.cleave")


class EventLog(Observer):
    """The ingress's lines."""

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        _write("request", method=method, template=route, status=status, seconds=seconds)

    def answered(self, trace: Trace, rejected_plans: int) -> None:
        _write(
            "problem",
            key=holder(),
            problem=trace.problem.id,
            strategy=trace.strategy,
            answered=trace.answer is not None,
            error=trace.error.type if trace.error is not None else "",
            confidence=trace.confidence,
            solutions=len(trace.solutions),
            rejected_plans=rejected_plans,
            tokens=sum(usage.tokens for usage in trace.usage.values()),
            price=sum(usage.price for usage in trace.usage.values()),
            seconds=trace.timings.get("total"),
        )


def log_call(role: Role, reply: Any, seconds: float) -> None:
    """The line of one call, in the role's replica."""
    failed = isinstance(reply, CleaveError)
    tokens = 0 if failed else reply.usage.tokens
    _write("call", role=role, error=type(reply).__name__ if failed else "", tokens=tokens, seconds=seconds)


def _write(event: str, **fields: Any) -> None:
    logger.info(event, extra={name: round(value, 6) if isinstance(value, float) else value for name, value in fields.items()})
