"""What can be told of the requests of one replica while they are worked on: to metrics (serve/metrics.py), to the log (serve/event_log.py).

    app = create_app(Service(roles, limits, observer=Observers((Metrics(), EventLog()))), catalogue)

An observer is called from the event loop, after the fact; it must be quick and may not raise.
"""

from __future__ import annotations

from collections.abc import Sequence

from cleave.deferral import defer
from cleave.types import Trace


class Observer:
    """Takes no notice."""

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has ended. `route`: its template, such as /v1/traces/{name}. `status`: 499 where the client left before a reply."""

    def at_work(self, requests: int) -> None:
        """So many requests are being worked on now."""

    def first_text(self, seconds: float) -> None:
        """A stream has the first text of its answer, so long after it was admitted."""

    def answered(self, trace: Trace, rejected_plans: int) -> None:
        """A problem was reasoned out, with an answer or without; so many of the decomposer's plans were refused."""


class Observers(Observer):
    """Several at once."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        for observer in self._observers:
            observer.request(method, route, status, seconds)

    def at_work(self, requests: int) -> None:
        for observer in self._observers:
            observer.at_work(requests)

    def first_text(self, seconds: float) -> None:
        for observer in self._observers:
            observer.first_text(seconds)

    def answered(self, trace: Trace, rejected_plans: int) -> None:
        for observer in self._observers:
            observer.answered(trace, rejected_plans)


class Later(Observer):
    """Tells another one a moment later, so that no reply waits for it."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        defer(self._observer.request, method, route, status, seconds)

    def at_work(self, requests: int) -> None:
        defer(self._observer.at_work, requests)

    def first_text(self, seconds: float) -> None:
        defer(self._observer.first_text, seconds)

    def answered(self, trace: Trace, rejected_plans: int) -> None:
        defer(self._observer.answered, trace, rejected_plans)
