"""A collection as problems to train on: screened by the config's rules, a share of them held out by a hash of the problem."""

from __future__ import annotations

from dataclasses import dataclass

from cleave.collection import Collection
from cleave.config.distill import CollectionConfig
from cleave.console import say
from cleave.errors import ConfigError, DataError
from cleave.runs import RunFolder
from cleave.screening import Counts, Screen, screened
from cleave.tasks.task import Task
from cleave.traces import problem_key
from cleave.types import Problem
from pipelines.sources import Shelf


@dataclass(frozen=True)
class Shelves:
    """What is trained on, what is measured (None: nothing was held out), and what became of the traces."""

    trained: Shelf
    held_out: Shelf | None
    counts: Counts


def collected(config: CollectionConfig, label: str, task: Task) -> Shelves:
    """The kept traces of one task of a collection. Raises ConfigError for a collection or teacher that is not there, DataError
    where nothing was kept."""
    collection = Collection(RunFolder.at(config.path))
    recipe = config.recipe or collection.only_recipe()
    if recipe not in collection.recipes():
        raise ConfigError(f"{config.path} has no recipe {recipe}; there are {', '.join(collection.recipes()) or 'none'}.")
    counts = Counts()
    screen = Screen(config.keep, config.answers, config.second_chance)
    problems = list(screened(collection.traces(recipe, label), screen, task.score, counts))
    trained = [problem for problem in problems if not _is_held_out(problem, config.held_out)]
    held = [problem for problem in problems if _is_held_out(problem, config.held_out)]
    if not trained:
        raise DataError(_nothing(config, label, counts))
    say(f"{label}: {counts.kept:,} of {counts.plans:,} attempts in {counts.traces:,} traces are kept{_because(counts)}.")
    name = f"{label}/{recipe}"
    return Shelves(Shelf(name, trained), Shelf(name, held) if held else None, counts)


def _is_held_out(problem: Problem, share: float) -> bool:
    """By the question, so that all plans of one problem fall on the same side whatever the teacher answered."""
    return int(problem_key(Problem(problem.id, problem.question, problem.context)), 16) / 2**64 < share


def _nothing(config: CollectionConfig, label: str, counts: Counts) -> str:
    if not counts.traces:
        return f"{config.path} has no traces of {label}; collect them, or give the task the label that it has there."
    return f"none of {counts.plans:,} attempts at {label} were kept{_because(counts)}; set collection.keep=all, or ask a better teacher."


def _because(counts: Counts) -> str:
    if not counts.rejected:
        return ""
    return " (" + ", ".join(f"{count:,} {reason}" for reason, count in counts.rejected.most_common()) + ")"
