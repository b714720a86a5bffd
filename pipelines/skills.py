"""The skills of a distill config: its tasks, or the problems of each task by depth or by their first skill.

A skill is a supply of its own, so that a curriculum can draw it when it wants. Generated problems of a depth are made to order where the
task has a dial for it; elsewhere the right ones are picked out of the task's problems. Which depths or skills a task has is seen on all of
its problems, or on the first few thousand of an endless task; what does not occur there is never drawn.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from cleave.config.curriculum import CurriculumConfig
from cleave.config.distill import TaskMix
from cleave.errors import DataError
from cleave.tasks.reference.task import ReferenceTask
from cleave.types import Problem
from pipelines.sources import CHUNK, Stream, Supply

_LOOKED_AT = 4
"""Chunks of an endless task in which its skills are found: one that is rarer than 1 in 700 is missed one time in twenty."""
_RAREST = 400
"""Chunks that are searched for a problem of a skill that was seen before."""
Key = Callable[[Problem], "int | str"]
_KEYS: dict[str, Key] = {"depth": lambda problem: problem.depth, "skill": lambda problem: problem.skills[0] if problem.skills else "other"}


@dataclass(frozen=True)
class Skill:
    """One skill: what is trained on, what is held out (None: nothing), and the weight with which it occurs by itself."""

    name: str
    trained: Supply
    held_out: Supply | None
    weight: float


def skills_of(curriculum: CurriculumConfig | None, mix: TaskMix, trained: Supply, held_out: Supply | None) -> list[Skill]:
    """The skills of one task, by rising depth or by name; the task itself where a curriculum does not divide it.

    Raises DataError where the task has no problems to divide.
    """
    if curriculum is None or curriculum.skills == "task":
        return [Skill(mix.title, trained, held_out, mix.weight)]
    key = _KEYS[curriculum.skills]
    counts = Counter(map(key, _some(trained)))
    if not counts:
        raise DataError(f"{mix.title} has no problems that could be divided into skills; check its split and filters.")
    return [
        Skill(
            f"{mix.title}/{value}",
            part_of(trained, curriculum.skills, value),
            None if held_out is None else part_of(held_out, curriculum.skills, value),
            mix.weight * counts[value] / counts.total(),
        )
        for value in sorted(counts, key=lambda value: (str(type(value)), value))
    ]


def part_of(supply: Supply, by: str, value: int | str) -> Supply:
    """The problems of one depth or skill: generated to order where that is possible."""
    if by == "depth" and isinstance(supply, Stream) and isinstance(supply.task, ReferenceTask):
        dialled = supply.task.of_depth(int(value))
        if dialled is not None:
            return Dialled(dialled, supply.split, value)
    return Part(supply, _KEYS[by], value)


class Dialled(Stream):
    """An endless supply whose task makes nothing but the wanted problems."""

    def __init__(self, task: ReferenceTask, split: str, value: int | str) -> None:
        super().__init__(task, split)
        self.name = f"{self.name}/{value}"


class Part:
    """The problems of a supply with one value of a key. A chunk of an endless supply holds as many problems as one of the whole."""

    def __init__(self, whole: Supply, key: Key, value: int | str) -> None:
        self.name = f"{whole.name}/{value}"
        self.windows = whole.windows
        self._whole, self._key, self._value = whole, key, value

    def problems(self, index: int, rng: random.Random) -> Iterable[Problem]:
        """Raises DataError where an endless supply has no such problem."""
        if self.windows:
            return self._wanted(self._whole.problems(index, rng))
        return self._searched(index, rng)

    def _wanted(self, problems: Iterable[Problem]) -> Iterator[Problem]:
        return (problem for problem in problems if self._key(problem) == self._value)

    def _searched(self, index: int, rng: random.Random) -> Iterator[Problem]:
        found = searched = 0
        while found < CHUNK:
            for problem in self._wanted(self._whole.problems(index, rng)):
                yield problem
                found += 1
                if found == CHUNK:
                    return
            searched += 1
            if searched > _RAREST * (found + 1):
                raise DataError(f"{self.name}: no such problem in {searched * CHUNK:,}; use another split, or larger skills.")


def _some(supply: Supply) -> Iterable[Problem]:
    """The problems in which skills are found; the same in every run."""
    rng = random.Random(f"skills/{supply.name}")
    return chain.from_iterable(supply.problems(k, rng) for k in range(supply.windows or _LOOKED_AT))
