"""How many requests one ingress replica works on at the same time: further ones are refused at once, before they hold memory.

Fair between keys: once several keys have asked, the last quarter of the places is kept for those that hold less than their equal share, so
that no key takes all places. Without keys there is nobody to be fair to.

Requests of batches (serve/batch_worker.py) borrow places that nobody else wants: they never take one from a request over HTTP, and each of
those takes one from them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from serve.failures import ApiError

SHARED = 0.75
"""Share of the places that any key may take."""


class Admission:
    """Counts the requests at work. For one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._holds: Counter[str] = Counter()
        self._known: set[str] = set()
        self._borrowed = 0
        self._left = asyncio.Event()

    @property
    def at_work(self) -> int:
        """Requests over HTTP."""
        return self._holds.total()

    async def borrow(self, places: int) -> None:
        """Wait until less than so many requests are at work, borrowed places included, and hold one until it is given back."""
        while self.at_work + self._borrowed >= places:
            self._left.clear()
            await self._left.wait()
        self._borrowed += 1

    def give_back(self) -> None:
        """A borrowed place is free again."""
        self._borrowed -= 1
        self._left.set()

    @contextmanager
    def admit(self, key: str = "") -> Iterator[None]:
        """Hold a place for the body of the `with`. Raises ApiError 429 when there is none for this key."""
        self._known.add(key)
        if self.at_work >= self.limit:
            raise ApiError(429, f"the server is at work on {self.limit} requests; try again a little later.", "overloaded")
        if self.at_work >= self.limit * SHARED and self._holds[key] >= self.limit / len(self._known):
            message = (
                f"{self._holds[key]} requests of this key are at work, and the other places are kept for others; try again a little later."
            )
            raise ApiError(429, message, "overloaded")
        self._holds[key] += 1
        try:
            yield
        finally:
            self._holds[key] -= 1
            if not self._holds[key]:
                del self._holds[key]
            self._left.set()
