"""The word list of the reference tokenizer: every word of the reference tasks' text, the syllables of the names, single characters.

Names are spelled from syllables on purpose: a name that no training text has still consists of two known pieces.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain

from cleave.tasks.reference import names
from cleave.tasks.reference.profile import Profile
from cleave.tasks.reference.task import FAMILIES, ReferenceTask
from cleave.tasks.reference.world import RELATIONS

SPACE = "\u2581"
MARKS = "Question: Plan: Solution: Answer: The answer is: No decomposition Correct Incorrect correct incorrect yes no".split()
WORD = re.compile(r"[ ]?[A-Za-z]+|[ ]?[^\sA-Za-z0-9]")


def pieces(profile: Profile, problems: int = 4000) -> list[str]:
    """Return distinct pieces, most useful first; a leading U+2581 stands for a space. With bytes and specials at most 1,024."""
    syllables = [*names.STARTS, *(SPACE + start for start in names.STARTS), *names.ENDS, *names.CITY_ENDS, *names.COMPANY_ENDS]
    characters = ["\n", SPACE, *(chr(code) for code in range(33, 127)), *(SPACE + digit for digit in "0123456789")]
    words = [word.replace(" ", SPACE) for word, _ in _words(profile, problems).most_common()]
    return list(dict.fromkeys(chain(characters, syllables, words)))


def _words(profile: Profile, problems: int) -> Counter[str]:
    """Words of generated text, counted; the parts of names are left out."""
    parts = {*names.TRAIN, *names.HELD_OUT, *names.PEOPLE, *names.CITIES, *names.COMPANIES}
    counted: Counter[str] = Counter()
    for text in chain(
        MARKS,
        [f" {mark}" for mark in MARKS],
        *([relation, f" {relation}"] for kind in RELATIONS.values() for relation in kind),
        _texts(profile, problems),
    ):
        counted.update(word for word in WORD.findall(text) if word.strip() not in parts)
    return counted


def _texts(profile: Profile, problems: int) -> Iterator[str]:
    for family in FAMILIES:
        for problem in ReferenceTask(family, profile).problems("train", limit=problems):
            assert problem.gold_plan is not None
            yield problem.text
            yield problem.gold_plan.text
            yield "\n".join(f"{step.id}. {step.text}" for step in problem.gold_steps)
