"""From chat messages to a question with its context.

The question is the last message, which must be the user's. What comes before it is context, nothing is dropped: system and developer
messages as they are, earlier turns as `User: …` and `Assistant: …` lines. Models that were trained on bare questions, such as the
reference models, answer best without either.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve.failures import refused
from serve.schema import ChatMessage

SPEAKERS = {"user": "User: ", "assistant": "Assistant: ", "system": "", "developer": ""}


def read(messages: Sequence[ChatMessage]) -> tuple[str, str]:
    """(question, context). Raises ApiError 400 unless the last message is the user's and not empty."""
    *earlier, last = messages
    if last.role != "user":
        raise refused(f"the last message is the {last.role}'s; it must be the user's question.", f"messages.{len(earlier)}.role")
    question = text_of(last)
    if not question.strip():
        raise refused("the last message is empty; ask something.", f"messages.{len(earlier)}.content", "empty_question")
    lines = (SPEAKERS[message.role] + text_of(message).strip() for message in earlier if text_of(message).strip())
    return question, "\n".join(lines)


def text_of(message: ChatMessage) -> str:
    """The message's text; pieces are joined by line breaks."""
    return message.content if isinstance(message.content, str) else "\n".join(part.text for part in message.content)
