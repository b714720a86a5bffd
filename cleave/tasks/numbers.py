"""Numbers as people and models write them, read exactly (as fractions, never floats) and in bounded time.

Read: signs, thousands commas, decimals, fractions and mixed fractions, scientific notation, currency signs, percent, scale words (million)
and trailing units. A percent sign and a unit are dropped: "20%" is 20, not 0.2, and "5 km" is 5. Left out: number words ("eight"),
conversion between units, arithmetic. More digits than MAX_DIGITS or a larger exponent than MAX_EXPONENT is not read as a number.
"""

import re
from fractions import Fraction

MAX_DIGITS = 200
MAX_EXPONENT = 200
MAX_UNIT_WORDS = 5

_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"(?P<whole>{_INTEGER})(?: and | )(?P<top>[0-9]+) ?/ ?(?P<bottom>[0-9]+)(?![0-9/])"
    rf"|(?P<numerator>{_INTEGER}) ?/ ?(?P<denominator>{_INTEGER})(?![0-9/])"
    rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[-+]?[0-9]+)| ?[x*×] ?10 ?\^ ?[({{]?(?P<power>[-+]?[0-9]+)[)}}]?)?"
)
_CURRENCY = r"(?:us\$|[$€£¥₹₩¢]|(?:usd|eur|gbp|inr|rs\.?)(?= ?[-+.0-9]))"
_LEAD = re.compile(rf"(?P<sign>[-+]?) ?(?:{_CURRENCY})? ?(?P<inner>[-+]?) ?(?=[.0-9])", re.IGNORECASE)
_SIGN_UNIT = re.compile(r"(?:%|¢|[$€£¥₹₩]|° ?[cfCF]?(?![^\W_]))")
_UNIT_WORD = re.compile(r"[^\W\d_]+(?:[-/'*][^\W\d_]+)*(?:\^-?[0-9])?")
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_LETTER_UNITS = frozenset("mgslhdwvkcfan")
_ATTACHED_UNITS = frozenset(
    "m g l h s mm cm dm km nm mg kg lb lbs oz ft yd mi ml dl cl hr hrs min mins sec secs ms kb mb gb tb mph "
    "kmh kph hz khz mhz ghz kw kwh kj kcal cal usd eur gbp inr km/h m/s cents dollars percent".split()
)
# Words after which a number means something else than "so many of these": clock times, eras, directions, arithmetic, alternatives.
_NOT_UNITS = frozenset(
    "am pm bc bce ad ce north south east west below minus plus or to and than factorial squared cubed th st nd rd".split()
)


def quantity(text: str) -> Fraction | None:
    """The value of a text that is one number with optional sign, currency, scale word and unit; None for any other text."""
    lead = _LEAD.match(text)
    number = _NUMBER.match(text, lead.end()) if lead else None
    if lead is None or number is None:
        return None
    value = _value(number)
    factor = _unit_factor(text[number.end() :])
    if value is None or factor is None:
        return None
    negative = (lead["sign"] == "-") != (lead["inner"] == "-")
    return (-value if negative else value) * factor


def plain(value: Fraction) -> str:
    """The one canonical way to write a value: an integer or finite decimal where there is one, else `numerator/denominator`."""
    places = _decimal_places(value.denominator)
    if places is None:
        return f"{value.numerator}/{value.denominator}"
    if places == 0:
        return str(value.numerator)
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _value(number: re.Match[str]) -> Fraction | None:
    if sum(map(str.isdigit, number[0])) > MAX_DIGITS:
        return None
    if number["whole"]:
        part = _ratio(number["top"], number["bottom"])
        return None if part is None else _integer(number["whole"]) + part
    if number["numerator"]:
        return _ratio(number["numerator"], number["denominator"])
    exponent = int(number["exponent"] or number["power"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    return Fraction(number["decimal"].replace(",", "").rstrip(".")) * Fraction(10) ** exponent


def _ratio(numerator: str, denominator: str) -> Fraction | None:
    bottom = _integer(denominator)
    return Fraction(_integer(numerator), bottom) if bottom else None


def _integer(digits: str) -> int:
    return int(digits.replace(",", ""))


def _unit_factor(rest: str) -> int | None:
    """What a number's tail multiplies it by: 1 for a unit or nothing, more for scale words, None if the tail is no unit."""
    factor = 1
    words = rest.split()
    attached = rest[:1] not in ("", " ")
    while words and not attached and words[0].lower() in _SCALES:
        factor *= _SCALES[words.pop(0).lower()]
        if factor > 10**MAX_EXPONENT:
            return None
    if words and (sign := _SIGN_UNIT.match(words[0])):
        words[0] = words[0][sign.end() :]
        attached = bool(words[0])
        words = words if attached else words[1:]
    return factor if _is_unit(words, attached) else None


def _is_unit(words: list[str], attached: bool) -> bool:
    if len(words) > MAX_UNIT_WORDS:
        return False
    if attached and words and words[0].lower().split("^")[0] not in _ATTACHED_UNITS:
        return False
    return all(_is_unit_word(word.rstrip(".")) for word in words)


def _is_unit_word(word: str) -> bool:
    """Lower-case words are taken for units, so that "12 Angry Men" stays a title; known units may be written in capitals."""
    lower = word.lower()
    if lower in _NOT_UNITS or not _UNIT_WORD.fullmatch(word):
        return False
    base = lower.split("^")[0]
    return base in _LETTER_UNITS if len(base) == 1 else base in _ATTACHED_UNITS or word.islower()


def _decimal_places(denominator: int) -> int | None:
    """Digits after the point of a fraction in lowest terms with this denominator; None if they never end."""
    counts = []
    for prime in (2, 5):
        count = 0
        while denominator % prime == 0:
            denominator //= prime
            count += 1
        counts.append(count)
    return max(counts) if denominator == 1 else None
