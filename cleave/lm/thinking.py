"""Separating a reply from the reasoning that some models write before it."""

import re

_BLOCK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)
_OPEN, _CLOSE = "<think>", "</think>"


def strip_thinking(text: str) -> tuple[str, str]:
    """Return (visible, hidden): the reply without `<think>…</think>` blocks, and what they held.

    An open block without end hides the rest (the reply was cut off while thinking). An end without beginning hides what precedes
    it: many chat templates put the opening tag into the prompt.
    """
    hidden: list[str] = []
    before, closed, after = text.partition(_CLOSE)
    if closed and "<think>" not in before:
        hidden.append(before)
        text = after

    def take(match: re.Match[str]) -> str:
        hidden.append(match.group(1))
        return ""

    visible = _BLOCK.sub(take, text)
    if not hidden:
        return text, ""
    return visible.strip(), "\n".join(part.strip() for part in hidden)


class ThinkingFilter:
    """`strip_thinking` for a stream: holds text back while it belongs, or may belong, to a leading `<think>` block.

    An end without beginning cannot be known in advance and passes through.
    """

    def __init__(self) -> None:
        self._held: str | None = ""  # None: the visible part has begun

    def push(self, piece: str) -> str:
        """The visible part of what has come so far and was not returned yet."""
        if self._held is None:
            return piece
        self._held += piece
        start = self._held.lstrip()
        if start.startswith(_OPEN):
            _, closed, rest = start.partition(_CLOSE)
            self._held = rest if closed else start
            return self.push("") if closed else ""
        if _OPEN.startswith(start):
            return ""
        text, self._held = start, None
        return text

    def finish(self) -> str:
        """What was held back and turned out to be visible: the beginning of a tag that never came."""
        text, self._held = self._held or "", None
        return "" if text.lstrip().startswith(_OPEN) else text
