"""The strict final-answer rule (thin first form)."""

import re


def final_answer(text: str) -> str | None:
    """Text after the last final-answer marker, None without one."""
    found = re.findall(r"(?m)(?:The answer is:|^A:|####)[ \t]*(.+)$", text)
    return found[-1].strip() if found else None


def normalise(answer: str) -> str:
    """Canonical form of an answer."""
    return answer.strip().rstrip(".").replace(",", "").lower()


def equal(gold: str, answer: str) -> bool:
    """Whether an answer is the gold answer."""
    return normalise(gold) == normalise(answer)


def lenient(gold: str, text: str) -> bool:
    """Whether any token of a reply is the gold answer."""
    return any(equal(gold, token) for token in text.split())
