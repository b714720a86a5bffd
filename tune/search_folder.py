"""The folder of a search: config.yaml, trials/ with a run folder for each, and at the end manifest.json, metrics.jsonl, table.tsv,
parallel_coordinates.svg, best.yaml, report.html and last result.json, which marks the search as finished.

Left out: what a trial leaves in its own folder (trial.py).
"""

from __future__ import annotations

from typing import Any, TypeVar

import yaml

from cleave.config.base import dump, validate
from cleave.config.tune import ON_WORKERS, SearchConfig
from cleave.errors import ConfigError
from cleave.runs import CONFIG, RunFolder

RESULT = "result.json"
TABLE = "table.tsv"
BEST = "best.yaml"
FIGURE = "parallel_coordinates.svg"
_FREE_TO_CHANGE = {"max_concurrent_trials", "resources_per_trial", "max_failures", "time_budget_s", "storage_path", "select"}
"""Fields that change no figure of a trial, so that a search may go on with others."""
S = TypeVar("S", bound=SearchConfig)


def open_search(config: S) -> RunFolder:
    """The search's folder, made if need be. Raises ConfigError if it belongs to another search, or is on no disk."""
    folder = RunFolder.open(config.storage_path, config.name)
    if not folder.is_local:
        raise ConfigError(f"trials write to a disk that all nodes share, not to {folder.location}; set storage_path.")
    folder.prepare()
    if folder.exists(CONFIG):
        check_same(config, folder)
    return folder


def start(config: SearchConfig, folder: RunFolder) -> None:
    """Keep the config, once all mistakes that can be found early have been."""
    if not folder.exists(CONFIG):
        folder.write_text(CONFIG, dump(config))


def check_same(config: S, folder: RunFolder) -> None:
    """Compare with the config that the search was started with, read by today's rules. Raises ConfigError."""
    started = validate(type(config), yaml.safe_load(folder.read_text(CONFIG)), f"{folder.location}/{CONFIG}")
    free: dict[str, Any] = dict.fromkeys(_FREE_TO_CHANGE, True) | {"distill": ON_WORKERS}
    before, now = (one.model_dump(mode="json", exclude=free) for one in (started, config))
    changed = [key for key in now if before[key] != now[key]]
    if changed:
        key, was, wanted = _difference(changed[0], before[changed[0]], now[changed[0]])
        raise ConfigError(f"{folder.location} was started with {key}={was}, not {wanted}; use another name, or delete the folder.")


def _difference(key: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """The first place at which two values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for part in {**before, **now}:
            if before.get(part) != now.get(part):
                return _difference(f"{key}.{part}", before.get(part), now.get(part))
    return key, before, now
