"""What of a growing text may be shown: never what would have to be taken back.

A reply is shown without white space around it and ends before the first stop string. So white space at the end is held back, and
whatever may be the beginning of a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence


class Shown:
    """One text. `push` gives the next part to show, `finish` the rest of it."""

    def __init__(self, stop: Sequence[str] = (), *, as_written: bool = False) -> None:
        """`as_written`: white space around the text is shown too."""
        self._stop, self._as_written = stop, as_written
        self._text = ""
        self._sent = ""

    def push(self, piece: str) -> str:
        """The text has grown by `piece`."""
        self._text += piece
        text = self._text if self._as_written else self._text.lstrip()
        kept = cut(text, self._stop)
        if kept == text:
            kept = self._safe(text)
        return self._send(kept if self._as_written else kept.rstrip())

    def finish(self, text: str) -> str:
        """The text is complete, as it is shown. What was sent of another text stays, as it cannot be taken back."""
        return self._send(text)

    def _safe(self, text: str) -> str:
        held = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return text[: len(text) - held]

    def _send(self, text: str) -> str:
        if not text.startswith(self._sent):
            return ""
        part = text[len(self._sent) :]
        self._sent = text
        return part


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]
