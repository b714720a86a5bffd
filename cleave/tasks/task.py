"""What a task is: named splits of problems, streamed, together with the rule that scores their answers.

Data set and scorer stay together, so that a figure never depends on which program computed it. A task is anything with the shape of
`Task`; `StrictTask` supplies the scoring rules of scoring.py to those that need no rule of their own.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

from cleave.errors import ConfigError, DataError
from cleave.tasks import scoring
from cleave.types import Problem

T = TypeVar("T")


@runtime_checkable
class Task(Protocol):
    """A source of problems and the judge of their answers."""

    @property
    def name(self) -> str:
        """The name that `get_task` knows it by; also `Problem.task`."""
        ...

    @property
    def description(self) -> str:
        """One sentence for `cleave tasks list`."""
        ...

    @property
    def splits(self) -> Mapping[str, int | None]:
        """Split names with their number of problems; None where it is unbounded or unknown before reading."""
        ...

    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """Yield the problems of a split one by one, in memory that does not grow with their number.

        The same arguments give the same problems. A generated task draws its stream from `seed`; a stored one yields its first
        `limit` problems for seed 0 and a random sample of that size, in stored order, for any other seed.
        Raises ConfigError for an unknown split, DataError for data that cannot be read.
        """
        ...

    def score(self, problem: Problem, answer: str | None) -> bool:
        """Whether a final answer (not a whole reply) is right by the strict rule. Raises DataError if the problem has no gold answer."""
        ...

    def lenient(self, problem: Problem, text: str) -> bool:
        """Whether a whole reply passes the any-token rule of the papers' authors; a second column, never the headline."""
        ...


class StrictTask(ABC):
    """Base of tasks that are scored by the general rules. A subclass gives name, description, splits and problems."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def description(self) -> str: ...

    @property
    @abstractmethod
    def splits(self) -> Mapping[str, int | None]: ...

    @abstractmethod
    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]: ...

    def score(self, problem: Problem, answer: str | None) -> bool:
        return answer is not None and scoring.equal(gold_answer(problem), answer)

    def lenient(self, problem: Problem, text: str) -> bool:
        return scoring.lenient(gold_answer(problem), text)


def gold_answer(problem: Problem) -> str:
    """The problem's gold answer. Raises DataError where it has none."""
    if problem.answer is None:
        raise DataError(
            f"problem {problem.id!r} has no gold answer, so nothing can be scored; choose a labelled split or map its answer field."
        )
    return problem.answer


def check_split(task: Task, split: str) -> None:
    """Raise ConfigError, naming the splits there are, unless the task has this one."""
    if split not in task.splits:
        known = ", ".join(task.splits)
        raise ConfigError(f"task {task.name!r} has no split {split!r}; choose one of: {known}.")


def sample(items: Iterable[T], limit: int | None, seed: int) -> Iterator[T]:
    """The first `limit` items for seed 0, else a uniform sample of that size in stored order (one pass, memory of `limit` items)."""
    if limit is not None and limit < 0:
        raise ConfigError(f"a limit of {limit} problems makes no sense; give 0 or more, or leave it out for all.")
    if limit is None or seed == 0:
        yield from islice(items, limit)
        return
    draw = random.Random(seed)
    kept: list[tuple[int, T]] = []
    for index, item in enumerate(items):
        if index < limit:
            kept.append((index, item))
        elif (slot := draw.randrange(index + 1)) < limit:
            kept[slot] = (index, item)
    yield from (item for _, item in sorted(kept, key=lambda pair: pair[0]))
