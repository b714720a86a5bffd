"""The canonical form of a short answer: two answers mean the same exactly if their canonical forms are the same string.

An answer is, in this order: a choice ("(B) Paris" → b), yes or no ("True" → yes), a number ("$1,200.00 per day" → 1200), a list
("[3, 4 and 5]" → 3, 4, 5; in order, unless written as a set in braces), mathematics ("x + 1" → x+1) or words ("The Beatles!" → beatles).
The form is a fixed point: the canonical form of a canonical form is itself. Left out: number words, synonyms, calendar arithmetic.
"""

import re
import unicodedata

from cleave.tasks import latex
from cleave.tasks.numbers import plain, quantity

MAX_CHARS = 10_000
MAX_PASSES = 10

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPT = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—−﹣－"), "-")
_QUOTES = {ord("‘"): "'", ord("’"): "'", ord("“"): '"', ord("”"): '"', ord("«"): '"', ord("»"): '"'}
_OPERATORS = {ord("×"): "*", ord("·"): "*", ord("⋅"): "*", ord("÷"): "/", ord("⁄"): "/", ord("&"): " and "}
_NARROW_SPACES = re.compile(r"(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_WRAPPERS = (("**", "**"), ("__", "__"), ("`", "`"), ('"', '"'), ("'", "'"), ("$", "$"), ("*", "*"), (r"\(", r"\)"), (r"\[", r"\]"))
_BRACED = re.compile(r"\\(?:boxed|fbox|text|mathrm|mathbf|textbf) ?\{([^{}]*)\}")
_LABEL = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])\))(?: (.*))?")
_NAMED_LABEL = re.compile(r"(?:option|choice) \(?([A-Za-z])\)?", re.IGNORECASE)
_ANOTHER_LABEL = re.compile(r"\([A-Za-z]\)")
_YES_NO = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_ASSIGNMENT = re.compile(r"[A-Za-z]? ?= ?(.+)")
_SEPARATOR = re.compile(r" ?(?:;|,(?![0-9]{3}(?![0-9]))|(?<![0-9]),) ?(?:and )?| and ", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{2,}")
_MATHEMATICS = re.compile(r"[+*^=<>\\]")
_ARTICLE = re.compile(r"(?:an?|the) (?=.)")
_CLOCK = re.compile(r"(?<=[0-9]) ?([ap])\.? ?m\b\.?")


def canonical(answer: str) -> str:
    """The canonical form of an answer; '' for an empty one. Texts longer than MAX_CHARS are compared by case and spacing only."""
    if len(answer) > MAX_CHARS:
        return " ".join(answer.casefold().split())
    text = answer
    for _ in range(MAX_PASSES):
        reduced = _reduce(text)
        if reduced == text:
            break
        text = reduced
    return text


def items(answer: str) -> list[str]:
    """The canonical forms of a list's members, in their order; one member for an answer that is no list."""
    text = _unwrap(_tidy(answer))
    for left, right in ("[]", "{}"):
        if text.startswith(left) and text.endswith(right):
            text = text[1:-1]
    return [form for part in _SEPARATOR.split(text) if (form := canonical(part))]


def is_set(answer: str) -> bool:
    """Whether an answer is written as a set, {a, b}: its members count in any order."""
    text = _unwrap(_tidy(answer))
    return len(text) > 2 and text.startswith("{") and text.endswith("}") and not set("(){}[]") & set(text[1:-1])


def set_form(answer: str) -> str:
    """An answer's members as a canonical set."""
    return "{" + ", ".join(sorted(items(answer))) + "}"


def _reduce(text: str) -> str:
    text = _unwrap(_tidy(text))
    if (choice := _choice(text)) is not None:
        return choice
    if (verdict := _YES_NO.get(text.lower())) is not None:
        return verdict
    if (value := quantity(text)) is not None:
        return plain(value)
    if (assigned := _ASSIGNMENT.fullmatch(text)) and quantity(assigned[1]) is not None:
        return assigned[1]
    if is_set(text):
        return set_form(text)
    if _is_list(text):
        return ", ".join(items(text))
    return _mathematics(text) if _is_mathematics(text) else _words(text)


def _tidy(text: str) -> str:
    """One spelling per character: no invisible characters, single spaces, plain dashes and quotes, 1½ as 1 1/2, x² as x^2."""
    text = _NARROW_SPACES.sub("", text)
    text = _SUPERSCRIPT.sub(lambda found: "^" + found[0].translate(_SUPERSCRIPTS), text)
    text = "".join(map(_spell_fraction, text)).translate(_DASHES | _QUOTES | _OPERATORS)
    text = unicodedata.normalize("NFKC", text).translate(_DASHES | _QUOTES | _OPERATORS)
    text = "".join(" " if char.isspace() else char for char in text if char.isspace() or unicodedata.category(char)[0] != "C")
    return " ".join((latex.to_plain(text) if "\\" in text else text).split())


def _spell_fraction(char: str) -> str:
    if not unicodedata.decomposition(char).startswith("<fraction>"):
        return char
    return f" {unicodedata.normalize('NFKC', char)}"


def _unwrap(text: str) -> str:
    """Without surrounding markup, quotes, brackets around a single value, and closing punctuation."""
    while (inner := _unwrap_once(text)) != text:
        text = inner
    return text


def _unwrap_once(text: str) -> str:
    text = text.strip()
    text = text if text.endswith("!") and text[-2:-1].isalnum() and not _WORD.search(text) else text.rstrip("!")
    text = text.rstrip(".,;:? ")
    for left, right in _WRAPPERS:
        inner = text[len(left) : -len(right)]
        if inner and text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right) - 1 and left not in inner:
            return inner
    if braced := _BRACED.fullmatch(text):
        return braced[1]
    if text.startswith("(") and text.endswith(")") and (_WORD.fullmatch(text[1:-1]) or quantity(text[1:-1]) is not None):
        return text[1:-1]
    return text


def _choice(text: str) -> str | None:
    if len(text) == 1 and text.isascii() and text.isalpha():
        return text.lower()
    if named := _NAMED_LABEL.fullmatch(text):
        return named[1].lower()
    label = _LABEL.fullmatch(text)
    if label is None or _ANOTHER_LABEL.search(label[3] or ""):
        return None
    return (label[1] or label[2]).lower()


def _is_list(text: str) -> bool:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    parts = _SEPARATOR.split(inner)
    return len(parts) > 1 and (not set("(){}[]") & set(inner) or all(map(_LABEL.fullmatch, parts)))


def _is_mathematics(text: str) -> bool:
    return not _WORD.search(text) or bool(_MATHEMATICS.search(text))


def _mathematics(text: str) -> str:
    return re.sub(r"(?<![^\W_]) | (?![^\W_])", "", text.casefold())


def _words(text: str) -> str:
    text = _CLOCK.sub(r" \1m", text.casefold()).replace("'", "")
    spaced = "".join(_keep(text, index) for index in range(len(text)))
    words = _ARTICLE.sub("", " ".join(spaced.split()), count=1)
    return words.replace(" ", "_") if quantity(words) is not None else words


def _keep(text: str, index: int) -> str:
    """A character of a text in words, or a space for punctuation that carries no meaning where it stands."""
    char = text[index]
    if char.isalnum() or char in "_#" or unicodedata.category(char)[0] == "M":
        return char
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    digits = (before.isdigit(), after.isdigit())
    inside_number = char in ".,:" and all(digits)
    beside_number = char in "-/" and any(digits)
    return char if inside_number or beside_number else " "
