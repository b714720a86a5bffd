"""The run folder of an evaluation: whose it is, what is finished in it, and when it is complete.

config.yaml and manifest.json are written first, shards/ while the run is under way, then traces.parquet; the manifest then says
`complete`, and only after that the shards go. A kill between any two of these loses nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import yaml

from cleave.config.base import dump, validate
from cleave.config.evaluate import EvaluateConfig
from cleave.config.roles import RoleConfig
from cleave.errors import ConfigError, StorageError
from cleave.lm.revision import local_revision
from cleave.manifest import manifest
from cleave.runs import CONFIG, MANIFEST, METRICS, REPORT, RunFolder
from cleave.traces import SHARDS, TRACES, merge
from cleave.types import ModelInfo, to_dict

OURS = (CONFIG, MANIFEST, METRICS, REPORT, TRACES, SHARDS)

FREE_TO_CHANGE = re.compile(
    r"storage_path|overwrite|backend|max_in_flight|max_consecutive_failures|flush_.*|report|bootstrap\..*"
    r"|roles\.\w+\.(batching|resources)\..*|roles\.\w+\.model\.(max_batch_size|max_concurrency|max_retries|\w+_timeout_s|api_key_env)"
)
"""Fields, by dotted path, that change no answer: a run may go on with other ones."""


class EvaluationFolder:
    """Made by `claim`. `complete`: all problems were asked by an earlier session."""

    def __init__(self, folder: RunFolder, config: EvaluateConfig, state: dict[str, Any]) -> None:
        self.folder = folder
        self._config = config
        self._state = state

    @classmethod
    def claim(cls, config: EvaluateConfig) -> EvaluationFolder:
        """Open the folder, new or of an earlier session of the same run.

        Raises ConfigError if it belongs to another run, StorageError if it cannot be written.
        """
        folder = RunFolder.open(config.storage_path, config.name)
        folder.prepare()
        if config.overwrite:
            folder.remove(OURS)
        if folder.exists(CONFIG):
            _check_same(folder, config)
        state = read_state(folder)
        claimed = cls(folder, config, state or manifest(seed=config.reasoning.seed, complete=False, sessions=0, seconds=0.0))
        folder.write_text(CONFIG, dump(config))
        if claimed.complete:
            folder.remove([SHARDS])
        return claimed

    @property
    def complete(self) -> bool:
        return bool(self._state.get("complete"))

    def check_models(self) -> None:
        """Raise ConfigError if a local checkpoint has changed since it answered; nothing is loaded."""
        for role, known in self._state.get("models", {}).items():
            played: RoleConfig | None = getattr(self._config.roles, role, None)
            revision = None if played is None else local_revision(played.model)
            if revision is not None and known.get("revision") not in (None, "", revision):
                self._refuse(role, known, known | {"revision": revision})

    def begin(self, models: Mapping[str, ModelInfo]) -> None:
        """Note a session and the models that answer. Raises ConfigError if other ones answered before."""
        found = {role: to_dict(info) for role, info in models.items()}
        known = self._state.get("models", found)
        for role in sorted(set(known) | set(found)):
            if known.get(role) != found.get(role):
                self._refuse(role, known.get(role), found.get(role))
        self._state |= {"models": found, "sessions": self._state["sessions"] + 1}
        self._write_state()

    def pause(self, seconds: float) -> None:
        """Note the time that an unfinished session took."""
        self._state["seconds"] += seconds
        self._write_state()

    def finish(self, seconds: float, hashes: Mapping[str, str]) -> None:
        """Turn the shards into traces.parquet."""
        rows = merge(self.folder)
        self._state["seconds"] += seconds
        self._state |= {"complete": True, "traces": rows, "data": dict(hashes)}
        self._write_state()
        self.folder.remove([SHARDS])

    def _refuse(self, role: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> NoReturn:
        raise ConfigError(
            f"the {role} of the run in {self.folder.location} was {_named(before)} and is {_named(now)}; "
            "choose another name=…, or set overwrite=true to start anew."
        )

    def _write_state(self) -> None:
        self.folder.write_text(MANIFEST, json.dumps(self._state, indent=2, ensure_ascii=False) + "\n")


def read_state(folder: RunFolder) -> dict[str, Any] | None:
    """The manifest; None where there is none yet. Raises StorageError for a damaged one."""
    if not folder.exists(MANIFEST):
        return None
    try:
        state: dict[str, Any] = json.loads(folder.read_text(MANIFEST))
    except ValueError as error:
        raise StorageError(
            f"{MANIFEST} in {folder.location} is damaged; delete it to go on, or set overwrite=true to start anew."
        ) from error
    return state


def _check_same(folder: RunFolder, config: EvaluateConfig) -> None:
    for key, was, now in changes(_read_config(folder), yaml.safe_load(dump(config))):
        raise ConfigError(
            f"{folder.location} holds another run ({key} was {was!r}, is {now!r}); "
            "choose another name=…, or set overwrite=true to start anew."
        )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, before, now) of the fields in which two configs differ and which may change answers."""
    old, new = flatten(before), flatten(now)
    for key in sorted(set(old) | set(new)):
        if not FREE_TO_CHANGE.fullmatch(key) and old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def _read_config(folder: RunFolder) -> dict[str, Any]:
    """The config that the run began with; fields that came since have their defaults."""
    try:
        data = yaml.safe_load(folder.read_text(CONFIG))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StorageError(f"{CONFIG} in {folder.location} is damaged; choose another name=…, or set overwrite=true.") from error
    written = data if isinstance(data, dict) else {}
    try:
        read: dict[str, Any] = yaml.safe_load(dump(validate(EvaluateConfig, written, f"{folder.location}/{CONFIG}")))
    except ConfigError:  # by other rules than today's: compared as it is, which names the field that changed
        return written
    return read


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists by dotted path; an empty one stays a value."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    flat: dict[str, Any] = {}
    for key, value in items:
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, dict | list) and value else {path: value}
    return flat


def _named(info: Mapping[str, Any] | None) -> str:
    if info is None:
        return "nobody"
    details = ", ".join(str(info[key]) for key in ("revision", "dtype", "parameters") if info.get(key))
    return f"{info['name']} ({details})" if details else str(info["name"])
