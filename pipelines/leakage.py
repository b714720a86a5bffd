"""Which problems of a collection are also asked by an evaluation split, by the question without case, spacing and punctuation.

Generated splits have no end, so their first problems are compared; stored ones are compared whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from cleave.config.collect import CollectConfig, CollectTask
from cleave.config.workload import TaskShare
from cleave.console import say
from cleave.errors import DataError
from cleave.tasks.registry import get_task
from cleave.tasks.splits import fingerprint
from cleave.types import Problem
from pipelines.workload import is_endless


@dataclass
class Leakage:
    """How many collected problems are asked by each evaluation split, and the fingerprints of those problems."""

    checked: int = 0
    shared: Counter[str] = field(default_factory=Counter)
    leaked: set[bytes] = field(default_factory=set)
    against: dict[str, int] = field(default_factory=dict)

    def has(self, problem: Problem) -> bool:
        return bool(self.leaked) and fingerprint(problem) in self.leaked


def check_leakage(config: CollectConfig) -> Leakage:
    """Compare the collection's problems with the evaluation splits. Raises DataError if any is shared and the config says refuse."""
    held_out: dict[bytes, str] = {}
    found = Leakage()
    for share in _against(config):
        name = f"{share.title}/{share.split}"
        for problem in _problems(share, config.leakage.problems):
            held_out[fingerprint(problem)] = name
            found.against[name] = found.against.get(name, 0) + 1
    for task in config.tasks:
        for problem in get_task(task.task).problems(task.split, task.problems, task.seed):
            found.checked += 1
            key = fingerprint(problem)
            if key in held_out:
                found.shared[held_out[key]] += 1
                found.leaked.add(key)
    _judge(config, found)
    return found


def _judge(config: CollectConfig, found: Leakage) -> None:
    total = sum(found.shared.values())
    if not total:
        return
    where = ", ".join(f"{count} of {name}" for name, count in sorted(found.shared.items()))
    if config.leakage.action == "refuse":
        raise DataError(
            f"{total} of {found.checked} problems are also evaluation problems ({where}); collect another split, or set "
            "leakage.action=drop to leave them out."
        )
    say(f"{total} of {found.checked} problems are also evaluation problems ({where}): leakage.action={config.leakage.action}.")


def _against(config: CollectConfig) -> list[TaskShare]:
    if config.leakage.against is not None:
        return config.leakage.against
    return [
        TaskShare(task=task.task, split=split, problems=None, label=task.title)
        for task in config.tasks
        for split in get_task(task.task).splits
        if split not in _asked(config.tasks, task)
    ]


def _asked(tasks: Sequence[CollectTask], task: CollectTask) -> set[str]:
    """Splits of the same task that are collected as well."""
    return {other.split for other in tasks if other.task == task.task}


def _problems(share: TaskShare, most: int) -> list[Problem]:
    task = get_task(share.task)
    limit = share.problems if share.problems is not None or not is_endless(task) else most
    return list(task.problems(share.split, limit, share.seed))
