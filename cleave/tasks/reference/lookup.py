"""Multi-hop questions over a fixed world that must be known, not read, after Bamboogle.

The question names an entity and a path of two or three relations; the plan asks one fact at a time. Splits share facts, never a
composition (entity and path). Left out: comparison of two entities, dates.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cleave.tasks.reference.arithmetic import Draft
from cleave.tasks.reference.node import Node
from cleave.tasks.reference.world import ASK, RELATIONS, World, covered, world

QUESTIONS = (
    "{ask} is the {nested} of {x}?",
    "Starting from {x}, {ask_lower} is the {nested}?",
    "{ask} is {chained}?",
    "Tell me: {ask_lower} is the {nested} of {x}?",
)


@dataclass(frozen=True)
class LookupDials:
    """What makes a lookup problem hard."""

    hops: tuple[int, ...] = (2, 3)
    """Lengths of the path, drawn uniformly."""
    coverage: float = 1.0
    """Share of the world's facts that may occur in training problems; other splits use all."""
    world_seed: int = 0
    """Which world."""
    paraphrases: int = 4
    """Question templates used."""


def draft(rng: random.Random, dials: LookupDials, coverage: float) -> Draft:
    """Draw one problem whose facts all lie within `coverage`."""
    known = world(dials.world_seed)
    while True:
        subject = rng.choice(known.entities[rng.choice(("person", "person", "company", "city"))])
        path = _path(rng, known, subject, rng.choice(dials.hops), coverage)
        if path:
            break
    relations = [relation for _, relation in path]
    kind = RELATIONS[known.kinds[path[-1][0]]][relations[-1]]
    return Draft(
        context="",
        question=_write(rng, dials, subject, relations, kind),
        nodes=tuple(_nodes(known, subject, path)),
        skills=tuple(sorted(set(relations))),
        depth=len(path),
        key=f"{subject}:{':'.join(relations)}",
    )


def _path(rng: random.Random, known: World, subject: str, hops: int, coverage: float) -> list[tuple[str, str]]:
    """Subjects and relations of a random walk, empty if it met a fact outside the coverage or came back to where it was."""
    path: list[tuple[str, str]] = []
    visited = {subject}
    for _ in range(hops):
        relation = rng.choice(list(known.facts[subject]))
        path.append((subject, relation))
        if coverage < 1 and not covered(subject, relation, coverage):
            return []
        subject = known.facts[subject][relation]
        if subject in visited:
            return []
        visited.add(subject)
    return path


def _write(rng: random.Random, dials: LookupDials, subject: str, relations: list[str], kind: str) -> str:
    ask = ASK[kind]
    nested = " of the ".join(reversed(relations))
    chained = "".join([subject, *(f"'s {relation}" for relation in relations)])
    template = rng.choice(QUESTIONS[: dials.paraphrases])
    return template.format(ask=ask, ask_lower=ask[0].lower() + ask[1:], nested=nested, chained=chained, x=subject)


def _nodes(known: World, subject: str, path: list[tuple[str, str]]) -> list[Node]:
    nodes = []
    for index, (holder, relation) in enumerate(path):
        target = RELATIONS[known.kinds[holder]][relation]
        reference = f"#{index}" if index else subject
        nodes.append(Node(f"{ASK[target]} is the {relation} of {reference}?", _recall(known, reference, relation), _other(known, target)))
    return nodes


def _recall(known: World, reference: str, relation: str) -> Callable[[Sequence[str]], tuple[str, str]]:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        subject = answers[int(reference[1:]) - 1] if reference.startswith("#") else reference
        return fact_text(subject, relation), known.facts[subject][relation]

    return compute


def fact_text(subject: str, relation: str) -> str:
    """How a fact is looked up in writing; the object follows after ` = `."""
    return f"the {relation} of {subject}"


def _other(known: World, kind: str) -> Callable[[str, random.Random], str]:
    def corrupt(answer: str, rng: random.Random) -> str:
        return next(name for name in rng.sample(known.entities[kind], 2) if name != answer)

    return corrupt
