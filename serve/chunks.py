"""The chunks of a streamed completion, of a chat or of plain text, in the form that every OpenAI client takes.

    writer = ChatWriter(put, "cleave", include_usage=True)
    writer.text(0, "1. 12 + 7 = 19")
    writer.close(completion)                       # the whole reply: what was not sent yet, ends, usage, [DONE]

Each choice begins with its role and ends with its `finish_reason`; the last end also carries the vendor field `cleave`. Where the client
asked for events, they come in chunks without choices, in the field `cleave`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from serve.completion import new_id
from serve.event_stream import DONE, Put
from serve.schema import ChatChoice, ChatCompletion
from serve.shown import Shown
from serve.text_schema import TextChoice, TextCompletion

C = TypeVar("C", ChatCompletion, TextCompletion)


class Writer(Generic[C]):
    """Puts chunks. A subclass says what they look like."""

    kind: str
    prefix: str

    def __init__(self, put: Put, model: str, *, include_usage: bool, stop: Sequence[str] = (), as_written: bool = False) -> None:
        """`stop` and `as_written`: see Shown."""
        self._put = put
        self._usage = {"usage": None} if include_usage else {}
        self.id = new_id(self.prefix)
        self._head = {"id": self.id, "object": self.kind, "created": int(time.time()), "model": model}
        self._new = partial(Shown, stop, as_written=as_written)
        self._shown: dict[int, Shown] = {}

    def text(self, index: int, piece: str) -> None:
        """The text of a choice grows."""
        if part := self._begun(index).push(piece):
            self._chunk(self.delta(index, part))

    def event(self, data: dict[str, Any]) -> None:
        """Something happened that belongs to no text."""
        self._put({**self._head, "choices": [], **self._usage, "cleave": data})

    def close(self, completion: C) -> None:
        """The reply is whole."""
        self._head["system_fingerprint"] = completion.system_fingerprint
        for choice in completion.choices:
            rest = self._begun(choice.index).finish(self.whole(choice))
            for delta in self.last_deltas(choice, rest):
                self._chunk(delta)
            note = {"cleave": completion.cleave.model_dump()} if choice is completion.choices[-1] else {}
            self._chunk(self.end(choice), **note)
        if self._usage:
            self._put({**self._head, "choices": [], "usage": completion.usage.model_dump()})
        self._put(DONE)

    def _begun(self, index: int) -> Shown:
        if index not in self._shown:
            self._shown[index] = self._new()
            self.begin(index)
        return self._shown[index]

    def _chunk(self, choice: dict[str, Any], **more: Any) -> None:
        self._put({**self._head, "choices": [choice], **self._usage, **more})

    def begin(self, index: int) -> None:
        """Before the first text of a choice."""

    def delta(self, index: int, text: str) -> dict[str, Any]:
        """A choice that grows by a text."""
        raise NotImplementedError

    def whole(self, choice: Any) -> str:
        """All of a choice's text."""
        raise NotImplementedError

    def last_deltas(self, choice: Any, rest: str) -> list[dict[str, Any]]:
        """What is still to be sent of a choice."""
        raise NotImplementedError

    def end(self, choice: Any) -> dict[str, Any]:
        """A choice that has ended."""
        raise NotImplementedError


class ChatWriter(Writer[ChatCompletion]):
    """Chunks of /v1/chat/completions."""

    kind = "chat.completion.chunk"
    prefix = "chatcmpl"

    def begin(self, index: int) -> None:
        self._chunk(_chat(index, {"role": "assistant", "content": ""}))

    def delta(self, index: int, text: str) -> dict[str, Any]:
        return _chat(index, {"content": text})

    def whole(self, choice: ChatChoice) -> str:
        return choice.message.content or ""

    def last_deltas(self, choice: ChatChoice, rest: str) -> list[dict[str, Any]]:
        """Tokens are reported in one piece, with the rest of the text."""
        deltas = []
        if rest or choice.logprobs is not None:
            tokens = None if choice.logprobs is None else choice.logprobs.model_dump()
            deltas.append(_chat(choice.index, {"content": rest}, logprobs=tokens))
        if choice.message.refusal is not None:
            deltas.append(_chat(choice.index, {"refusal": choice.message.refusal}))
        return deltas

    def end(self, choice: ChatChoice) -> dict[str, Any]:
        return _chat(choice.index, {}, finish_reason=choice.finish_reason)


class TextWriter(Writer[TextCompletion]):
    """Chunks of /v1/completions."""

    kind = "text_completion"
    prefix = "cmpl"

    def delta(self, index: int, text: str) -> dict[str, Any]:
        return _text(index, text)

    def whole(self, choice: TextChoice) -> str:
        return choice.text

    def last_deltas(self, choice: TextChoice, rest: str) -> list[dict[str, Any]]:
        if not rest and choice.logprobs is None:
            return []
        return [_text(choice.index, rest, logprobs=None if choice.logprobs is None else choice.logprobs.model_dump())]

    def end(self, choice: TextChoice) -> dict[str, Any]:
        return _text(choice.index, "", finish_reason=choice.finish_reason)


def _chat(index: int, delta: dict[str, Any], *, finish_reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _text(index: int, text: str, *, finish_reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
