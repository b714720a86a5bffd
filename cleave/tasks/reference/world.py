"""The fixed world of the lookup family: 640 people, 200 companies, 200 cities, six relations each, every value an entity again.

A fact is (subject, relation, object). The world is a pure function of its seed; the profile fixes the seed.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b

from cleave.tasks.reference import names

RELATIONS: dict[str, dict[str, str]] = {
    "person": {
        "mother": "person",
        "teacher": "person",
        "friend": "person",
        "boss": "person",
        "employer": "company",
        "home": "city",
    },
    "company": {
        "founder": "person",
        "director": "person",
        "rival": "company",
        "supplier": "company",
        "bank": "company",
        "base": "city",
    },
    "city": {
        "mayor": "person",
        "architect": "person",
        "twin": "city",
        "neighbour": "city",
        "brewery": "company",
        "paper": "company",
    },
}
ASK = {"person": "Who", "company": "Which company", "city": "Which city"}


@dataclass(frozen=True)
class World:
    """Entities by kind, the kind of each entity, and the facts by subject and relation."""

    entities: dict[str, tuple[str, ...]]
    kinds: dict[str, str]
    facts: dict[str, dict[str, str]]

    def __iter__(self) -> Iterator[tuple[str, str, str]]:
        for subject, relations in self.facts.items():
            for relation, value in relations.items():
                yield subject, relation, value


@cache
def world(seed: int = 0) -> World:
    """Build the world of a seed."""
    rng = random.Random(f"world-{seed}")
    entities = {"person": names.PEOPLE, "company": names.COMPANIES, "city": names.CITIES}
    kinds = {name: kind for kind, members in entities.items() for name in members}
    facts = {
        name: {
            relation: rng.choice([value for value in _sample(rng, entities[target]) if value != name])
            for relation, target in RELATIONS[kind].items()
        }
        for kind, members in entities.items()
        for name in members
    }
    return World(entities, kinds, facts)


def _sample(rng: random.Random, members: tuple[str, ...]) -> list[str]:
    """Two candidates, so that one of them differs from the subject."""
    return rng.sample(members, 2)


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone; decides splits and coverage."""
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def covered(subject: str, relation: str, coverage: float) -> bool:
    """Whether a training set of this coverage may contain the fact."""
    return share_of(f"fact:{subject}:{relation}") < coverage
