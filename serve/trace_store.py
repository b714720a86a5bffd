"""The last traces, for who asked: bounded in number and in bytes, the oldest go first. Pure bookkeeping, for one thread."""

from __future__ import annotations

from collections import OrderedDict

from cleave.config.serve import TracesConfig


class TraceStore:
    """Documents by id, each seen by its own key only."""

    def __init__(self, config: TracesConfig) -> None:
        self._config = config
        self._kept: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._bytes = 0

    def keep(self, key: str, name: str, document: str) -> None:
        """Keep a document under a name, as that of a key. One that alone is too large is not kept."""
        self._drop(name)
        self._kept[name] = (key, document)
        self._bytes += _size(document)
        while self._kept and (len(self._kept) > self._config.max_traces or self._bytes > self._config.max_bytes):
            self._drop(next(iter(self._kept)))

    def get(self, key: str, name: str) -> str | None:
        """The document, if it is there and this key's."""
        owner, document = self._kept.get(name, ("", None))
        return document if owner == key else None

    def _drop(self, name: str) -> None:
        _, document = self._kept.pop(name, ("", ""))
        self._bytes -= _size(document)


def _size(document: str) -> int:
    return len(document.encode())
