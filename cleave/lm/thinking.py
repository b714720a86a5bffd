"""Separating a reply from the reasoning that some models write before it."""

import re

_BLOCK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)
_CLOSE = "</think>"


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
