"""How many requests one ingress replica works on at the same time: further ones are refused at once, before they hold memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serve.failures import ApiError


class Admission:
    """Counts the requests at work. For one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.at_work = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place for the body of the `with`. Raises ApiError 429 when there is none."""
        if self.at_work >= self.limit:
            raise ApiError(429, f"the server is at work on {self.limit} requests; try again a little later.", "overloaded")
        self.at_work += 1
        try:
            yield
        finally:
            self.at_work -= 1
