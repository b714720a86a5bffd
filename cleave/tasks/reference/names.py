"""Made-up names of two syllables, so that a name never seen in training still consists of known pieces.

`TRAIN` and `HELD_OUT` are disjoint and serve arithmetic and reading;
`PEOPLE`, `CITIES` and `COMPANIES` are the entities of the lookup world. `open_names` draws from so many that none can be learned by heart.
"""

import random

STARTS = (
    "Ba Be Bo Da De Do Fa Fe Fi Ga Go Ha He Jo Ju Ka Ke Ki La Le Lo Lu Ma Me Mi Mo Na Ne No Pa Pe Po Ra "
    "Re Ro Ru Sa Se So Ta Te To Va Ve Vi Wa We Za"
).split()
ENDS = (
    "bar bel bin dan del dor fen fin gar gel kas kel kin lan len lia lin lor mar mel min mon nan nel nis nor pas pel "
    "ran rel ric ron san sel sin son tas tel tin tor van vel vin vor wen wil zan zel"
).split()
CITY_ENDS = "burg ton ville ford port field wick mouth".split()
COMPANY_ENDS = "corp tech works soft lab foods motors press".split()


def _shuffled(starts: list[str], ends: list[str], seed: int) -> tuple[str, ...]:
    names = [start + end for start in starts for end in ends]
    random.Random(seed).shuffle(names)
    return tuple(names)


_GIVEN = _shuffled(STARTS, ENDS, seed=1)
TRAIN = _GIVEN[:1000]
HELD_OUT = _GIVEN[1000:1100]
PEOPLE = _GIVEN[1100:1740]
CITIES = _shuffled(STARTS, CITY_ENDS, seed=2)[:200]
COMPANIES = _shuffled(STARTS, COMPANY_ENDS, seed=3)[:200]
_SPOKEN_FOR = frozenset(HELD_OUT)
_LONG = 0.5
"""Share of open names that have three syllables."""


def open_names(rng: random.Random, count: int) -> list[str]:
    """Different names of two or three syllables, never a held-out one: 46 x 40 and 46 x 40 x 40 to draw from."""
    found: dict[str, None] = {}
    while len(found) < count:
        ends = rng.choices(ENDS, k=2 if rng.random() < _LONG else 1)
        name = rng.choice(STARTS) + "".join(ends)
        if name not in _SPOKEN_FOR:
            found[name] = None
    return list(found)
