"""Whether a plan speaks of what its problem speaks of.

A small model puts names together from parts of two others, and a plan about nobody cannot be followed. Such plans are found without a
model: they hold a capitalised word or a number that is nowhere in the problem. Left out: what is done about them (actors/decomposer.py).
"""

from __future__ import annotations

import re

from cleave.types import Plan, Problem

_WORD = re.compile(r"(?<![#\w])(?:[^\W\d_]+|\d+(?:[.,]\d+)*)")
"""A word or a number; what follows a # is a reference."""


def strangers(plan: Plan, problem: Problem) -> frozenset[str]:
    """Capitalised words and numbers of the sub-questions that are nowhere in the problem, in whatever case. A sub-question's first word
    is written with a capital anyway and does not count. Numbers that a problem spells out (`a dozen`) are strangers as digits."""
    known = {_plain(word) for word in _WORD.findall(problem.text)}
    return frozenset(word for step in plan.steps for word in _named(step.question) if _plain(word) not in known)


def _named(question: str) -> list[str]:
    words = [(match.start(), match.group()) for match in _WORD.finditer(question.strip())]
    return [word for start, word in words if word[0].isdigit() or (start > 0 and word[0].isupper())]


def _plain(word: str) -> str:
    return word.casefold().replace(",", "")
