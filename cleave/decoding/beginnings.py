"""What texts have in common at their beginning, so that a model reads it once: few-shot preambles, a problem with several solutions.

    common_beginnings([(1, 2, 3, 4), (1, 2, 3, 5), (9,)], most=[3, 3, 0])      # [3, 3, 0]

Left out: reading them (sample.py and score.py, by Batch.extend).
"""

from collections.abc import Sequence
from itertools import takewhile

WORTH_SHARING = 0.2
"""Share of a text that its common beginning with others is at least; below that a second pass costs more than it saves."""


def common_beginnings(texts: Sequence[tuple[int, ...]], most: Sequence[int]) -> list[int]:
    """How many first tokens each of some texts shares with the others of its family, 0 for a text that is alone.

    A text joins a family where sharing saves more tokens than the family saves without it. `most[i]` bounds what may be shared of text i.
    """
    shared = [0] * len(texts)
    family: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: texts[i]):
        common = _common(texts, most, shared, family, i) if family else 0
        family = [*family, i] if common else [i]
        for member in family if common else ():
            shared[member] = common
    return shared


def _common(texts: Sequence[tuple[int, ...]], most: Sequence[int], shared: Sequence[int], family: Sequence[int], i: int) -> int:
    """How many first tokens text i shares with all of a family; 0 where sharing those is not worth it."""
    first, text = family[0], texts[i]
    alike = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(texts[first], text, strict=False)))
    common = min(alike, most[i], shared[first] or most[first])
    worth = common >= WORTH_SHARING * len(text) and len(family) * common > (len(family) - 1) * shared[first]
    return common if worth else 0
