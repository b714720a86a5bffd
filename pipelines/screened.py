"""Collections as problems to train on: screened by the config's rules, mixed, a share of them held out by a hash of the problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cleave.collection import Collection
from cleave.config.formats import Format
from cleave.config.screening import CollectionConfig
from cleave.console import say
from cleave.errors import ConfigError, DataError
from cleave.likelihoods import Likelihoods
from cleave.reasons import wrong_share
from cleave.runs import RunFolder
from cleave.screening import Counts, Ranking, Screen, screened
from cleave.tasks.task import Task
from cleave.traces import ScoredTrace, problem_key
from cleave.types import Problem
from pipelines.formats import has_what_it_needs
from pipelines.reconstructor import describe
from pipelines.sources import Shelf


@dataclass(frozen=True)
class Shelves:
    """What is trained on, what is measured (None: nothing was held out), and what became of the traces."""

    trained: Shelf
    held_out: Shelf | None
    counts: Counts


def collected(config: CollectionConfig, label: str, task: Task, formats: Iterable[Format] = ()) -> Shelves:
    """The kept traces of one task. Raises ConfigError for a collection or teacher that is not there, DataError where nothing was kept."""
    counts = Counts()
    problems = [problem for part in mixed(config, label, task, formats, counts).values() for problem in part]
    trained = [problem for problem in problems if not is_held_out(problem, config)]
    held = [problem for problem in problems if is_held_out(problem, config)]
    if not trained:
        raise DataError(_nothing(config, label, counts))
    say(f"{label}: {counts.kept:,} of {counts.plans:,} attempts in {counts.traces:,} traces are kept{_because(counts)}{_reasons(counts)}.")
    name = f"{label}/{'+'.join(_recipe(config, path) for path in (config.path, *config.also))}"
    return Shelves(Shelf(name, trained), Shelf(name, held) if held else None, counts)


def mixed(
    config: CollectionConfig, label: str, task: Task, formats: Iterable[Format] = (), counts: Counts | None = None
) -> dict[str, list[Problem]]:
    """What is kept of one task by collection, in the order of the config. Nothing counts as kept for `mixture: adaptive` that none of
    `formats` can use (none given: all count). Raises ConfigError for a collection or teacher that is not there."""
    counts = Counts() if counts is None else counts
    wanted = list(formats)
    parts: dict[str, list[Problem]] = {}
    solved: set[str] = set()
    for path in (config.path, *config.also):
        kept = list(screened(traces_of(config, path, label), screen_of(config), task.score, counts, ranking_of(config, path)))
        parts[path] = [problem for problem in kept if config.mixture == "all" or _question_key(problem) not in solved]
        solved |= {_question_key(problem) for problem in kept if not wanted or any(has_what_it_needs(problem, name) for name in wanted)}
        _leave_out(counts, len(kept) - len(parts[path]))
    return parts


def traces_of(config: CollectionConfig, path: str, label: str) -> Iterator[ScoredTrace]:
    """The traces of one task in one of the config's collections."""
    return Collection(RunFolder.at(path)).traces(_recipe(config, path), label)


def screen_of(config: CollectionConfig) -> Screen:
    """The config's rules."""
    return Screen(config.keep, config.answers, config.second_chance)


def likelihoods_of(config: CollectionConfig, path: str) -> Likelihoods:
    """Where the config's reconstructor left what it said of the traces of a collection (reconstruction.py)."""
    assert config.reconstruction is not None
    return Likelihoods(RunFolder.at(path), describe(config.reconstruction))


def ranking_of(config: CollectionConfig, path: str) -> Ranking | None:
    """How the right traces of a problem are ranked; None: they are not. Reads what is stored, asks no model."""
    if config.reconstruction is None:
        return None
    return Ranking(likelihoods_of(config, path).lookup(), config.reconstruction.keep)


def is_held_out(problem: Problem, config: CollectionConfig) -> bool:
    """By the question, so that all plans of one problem fall on the same side whatever the teacher answered."""
    place = int(_question_key(problem), 16) / 2**64
    return config.fold * config.held_out <= place < (config.fold + 1) * config.held_out


def _question_key(problem: Problem) -> str:
    return problem_key(Problem(problem.id, problem.question, problem.context))


def _recipe(config: CollectionConfig, path: str) -> str:
    """The teacher whose traces of a collection are taken."""
    collection = Collection(RunFolder.at(path))
    if path != config.path or config.recipe is None:
        return collection.only_recipe()
    if config.recipe not in collection.recipes():
        raise ConfigError(f"{path} has no recipe {config.recipe}; there are {', '.join(collection.recipes()) or 'none'}.")
    return config.recipe


def _leave_out(counts: Counts, many: int) -> None:
    if many:
        counts.kept -= many
        counts.rejected["solved by another teacher"] += many


def _nothing(config: CollectionConfig, label: str, counts: Counts) -> str:
    if not counts.traces:
        return f"{config.path} has no traces of {label}; collect them, or give the task the label that it has there."
    return f"none of {counts.plans:,} attempts at {label} were kept{_because(counts)}; set collection.keep=all, or ask a better teacher."


def _because(counts: Counts) -> str:
    if not counts.rejected:
        return ""
    return " (" + ", ".join(f"{count:,} {reason}" for reason, count in counts.rejected.most_common()) + ")"


def _reasons(counts: Counts) -> str:
    """How many are right for the wrong reason, where gold steps tell."""
    before, after = wrong_share(counts.reasons), wrong_share(counts.kept_reasons)
    if before is None:
        return ""
    kept = "" if after is None else f", {100 * after:.1f} % of those kept"
    return f"; right for the wrong reason: {100 * before:.1f} % of {sum(counts.reasons.values()):,} solutions with the right answer{kept}"
