"""What counts as a question: one rule for the command line and for HTTP."""

from __future__ import annotations

import unicodedata

from cleave.errors import DataError
from cleave.seeds import derive_seed
from cleave.types import Problem

MAX_BYTES = 64 * 1024
"""Longest question, in bytes of UTF-8."""
_ALLOWED_CONTROLS = frozenset("\n\t")


def check_question(question: str | bytes) -> str:
    """Return the question as clean text: decoded, line ends as newlines, no blanks around it.

    Raises DataError for a question that is empty, longer than 64 KiB, not UTF-8, or holds control characters.
    """
    text = _decoded(question).replace("\r\n", "\n").strip()
    if not text:
        raise DataError("the question is empty; write what you want to know.")
    for character in text:
        if unicodedata.category(character) == "Cc" and character not in _ALLOWED_CONTROLS:
            raise DataError(f"the question holds the control character U+{ord(character):04X}; send plain text.")
    return text


def problem_of(question: str) -> Problem:
    """A problem that nobody prepared. Its id, and with it its seeds, depend on the checked question alone."""
    return Problem(id=f"ask-{derive_seed('question', question):012x}", question=question)


def _decoded(question: str | bytes) -> str:
    try:
        raw = question if isinstance(question, bytes) else question.encode("utf-8")
        if len(raw) > MAX_BYTES:
            raise DataError(f"the question is longer than {MAX_BYTES // 1024} KiB; ask something shorter.")
        return raw.decode("utf-8")
    except UnicodeError as error:
        raise DataError("the question is not UTF-8; convert it first, for instance with iconv.") from error
