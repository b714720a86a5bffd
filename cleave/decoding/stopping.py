"""Where a reply ends: stop strings, also across token borders, found without decoding every row at every step.

A stop string can only be completed by a token that contributes its last character. Whether a token can do so is worked out once per
token id; only then is the row decoded and searched.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def text_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """Decoded text without special tokens and without cosmetic changes to spaces."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def cut(text: str, stops: Sequence[str]) -> str | None:
    """The text before the earliest stop string, None if there is none."""
    found = [index for index in (text.find(stop) for stop in stops) if index >= 0]
    return text[: min(found)] if found else None


class StopStrings:
    """Watches replies for `stops`. Keeps one fact per token id, nothing per reply."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self.stops = tuple(stop for stop in stops if stop)
        self._tokenizer = tokenizer
        self._last = {stop[-1] for stop in self.stops}
        self._may_end: dict[int, bool] = {}

    def check(self, tokens: Sequence[int]) -> str | None:
        """The finished reply's text if the last token completed a stop string, else None."""
        if not self.stops or not self._suspicious(tokens[-1]):
            return None
        return cut(text_of(self._tokenizer, tokens), self.stops)

    def _suspicious(self, token: int) -> bool:
        known = self._may_end.get(token)
        if known is None:
            # Twice in a row: many tokenizers drop a leading space at the start of a text only.
            piece = text_of(self._tokenizer, (token, token))
            # U+FFFD: part of a character whose other bytes are in other tokens.
            known = self._may_end[token] = "\ufffd" in piece or not self._last.isdisjoint(piece)
        return known


class TextStream:
    """Turns a growing list of tokens into pieces of text that never have to be taken back."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stop for stop in stops if stop)
        self._sent = ""

    def push(self, tokens: Sequence[int]) -> str:
        """The next piece, empty while the end of the text may still become a stop string or half a character."""
        text = text_of(self._tokenizer, tokens).rstrip("\ufffd")
        before = cut(text, self._stops)
        return self._send(self._safe(text) if before is None else before)

    def finish(self, text: str) -> str:
        """The rest of the finished reply."""
        return self._send(text)

    def _safe(self, text: str) -> str:
        held = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return text[: len(text) - held]

    def _send(self, text: str) -> str:
        piece = text[len(self._sent) :]
        self._sent += piece
        return piece
