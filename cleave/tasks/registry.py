"""Finds a task by name: generated, real, in files, on the Hub, or the user's own `package.module:name`.

get_task("gsm8k"), get_task("jsonl:my.jsonl"), get_task({"name": "arithmetic", "dials": {"depths": [2]}})
"""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from cleave.config.base import validate
from cleave.config.task import FieldMap, TaskConfig
from cleave.errors import ConfigError
from cleave.tasks.bbh import Bbh
from cleave.tasks.files import FileTask
from cleave.tasks.gsm8k import Gsm8k, Gsm8kSocratic
from cleave.tasks.hub import HubTask
from cleave.tasks.svamp import Svamp
from cleave.tasks.task import Task

REFERENCE = ("arithmetic", "lookup", "reading", "sums", "facts", "relations", "records", "columns", "lists")
REAL = ("gsm8k", "gsm8k-socratic", "svamp")
FORMS = ("bbh:NAME", "jsonl:PATH", "parquet:PATH", "hub:ID", "package.module:name")

_Builder = Callable[[TaskConfig], Task]


def get_task(spec: str | Mapping[str, Any] | TaskConfig) -> Task:
    """The task that a name, mapping or config means. Raises ConfigError for an unknown name or an option that does not apply."""
    config = spec if isinstance(spec, TaskConfig) else validate(TaskConfig, _mapping(spec), "the task")
    builder, options = _BUILDERS.get(config.kind, (_own, ("dials",) if config.argument else ()))
    if builder is _own and not config.argument:
        raise ConfigError(_unknown(config.name))
    _refuse_others(config, options)
    return builder(config)


def names() -> list[str]:
    """The tasks that need no argument."""
    return [*REFERENCE, *REAL]


def _mapping(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": spec} if isinstance(spec, str) else dict(spec)


def _reference(config: TaskConfig) -> Task:
    from cleave.tasks.reference import reference_task

    return reference_task(config.kind, config.profile, **config.dials)


def _file(config: TaskConfig) -> Task:
    if config.kind == "jsonl":
        return FileTask(config.argument or config.path or "", "jsonl", config.fields)
    return FileTask(config.argument or config.path or "", "parquet", config.fields)


def _hub(config: TaskConfig) -> Task:
    return HubTask(config.argument or config.path or "", config.subset, config.revision, config.fields)


_FROM_FILE = ("path", "fields")
_BUILDERS: dict[str, tuple[_Builder, tuple[str, ...]]] = {
    **dict.fromkeys(REFERENCE, (_reference, ("profile", "dials"))),
    "gsm8k": (lambda config: Gsm8k(config.path), ("path",)),
    "gsm8k-socratic": (lambda config: Gsm8kSocratic(config.path), ("path",)),
    "svamp": (lambda config: Svamp(config.path), ("path",)),
    "bbh": (lambda config: Bbh(config.argument, config.path), ("path",)),
    "jsonl": (_file, _FROM_FILE),
    "parquet": (_file, _FROM_FILE),
    "hub": (_hub, (*_FROM_FILE, "subset", "revision")),
}
_WITH_ARGUMENT = ("bbh", "jsonl", "parquet", "hub")


def _own(config: TaskConfig) -> Task:
    """A Task object, or what a class or function named by the user returns for the dials."""
    value = _import(config.kind, config.argument)
    if isinstance(value, type) or not isinstance(value, Task):
        if not callable(value):
            raise ConfigError(f"{config.name} is no Task and nothing that makes one; give a Task, a class or a function.")
        try:
            value = value(**config.dials)
        except TypeError as error:
            raise ConfigError(
                f"{config.name} cannot be called with the dials {sorted(config.dials)} ({error}); correct the dials."
            ) from error
    if not isinstance(value, Task):
        raise ConfigError(f"{config.name} gave {type(value).__name__}, which lacks part of the Task interface; see cleave/tasks/task.py.")
    return value


def _import(module: str, name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or module):
            raise ConfigError(f"{module}:{name} needs the module {error.name!r}, which is not installed; install it.") from error
        raise ConfigError(_unknown(f"{module}:{name}")) from error
    if not hasattr(found, name):
        near = difflib.get_close_matches(name, dir(found), n=1)
        raise ConfigError(f"the module {module} has no {name!r}; " + (f"did you mean {near[0]!r}?" if near else "check the name."))
    return getattr(found, name)


def _refuse_others(config: TaskConfig, options: tuple[str, ...]) -> None:
    if config.kind in _BUILDERS and config.kind not in _WITH_ARGUMENT and config.argument:
        raise ConfigError(f"the task {config.kind} takes nothing after a colon; remove {':' + config.argument!r}.")
    for option in config.model_fields_set - {"name", *options}:
        if getattr(config, option) not in (None, {}, FieldMap()):
            known = f"its options are: {', '.join(options)}" if options else "it has no options"
            raise ConfigError(f"{option} does not apply to the task {config.name}; {known}.")
    if config.path and config.argument and config.kind != "bbh":
        raise ConfigError(f"the task {config.name} has a path after its colon and another in `path`; keep one.")


def _unknown(name: str) -> str:
    kind = name.partition(":")[0]
    near = difflib.get_close_matches(kind, [*names(), *_WITH_ARGUMENT], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no task is called {name!r}; {hint}choose one of: {', '.join((*names(), *FORMS))}."
