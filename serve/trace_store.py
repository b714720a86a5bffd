"""The last traces, for who asked: bounded in number and in bytes, the oldest go first. Pure bookkeeping, for one thread."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice

from cleave.config.serve import TracesConfig


class TraceStore:
    """Documents by id, each seen by its own key only."""

    def __init__(self, config: TracesConfig) -> None:
        self._config = config
        self._kept: OrderedDict[str, tuple[str, str, int]] = OrderedDict()
        self._bytes = self._last = 0

    def keep(self, key: str, name: str, document: str) -> None:
        """Keep a document under a name, as that of a key. One that alone is too large is not kept."""
        self._drop(name)
        self._last += 1
        self._kept[name] = (key, document, self._last)
        self._bytes += _size(document)
        while self._kept and (len(self._kept) > self._config.max_traces or self._bytes > self._config.max_bytes):
            self._drop(next(iter(self._kept)))

    def get(self, key: str, name: str) -> str | None:
        """The document, if it is there and this key's."""
        owner, document, _ = self._kept.get(name, ("", None, 0))
        return document if owner == key else None

    def since(self, number: int, most: int) -> list[tuple[int, str]]:
        """Documents of all keys that were kept after that one, the oldest first, with their numbers. For who runs the application."""
        found = ((each, document) for _, document, each in self._kept.values() if each > number)
        return list(islice(found, most))

    def _drop(self, name: str) -> None:
        _, document, _ = self._kept.pop(name, ("", "", 0))
        self._bytes -= _size(document)


def _size(document: str) -> int:
    return len(document.encode())
