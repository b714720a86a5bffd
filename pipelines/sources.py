"""Where training examples come from: the problems of a task split, or a list of problems such as a screened collection.

An endless task is read in chunks with a seed each, so that any place of the stream can be reached at once and nothing is held in
memory; problems that end come in shuffled epochs, from memory or, where they are many, from a file window by window. Left out: what
examples say (formats.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Protocol

from cleave.config.formats import Format
from cleave.console import say
from cleave.distributions import Key, attach
from cleave.errors import DataError
from cleave.examples import Encoder, Example, Pair, TopK
from cleave.problem_file import GROUP, ProblemFile
from cleave.prompts import PromptSet
from cleave.tasks.files import FileTask
from cleave.tasks.hub import HubTask
from cleave.tasks.task import Task, check_split
from cleave.types import Problem
from pipelines.formats import write_pair

CHUNK = 512
"""Problems per chunk: large enough for batch tokenisation, small enough to be made again on resume."""
_MOST_STORED = 500_000


class Supply(Protocol):
    """Problems by chunk, from 0; the same index gives the same problems."""

    name: str
    """What the problems are, for seeds."""
    windows: int
    """Chunks that hold all there is between them; later ones are other orders of the same. 0: it never ends."""

    def problems(self, index: int, rng: random.Random) -> Iterable[Problem]: ...


class Stream:
    """A generated split: chunk k is drawn with a seed of its own."""

    windows = 0

    def __init__(self, task: Task, split: str) -> None:
        self.name = f"{task.name}/{split}"
        self.task, self.split = task, split

    def problems(self, index: int, rng: random.Random) -> Iterable[Problem]:
        return self.task.problems(self.split, CHUNK, seed=rng.getrandbits(62))


class Shelf:
    """Problems in memory: chunk k is all of them in the k-th order."""

    windows = 1

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.name = name
        self._problems = list(problems)

    def problems(self, index: int, rng: random.Random) -> Iterable[Problem]:
        order = list(self._problems)
        rng.shuffle(order)
        return order


class Stack:
    """Problems in a file, of which `window` at most are in memory: an epoch takes the file's groups in another order, which depends on the
    epoch alone, some groups at a time, and shuffles what is in them."""

    def __init__(self, name: str, file: ProblemFile, window: int) -> None:
        self.name = name
        self._file = file
        self._groups = max(1, window // GROUP)
        self.windows = -(-file.groups // self._groups)

    def problems(self, index: int, rng: random.Random) -> Iterable[Problem]:
        epoch, window = divmod(index, self.windows)
        order = list(range(self._file.groups))
        random.Random(f"{self.name}/{epoch}").shuffle(order)
        mine = order[window * self._groups : (window + 1) * self._groups]
        problems = [problem for group in mine for problem in self._file.group(group)]
        rng.shuffle(problems)
        return problems


def supply_of(task: Task, split: str) -> Supply:
    """The problems of a task split. Raises ConfigError for an unknown split, DataError where nothing has a gold answer."""
    check_split(task, split)
    if task.splits[split] is None and not isinstance(task, FileTask | HubTask):  # files know no size before they are read
        return Stream(task, split)
    problems = list(islice((problem for problem in task.problems(split) if problem.answer is not None), _MOST_STORED))
    if len(problems) == _MOST_STORED:
        say(f"{task.name}/{split}: only the first {_MOST_STORED:,} problems are used.")
    if not problems:
        raise DataError(f"no problem of {task.name}/{split} has a gold answer, so there is nothing to learn; choose another split or task.")
    return Shelf(f"{task.name}/{split}", problems)


class ExampleSource:
    """Examples of one supply; a Source of curriculum/sampler.py. Each problem is written in one format, drawn by weight.

    `teacher` is the place of the examples' teacher among the run's. `skill` is what a curriculum calls the source, and then its examples'
    skill; None: each example has its problem's first. `distributions`, once set, are attached to each example.
    """

    def __init__(
        self,
        supply: Supply,
        *,
        prompts: PromptSet,
        formats: Mapping[Format, float],
        encoder: Encoder,
        seed: int = 0,
        teacher: int = 0,
        skill: str | None = None,
    ) -> None:
        self._supply, self._seed = supply, seed
        self._prompts, self._formats, self._encoder = prompts, dict(formats), encoder
        self.teacher, self.skill = teacher, skill
        self.distributions: Mapping[Key, TopK] | None = None

    @property
    def ends(self) -> bool:
        """Whether there is a last problem."""
        return self._supply.windows > 0

    def chunk(self, index: int) -> list[Example]:
        """512 problems of an endless supply, or one window of a finite one; problems without what the formats need are left out."""
        return self._encode(list(self._pairs(index)))

    def every(self) -> Iterator[Example]:
        """Each problem of a supply that ends, in each format that it has what it needs for, whatever the formats' weights."""
        rng = random.Random(0)
        problems = chain.from_iterable(self._supply.problems(index, rng) for index in range(self._supply.windows))
        names: list[Format] = [name for name, weight in self._formats.items() if weight > 0]
        while some := list(islice(problems, CHUNK)):
            pairs = (write_pair(self._prompts, {name: 1.0}, problem, rng) for problem in some for name in names)
            yield from self._encoder([self._labelled(pair) for pair in pairs if pair is not None])

    def examples(self, count: int) -> list[Example]:
        """The first `count` examples, fewer where the supply ends; what chunks 0, 1, … begin with, without computing them whole."""
        found: list[Example] = []
        for index in range(self._supply.windows or 1 + 8 * count // CHUNK):
            pairs = self._pairs(index)
            while len(found) < count and (some := list(islice(pairs, count - len(found)))):
                found.extend(self._encode(some))
        return found

    def _encode(self, pairs: Sequence[Pair]) -> list[Example]:
        examples = self._encoder(pairs)
        return examples if self.distributions is None else attach(examples, self.distributions)

    def _labelled(self, pair: Pair) -> Pair:
        if self.skill is None:
            return replace(pair, teacher=self.teacher) if self.teacher else pair
        return replace(pair, teacher=self.teacher, skill=self.skill)

    def _pairs(self, index: int) -> Iterator[Pair]:
        rng = random.Random(f"{self._seed}/{self._supply.name}/{index}")
        written = (write_pair(self._prompts, self._formats, problem, rng) for problem in self._supply.problems(index, rng))
        return (self._labelled(pair) for pair in written if pair is not None)


class Finite(Protocol):
    """What can give its first examples."""

    def examples(self, count: int) -> list[Example]: ...


def held_out(sources: Sequence[Finite], count: int) -> list[Example]:
    """`count` examples in all, evenly from the sources, interleaved so that a prefix covers all of them."""
    each = [source.examples(-(-count // len(sources))) for source in sources]
    longest = max(map(len, each), default=0)
    mixed = [examples[k] for k in range(longest) for examples in each if k < len(examples)]
    return mixed[:count]
