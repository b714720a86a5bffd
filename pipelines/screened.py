"""Collections as problems to train on: screened by the config's rules, mixed, a share of them held out by a hash of the problem.

More problems than `max_in_memory` are screened once, by whoever comes first, into a file that is addressed by what was screened and how:
`problems/ADDRESS/` in the collection's folder, which every worker then reads window by window.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from typing import Any

from cleave.collection import Collection
from cleave.config.formats import Format
from cleave.config.screening import CollectionConfig
from cleave.console import say
from cleave.errors import ConfigError, DataError
from cleave.likelihoods import Likelihoods
from cleave.problem_file import ProblemFile, write_problems
from cleave.reasons import wrong_share
from cleave.runs import RunFolder
from cleave.screening import Counts, Ranking, Screen, screened
from cleave.tasks.task import Task
from cleave.traces import ScoredTrace, problem_key
from cleave.types import Problem
from pipelines.formats import has_what_it_needs
from pipelines.reconstructor import describe
from pipelines.sources import Shelf, Stack, Supply

PLACE = "problems"
TRAINED, HELD_OUT = "trained.parquet", "held_out.parquet"


@dataclass(frozen=True)
class Shelves:
    """What is trained on, what is measured (None: nothing was held out), and what became of the traces."""

    trained: Supply
    held_out: Supply | None
    counts: Counts


def collected(config: CollectionConfig, label: str, task: Task, formats: Iterable[Format] = ()) -> Shelves:
    """The kept traces of one task. Raises ConfigError for a collection or teacher that is not there, DataError where nothing was kept."""
    shelves = _shelves(config, label, task, list(formats))
    counts = shelves.counts
    say(f"{label}: {counts.kept:,} of {counts.plans:,} attempts in {counts.traces:,} traces are kept{_because(counts)}{_reasons(counts)}.")
    return shelves


def _shelves(config: CollectionConfig, label: str, task: Task, formats: Sequence[Format]) -> Shelves:
    name = f"{label}/{'+'.join(_recipe(config, path) for path in (config.path, *config.also))}"
    folder, place = RunFolder.at(config.path), f"{PLACE}/{_address(config, label, task, formats)}"
    if not folder.exists(f"{place}/{HELD_OUT}"):
        counts = Counts()
        kept = _kept(config, label, task, formats, counts)
        some = list(islice(kept, config.max_in_memory + 1))
        if len(some) <= config.max_in_memory:
            return _in_memory(config, label, name, some, counts)
        _store(folder, place, config, chain(some, kept), counts)
    trained, held = (ProblemFile(folder, f"{place}/{file}") for file in (TRAINED, HELD_OUT))
    window = config.max_in_memory
    return Shelves(Stack(name, trained, window), Stack(name, held, window) if len(held) else None, _counts(held.notes))


def _in_memory(config: CollectionConfig, label: str, name: str, problems: Sequence[Problem], counts: Counts) -> Shelves:
    trained = [problem for problem in problems if not is_held_out(problem, config)]
    held = [problem for problem in problems if is_held_out(problem, config)]
    if not trained:
        raise DataError(_nothing(config, label, counts))
    return Shelves(Shelf(name, trained), Shelf(name, held) if held else None, counts)


def _store(folder: RunFolder, place: str, config: CollectionConfig, problems: Iterable[Problem], counts: Counts) -> None:
    """Both files, in one pass; the held-out problems, a small share of which is measured, are kept up to `max_in_memory`."""
    say(f"more than {config.max_in_memory:,} problems are kept: they go to {folder.location}/{place}.")
    held: list[Problem] = []

    def trained() -> Iterator[Problem]:
        for problem in problems:
            if not is_held_out(problem, config):
                yield problem
            elif len(held) < config.max_in_memory:
                held.append(problem)

    write_problems(folder, f"{place}/{TRAINED}", trained(), dict)
    write_problems(folder, f"{place}/{HELD_OUT}", held, lambda: _notes(counts))


def _address(config: CollectionConfig, label: str, task: Task, formats: Sequence[Format]) -> str:
    """Sixteen hexadecimal digits for the traces that are there and the rules by which they are kept."""
    files = [Collection(RunFolder.at(path)).names(_recipe(config, path), label) for path in (config.path, *config.also)]
    rules = config.model_dump(mode="json", exclude={"path", "also", "max_in_memory"})
    return blake2b(json.dumps([files, label, task.name, sorted(formats), rules]).encode(), digest_size=8).hexdigest()


def _kept(config: CollectionConfig, label: str, task: Task, formats: Sequence[Format], counts: Counts) -> Iterator[Problem]:
    """What is kept of all collections: one after the other, or, where they are compared, at once."""
    if config.mixture == "adaptive":
        return chain.from_iterable(mixed(config, label, task, formats, counts).values())
    return chain.from_iterable(
        screened(traces_of(config, path, label), screen_of(config), task.score, counts, ranking_of(config, path))
        for path in (config.path, *config.also)
    )


def _notes(counts: Counts) -> dict[str, Any]:
    """What is kept of the counts beside the problems; `_counts` is the inverse."""
    return {**vars(counts)}


def _counts(notes: Mapping[str, Any]) -> Counts:
    counters = {name: Counter(notes[name]) for name in ("rejected", "reasons", "kept_reasons")}
    return Counts(**{**notes, **counters})


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
    return Screen(config.keep, config.answers, config.second_chance, config.prefer)


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
