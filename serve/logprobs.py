"""Tokens with their log-probabilities in OpenAI's two forms: one object per token (chat), or one list per property (completions)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from serve.model_calls import Spoken, Token


class TopLogprob(BaseModel):
    """A token that could have come."""

    token: str
    logprob: float
    bytes: list[int] | None
    """UTF-8; None: the token is a part of a character."""


class TokenLogprob(TopLogprob):
    """A token that came, and those that were likely in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """The tokens of a choice."""

    content: list[TokenLogprob]
    refusal: None = None


class TextLogprobs(BaseModel):
    """The tokens of a choice. None in place of the first token's figures, where there is a prompt's."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


def of_chat(spoken: Spoken) -> ChatLogprobs:
    """The tokens of a chat choice."""
    return ChatLogprobs(
        content=[
            TokenLogprob(
                token=token.text,
                logprob=token.logprob or 0.0,
                bytes=_bytes(token.text),
                top_logprobs=[TopLogprob(token=text, logprob=value, bytes=_bytes(text)) for text, value in token.top],
            )
            for token in spoken.tokens
        ]
    )


def of_text(spoken: Spoken, *, with_top: bool) -> TextLogprobs:
    """The tokens of a text. As OpenAI's, the alternatives of a place include the token that came; the first token of a prompt has neither
    a log-probability nor alternatives."""
    return TextLogprobs(
        tokens=[token.text for token in spoken.tokens],
        token_logprobs=[token.logprob for token in spoken.tokens],
        top_logprobs=[_alternatives(token) for token in spoken.tokens] if with_top else None,
        text_offset=_offsets(spoken.tokens),
    )


def _alternatives(token: Token) -> dict[str, float] | None:
    """By text. Of tokens that look alike, the likeliest counts."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for text, value in (*token.top, (token.text, token.logprob)):
        found[text] = max(value, found.get(text, value))
    return found


def _offsets(tokens: Sequence[Token]) -> list[int]:
    """Where each token begins, in characters."""
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    return offsets


def _bytes(text: str) -> list[int] | None:
    return None if "\ufffd" in text else list(text.encode())
