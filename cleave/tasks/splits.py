"""Whether two sets of problems share questions: the check against training on what is tested."""

import re
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b

from cleave.types import Problem

_NOT_WORD = re.compile(r"[\W_]+")


def fingerprint(problem: Problem) -> bytes:
    """Eight bytes of a hash of context and question; case, spacing and punctuation do not count."""
    words = _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", problem.text).casefold()).strip()
    return blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def overlap(left: Iterable[Problem], right: Iterable[Problem]) -> list[tuple[str, str]]:
    """Pairs of ids (left, right) of problems that ask the same. `left` is held as hashes and ids, `right` is streamed."""
    seen = {fingerprint(problem): problem.id for problem in left}
    return [(seen[key], problem.id) for problem in right if (key := fingerprint(problem)) in seen]
