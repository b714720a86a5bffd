"""What one piece of work tells the observer: when its first text was there, how many plans were refused, how it ended."""

from __future__ import annotations

import time

from cleave.errors import ParseError
from cleave.events import Event, Failed
from cleave.types import Failure, Trace
from serve.observer import Observer


class Account:
    """One problem, or one reply of a single role."""

    def __init__(self, observer: Observer, *, streams: bool) -> None:
        """`streams`: somebody waits for its first text."""
        self._observer, self._waits, self._start = observer, streams, time.perf_counter()
        self._rejected = 0

    def has_text(self) -> None:
        """There is text of the answer to show."""
        if self._waits:
            self._waits = False
            self._observer.first_text(time.perf_counter() - self._start)

    def note(self, event: Event) -> None:
        """Something happened. What fails the problem as a whole is read from its trace."""
        if isinstance(event, Failed) and not event.final and _is_rejected(event.failure):
            self._rejected += 1

    def close(self, trace: Trace) -> None:
        """The problem is done with."""
        if trace.answer is not None:
            self.has_text()
        whole = trace.error is not None and _is_rejected(trace.error)
        self._observer.answered(trace, max(self._rejected, int(whole)))


def _is_rejected(failure: Failure) -> bool:
    return failure.role == "decomposer" and failure.type == ParseError.__name__
