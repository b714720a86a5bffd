"""Before training with `collection.reconstruction`: how well the question follows from each trace that competes with others, stored.

What is stored already is not asked again, so a scoring that was stopped goes on, and a student that another one came before finds it all
there: then no model is loaded. Runs where training is started, before any worker; workers read what is there (screened.py).
Left out: the files (cleave/likelihoods.py), what is chosen by them (cleave/screening.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice

from cleave.config.distill import DistillConfig
from cleave.config.screening import CollectionConfig, ReconstructionConfig
from cleave.console import progress, say
from cleave.likelihoods import Key, Likelihoods, key_of
from cleave.screening import rivals
from cleave.tasks.registry import get_task
from cleave.tasks.task import Task
from cleave.types import Problem
from pipelines.reconstructor import UNREADABLE, Reconstructor
from pipelines.screened import likelihoods_of, screen_of, traces_of

GROUP = 512
"""Traces per file: what a stop loses at most."""
_ONE_AT_A_TIME = threading.Lock()
"""Several students of one job share what the first of them asks."""

Build = Callable[[ReconstructionConfig], Reconstructor]


def score_traces(config: DistillConfig) -> None:
    """Store what is missing for the training of `config`. Raises ConfigError or DataError like training, StorageError where a collection
    cannot be written to."""
    for mix in config.tasks:
        traces = mix.collection or config.collection
        if traces is not None and traces.reconstruction is not None:
            with _ONE_AT_A_TIME:
                score_task(traces, mix.title, get_task(mix.task))


def score_task(config: CollectionConfig, label: str, task: Task, build: Build = Reconstructor) -> None:
    """The same for one task of the collections."""
    assert config.reconstruction is not None
    for path in (config.path, *config.also):
        store = likelihoods_of(config, path)
        known = store.load().keys()
        missing = {key_of(problem) for problem in competing(config, path, label, task)} - known
        if missing:
            fill(store, build(config.reconstruction), _only(missing, competing(config, path, label, task)), len(missing))


def competing(config: CollectionConfig, path: str, label: str, task: Task) -> Iterator[Problem]:
    """The traces of one task among which the screen chooses, as problems."""
    assert config.reconstruction is not None
    return rivals(traces_of(config, path, label), screen_of(config), task.score, config.reconstruction.keep)


def fill(store: Likelihoods, reconstructor: Reconstructor, problems: Iterator[Problem], count: int) -> None:
    """Ask about `count` traces and store what is said, a file per group."""
    name, unreadable, done, started = reconstructor.model.info.name, 0, 0, time.perf_counter()
    with progress(f"questions reconstructed by {name}", count) as shown:
        while group := list(islice(problems, GROUP)):
            found = reconstructor.likelihoods(group)
            store.write(dict(zip(map(key_of, group), found, strict=True)))
            unreadable += found.count(UNREADABLE)
            done += len(group)
            shown.advance(len(group), f"{done / (time.perf_counter() - started):,.0f}/s")
    reconstructor.close()
    if unreadable:
        say(f"{unreadable:,} traces are longer than {name} reads; they are chosen last. Give it more positions to rank them.")
    say(f"the likelihoods of {count:,} traces are in {store.folder.location}/{store.place}.")


def unranked(config: DistillConfig) -> DistillConfig:
    """The same without this screen, for a look at the data that asks no model."""
    tasks = tuple(mix.model_copy(update={"collection": _unranked(mix.collection)}) for mix in config.tasks)
    return config.model_copy(update={"collection": _unranked(config.collection), "tasks": tasks})


def _unranked(config: CollectionConfig | None) -> CollectionConfig | None:
    return None if config is None else config.model_copy(update={"reconstruction": None})


def _only(missing: set[Key], problems: Iterator[Problem]) -> Iterator[Problem]:
    """The problems of these keys, each once."""
    left = set(missing)
    for problem in problems:
        if (key := key_of(problem)) in left:
            left.remove(key)
            yield problem
