"""What an evaluation or a collection asks: every problem of every task under every variant, streamed, without what is finished already.

Tasks take turns, and a problem's variants follow each other, so that a run that was stopped has comparable figures of all of them.
Left out: asking (session.py) and keeping (trace_sink.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cleave.config.reasoning import ReasoningConfig
from cleave.config.workload import TaskShare
from cleave.errors import ConfigError, DataError
from cleave.runs import RunFolder
from cleave.tasks.registry import get_task
from cleave.tasks.task import Task, check_split
from cleave.traces import Positions, problem_key, read_columns, shard_names
from cleave.types import Problem, Trace


@dataclass(frozen=True)
class Item:
    """One problem under one variant. `index` is its position in the stream of the task called `label`. `recorded`: a trace of it whose
    plans and solutions are taken as they are."""

    variant: str
    strategy: ReasoningConfig
    task: Task
    label: str
    index: int
    problem: Problem
    recorded: Trace | None = None


class Finished:
    """Which items an earlier session finished: a bit per item and a checksum per problem, to notice data that changed since."""

    def __init__(self) -> None:
        self._positions = Positions()
        self._checksums: dict[str, array[int]] = {}

    @classmethod
    def read(cls, folder: RunFolder) -> Finished:
        """What the shards of a run hold."""
        finished = cls()
        for row in read_columns(folder, shard_names(folder), ["variant", "task", "index", "problem_key"]):
            finished.add(row["variant"], row["task"], row["index"], row["problem_key"])
        return finished

    def add(self, variant: str, label: str, index: int, key: str) -> None:
        """Note one item; `key` is its problem's."""
        self._positions.add(variant, label, index)
        sums = self._checksums.setdefault(label, array("I"))
        sums.extend([0] * (index + 1 - len(sums)))
        sums[index] = _checksum(key)

    def __len__(self) -> int:
        return len(self._positions)

    def has(self, item: Item) -> bool:
        """Whether the item is finished. Raises DataError if it was another problem then."""
        if (item.variant, item.label, item.index) not in self._positions:
            return False
        if self._checksums[item.label][item.index] != _checksum(problem_key(item.problem)):
            raise DataError(
                f"the problems of {item.label} are not those that this run began with (number {item.index} differs); "
                "restore the data, or set overwrite=true or another name=… to start anew."
            )
        return True


class Workload:
    """The problems of a config. Raises ConfigError or DataError, when made, for tasks and splits that do not exist."""

    def __init__(self, tasks: Sequence[TaskShare], strategies: Mapping[str, ReasoningConfig]) -> None:
        self.strategies = dict(strategies)
        self._sources = [(wanted, _open(wanted)) for wanted in tasks]
        self._digests = {wanted.title: sha256() for wanted in tasks}

    @property
    def total(self) -> int | None:
        """Number of items; None while a split's size is unknown."""
        sizes = [_size(wanted, task) for wanted, task in self._sources]
        known = [size for size in sizes if size is not None]
        return sum(known) * len(self.strategies) if len(known) == len(sizes) else None

    def sizes(self) -> dict[str, int | None]:
        """Problems by task label."""
        return {wanted.title: _size(wanted, task) for wanted, task in self._sources}

    def hashes(self) -> dict[str, str]:
        """A hash of the problems streamed so far, by task label; of all of them once `items` is exhausted."""
        return {label: digest.hexdigest()[:16] for label, digest in self._digests.items()}

    def items(self, is_finished: Callable[[Item], bool]) -> Iterator[Item]:
        """Stream what is left to ask."""
        streams = {wanted.title: self._stream(wanted, task) for wanted, task in self._sources}
        while streams:
            for label, stream in list(streams.items()):
                found = next(stream, None)
                if found is None:
                    del streams[label]
                    continue
                task, index, problem = found
                for variant, strategy in self.strategies.items():
                    item = Item(variant, strategy, task, label, index, problem)
                    if not is_finished(item):
                        yield item

    def _stream(self, wanted: TaskShare, task: Task) -> Iterator[tuple[Task, int, Problem]]:
        digest = self._digests[wanted.title] = sha256()
        for index, problem in enumerate(task.problems(wanted.split, wanted.problems, wanted.seed)):
            digest.update(f"{problem.id}\n{problem.text}\n{problem.answer}\n".encode("utf-8", "surrogatepass"))
            yield task, index, problem


def _open(wanted: TaskShare) -> Task:
    task = get_task(wanted.task)
    check_split(task, wanted.split)
    if wanted.problems is None and task.splits[wanted.split] is None and is_endless(task):
        raise ConfigError(f"{wanted.title} has no end; set problems, such as problems: 500.")
    return task


def is_endless(task: Task) -> bool:
    """Generated tasks give as many problems as are asked for; a stored split ends even where its size is not known yet."""
    from cleave.tasks.reference.task import ReferenceTask

    return isinstance(task, ReferenceTask)


def _size(wanted: TaskShare, task: Task) -> int | None:
    there = task.splits[wanted.split]
    if wanted.problems is None:
        return there
    return wanted.problems if there is None else min(there, wanted.problems)


def _checksum(key: str) -> int:
    return int(key[:8], 16)
