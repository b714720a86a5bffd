"""LaTeX answers: simple notation turned into plain text, and mathematical equality through math-verify where that is installed.

math-verify parses with a grammar and never evaluates Python. Its own timeouts need the main thread, so they are off; in their place
only short expressions of a known, harmless vocabulary are handed over (`is_tame`): few variables, no sums, factorials or towers of
powers, since an innocent-looking (x+1)^{999} keeps the simplifier busy for minutes.
"""

import logging
import re
from functools import cache
from importlib.util import find_spec
from math import prod

MAX_CHARS = 120
MAX_DIGITS = 12
MAX_LETTERS = 4
MAX_DEPTH = 5
MAX_NUMBER_POWER = 1000
MAX_POWER = 12

_ALLOWED = frozenset(
    "frac dfrac tfrac sqrt pi cdot times div left right text mathrm mathbf textbf infty cup cap in le leq ge "
    "geq ne neq pm mp begin end circ alpha beta gamma theta lambda mu quad".split()
)
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_POWER = re.compile(r"(?P<base>.?) ?\^ ?(?:\{ ?(?P<braced>[^{}]*)\}|(?P<bare>-?(?:[0-9]+|.)))")
_SMALL_POWER = re.compile(r" ?-?(?:[0-9]{1,3}|[a-z]|\\circ|[0-9]{1,2}/[0-9]{1,2}) ?")
_SPACING = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|~")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|operatorname|mbox)\{([^{}]*)\}")
_FRACTION = re.compile(r"([0-9]?)\\[dt]?frac ?\{ ?(-?[0-9.,]+) ?\} ?\{ ?([0-9.,]+) ?\}")
_SHORT_FRACTION = re.compile(r"([0-9]?)\\[dt]?frac ?([0-9]) ?([0-9])")
_SYMBOLS = {r"\$": "$", r"\%": "%", r"\{": "{", r"\}": "}", r"\cdot": "*", r"\times": "*", r"\div": "/", r"^\circ": "°", r"^{\circ}": "°"}


def is_latex(text: str) -> bool:
    """Whether a text uses LaTeX commands or braced powers."""
    return bool(_COMMAND.search(text)) or "^{" in text or "_{" in text


def to_plain(text: str) -> str:
    """Simple notation as plain text: spacing and \\text dropped, number fractions as a/b, escaped signs as themselves."""
    text = _SPACING.sub(" ", text)
    text = _TEXT.sub(r" \1 ", text)
    for pattern in (_FRACTION, _SHORT_FRACTION):
        text = pattern.sub(lambda found: f"{found[1]} {found[2]}/{found[3]}" if found[1] else f"{found[2]}/{found[3]}", text)
    for symbol, sign in _SYMBOLS.items():
        text = text.replace(symbol, sign)
    return " ".join(text.split())


def equivalent(gold: str, answer: str) -> bool:
    """Whether math-verify finds two expressions equal; False where it is not installed or either expression is not tame."""
    if not (has_math_verify() and is_tame(gold) and is_tame(answer)):
        return False
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns at each call that its timeouts are off
    parsed = [parse(f"${_bare(text)}$", parsing_timeout=None) for text in (gold, answer)]
    return all(parsed) and bool(verify(*parsed, timeout_seconds=None))


@cache
def has_math_verify() -> bool:
    """Whether math-verify can be imported."""
    return find_spec("math_verify") is not None


def is_tame(text: str) -> bool:
    """Whether an expression is safe to evaluate without a deadline: short, known commands, few variables, small numbers and powers.

    Trigonometry and logarithms are not: simplifying them took minutes on short random expressions.
    """
    if not 0 < len(text) <= MAX_CHARS or "!" in text or "**" in text:
        return False
    if any(command not in _ALLOWED for command in _COMMAND.findall(text)):
        return False
    if re.search(rf"[0-9]{{{MAX_DIGITS + 1},}}", text):
        return False
    if _depth(text) > MAX_DEPTH or len(set(filter(str.isalpha, _COMMAND.sub("", text)))) > MAX_LETTERS:
        return False
    return _has_small_powers(text)


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _has_small_powers(text: str) -> bool:
    """Whether all powers are plain ones and their products stay small: of numbers up to MAX_NUMBER_POWER, of anything else MAX_POWER."""
    found = list(_POWER.finditer(text))
    exponents = [power["braced"] if power["braced"] is not None else power["bare"] for power in found]
    if text.count("^") != len(found) or not all(_SMALL_POWER.fullmatch(exponent) for exponent in exponents):
        return False
    sizes = [max(map(int, re.findall("[0-9]+", exponent)), default=1) for exponent in exponents]
    others = [size for size, power in zip(sizes, found, strict=True) if not power["base"].isdigit()]
    return prod(sizes) <= MAX_NUMBER_POWER and prod(others) <= MAX_POWER


def _bare(text: str) -> str:
    return text.strip().strip("$").removeprefix(r"\(").removesuffix(r"\)").strip()
