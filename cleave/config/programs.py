"""Which program reads which config, and the runs that a config is made of.

Left out: the options of the commands (cleave/commands/), and what a run asks of a cluster (cleave/demands.py).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from cleave.config.base import Config, load, read_yaml
from cleave.config.collect import CollectConfig
from cleave.config.distill import DistillConfig
from cleave.config.evaluate import EvaluateConfig
from cleave.config.iterate import IterateConfig
from cleave.config.model import ModelConfig
from cleave.config.serve import load_serve, validate_args
from cleave.config.sparsity import SparsitySearchConfig
from cleave.config.students import StudentsConfig, load_distill
from cleave.config.study import StudyConfig
from cleave.config.tune import CurriculumSearchConfig
from cleave.config.verifier_study import VerifierStudyConfig, load_study
from cleave.errors import ConfigError

Overrides = Sequence[str]
TO_COME = "to-come"
"""Stands for a checkpoint that an earlier part of the same run will make."""


def _read_serve(path: str | Path, overrides: Overrides) -> Config:
    """A config of `cleave serve`, or the `args` of our application in a Ray Serve config file."""
    for application in read_yaml(path).get("applications", ()):
        return validate_args(application.get("args") or {}, source=f"args of {path}")
    return load_serve(path, overrides)


READERS: dict[str, Callable[[str | Path, Overrides], Config]] = {
    "distill": load_distill,
    "evaluate": lambda path, overrides: load(EvaluateConfig, path, overrides),
    "collect": lambda path, overrides: load(CollectConfig, path, overrides),
    "study": load_study,
    "iterate": lambda path, overrides: load(IterateConfig, path, overrides),
    "tune curriculum": lambda path, overrides: load(CurriculumSearchConfig, path, overrides),
    "tune sparsity": lambda path, overrides: load(SparsitySearchConfig, path, overrides),
    "serve": _read_serve,
}
"""Programs by their words after `cleave`. A config that several accept asks the same of a cluster by each of them."""


class Command(NamedTuple):
    """A program with its config, as a command line names them."""

    program: str
    path: str
    overrides: tuple[str, ...] = ()

    def config(self) -> Config:
        """The resolved config. Raises ConfigError."""
        return READERS[self.program](self.path, self.overrides)


def command_of(words: Sequence[str]) -> Command | None:
    """The config that a command reads, from its words after `cleave`; None for commands that read none."""
    for program in READERS:
        length = len(program.split())
        if " ".join(words[:length]) != program:
            continue
        rest = [word for word in words[length:] if not word.startswith("-")]
        path = next((word for word in rest if word.endswith((".yaml", ".yml"))), None)
        return None if path is None else Command(program, path, tuple(word for word in rest if "=" in word and word != path))
    return None


def recognise(path: str | Path, overrides: Overrides = ()) -> Command:
    """Find out whose config a file is. Raises ConfigError where no program accepts it."""
    read_yaml(path)
    folder = Path(path).absolute().parent.name
    refusals: dict[str, ConfigError] = {}
    for program in sorted(READERS, key=lambda program: program.split()[0] != folder):
        try:
            READERS[program](path, overrides)
        except ConfigError as error:
            refusals[program] = error
        else:
            return Command(program, str(path), tuple(overrides))
    likely = next((program for program in refusals if program.split()[0] == folder), "evaluate")
    raise ConfigError(f"no program accepts {path}; `cleave {likely}` says: {refusals[likely]}")


def runs_of(config: Config) -> dict[str, Config]:
    """The runs that a config is made of, by name, in order: a single one, or the parts of a study, a search or an iteration.

    Checkpoints that an earlier run makes are called TO_COME.
    """
    if isinstance(config, StudentsConfig):
        return {name: config.student(name) for name in config.students}
    if isinstance(config, StudyConfig):
        students = {name: config.student(name, config.seeds[0]) for name in config.students}
        rows = {name: config.row(name, config.seeds[0], dict.fromkeys(config.students, TO_COME)) for name in config.rows}
        gathered = {"collection": config.collection()} if config.collect else {}
        return {**gathered, **students, **rows}
    if isinstance(config, VerifierStudyConfig):
        students = {name: config.student(name, config.seeds[0]) for name in config.students}
        first = {"collection": config.collection()} if config.collect else {}
        return {**first, **students, "samples": config.sampled()}
    if isinstance(config, IterateConfig):
        samples = {f"samples-{name}": config.collection(0, name) for name in config.strategies}
        shares = {(task.title, name): 1 for task in config.tasks() for name in config.strategies}
        return {**samples, "training": config.training(0, shares), "evaluation": config.evaluation(0, TO_COME)}
    return {getattr(config, "name", "run"): config}


def storage_of(config: Config) -> str | None:
    """Where the runs of a config are kept; None where nothing is."""
    return getattr(config, "storage_path", None)


def models_of(config: Config) -> dict[str, ModelConfig]:
    """Every model that a config or one of its runs names, by the first place where it does; those TO_COME are left out."""
    found: dict[str, ModelConfig] = {}
    for part in (config, *runs_of(config).values(), *distillations(config).values()):
        for place, model in _models(part, ""):
            if TO_COME not in Path(model.model_name_or_path).parts and model not in found.values():
                found[place] = model
    return found


def distillations(config: Config) -> dict[str, DistillConfig]:
    """The trainings of a config, by name. Those of a search stand for all of its trials."""
    if isinstance(config, CurriculumSearchConfig):
        point = {key: domain.examples[0] for key, domain in config.space.items()}
        return {"trial": config.trial(point, config.seeds[0])}
    if isinstance(config, SparsitySearchConfig):
        found = config.by_role()
        points = {role: {key: domain.examples[0] for key, domain in one.space.items()} for role, one in found.items()}
        return {role: one.trial(points[role], one.seeds[0]) for role, one in found.items()}
    return {name: run for name, run in runs_of(config).items() if isinstance(run, DistillConfig)}


def _models(value: object, place: str) -> Iterator[tuple[str, ModelConfig]]:
    if isinstance(value, ModelConfig):
        yield place, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _models(getattr(value, name), f"{place}.{name}" if place else name)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _models(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _models(item, f"{place}.{i}")
