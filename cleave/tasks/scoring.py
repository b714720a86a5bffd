"""The strict final-answer rule, which every headline figure uses, and the papers' lenient rule, shown beside it.

Strict: only the final answer counts, that is the text after the last final-answer marker, or the given answer itself; it must mean
the same as the gold answer (canonical.py). Lenient: any token of the whole reply may hit, as the released scorers of Divide-or-Conquer
(arXiv 2402.15000) do it; on OpenAI's released GSM8K solutions that adds 5.6 to 7.4 points of wrong answers counted as right.
"""

import re

from cleave.tasks import canonical, latex
from cleave.tasks.numbers import quantity

MAX_MARKERS = 8

_MARKER = re.compile(
    r"(?P<box>\\boxed ?\{)"
    r"|(?<!\#)\#{4}(?!\#)"
    r"|\bthe (?:final |correct )?answer is(?![A-Za-z])(?:[ \t]*:)?"
    r"|^[ \t*]*(?:final )?answer[ \t*]*:"
    r"|^(?-i:A:[ \t]*)+",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"[.!]\s+(?=[A-Z])")
_CALCULATION = re.compile(r"<<[^<>]*>>")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9])")


def final_answer(text: str) -> str | None:
    """The text after the last marker (`The answer is:`, `#### `, a line `A:` or `Answer:`, `\\boxed{}`), None if there is none.

    It ends with its line (the next written line if the marker ends one), with the box, or with the sentence after a number.
    """
    return _marked(text) or None


def normalise(answer: str) -> str:
    """The canonical form of an answer, of its final answer if it holds a marker. Equal forms are equal answers: votes cluster by it."""
    return canonical.canonical(_final(answer))


def equal(gold: str, answer: str) -> bool:
    """Whether an answer means the same as the gold answer.

    Equal means equal canonical forms, with two exceptions that the gold alone can grant: a gold set `{a, b}` accepts its members in any
    order, and a LaTeX gold accepts what math-verify finds equal.
    """
    form = normalise(answer)
    if normalise(gold) == form:
        return True
    if len(answer) > canonical.MAX_CHARS:
        return False
    if canonical.is_set(gold):
        return canonical.set_form(gold) == canonical.set_form(_final(answer))
    return latex.is_latex(gold) and latex.equivalent(_final(gold), _final(answer))


def lenient(gold: str, text: str) -> bool:
    """Whether a whole reply passes the any-token rule: some token, cut at its first point, is the gold number, or the gold words occur."""
    found = final_answer(text)
    if found is not None and equal(gold, found):
        return True
    reply = _CALCULATION.sub("", text)
    if quantity(gold.strip()) is None:
        wanted = " ".join(gold.casefold().split())
        return bool(wanted) and wanted in " ".join(reply.casefold().split())
    wanted = _token(gold.strip(), cut=False)
    return any(_token(token) == wanted for token in reply.split())


def _final(answer: str) -> str:
    """The marked final answer, the whole text where nothing is marked, '' where a marker is followed by nothing."""
    found = _marked(answer)
    return answer if found is None else found


def _marked(text: str) -> str | None:
    """What the last marker marks, '' for nothing, None without a marker. A marker directly after another is passed over too."""
    found = None
    for _ in range(MAX_MARKERS):
        markers = list(_MARKER.finditer(text))
        if not markers:
            break
        rest = text[markers[-1].end() :]
        text = found = _box(rest) if markers[-1]["box"] else _line(rest)
    return found


def _token(token: str, cut: bool = True) -> str:
    token = _THOUSANDS.sub("", token.replace("$", ""))
    return token.split(".")[0] if cut else token


def _line(rest: str) -> str:
    line = rest.lstrip().partition("\n")[0].strip()
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    return sentence if sentence != line and quantity(sentence.strip("*$ ")) is not None else line


def _box(rest: str) -> str:
    """The contents of a box whose opening brace was just read; '' if it never closes."""
    depth = 1
    for index, char in enumerate(rest):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return rest[:index].strip()
    return ""
