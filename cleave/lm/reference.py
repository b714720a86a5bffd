"""The checkpoints that ship with Cleave: finding them, and refusing one that no longer fits the code.

`reference/index.json` maps each name to the fingerprint that held when it was trained: task profile, prompt set, tokenizer, config.
A difference means that the model answers questions it was not trained on; that is an error, never a warning.

    folder = resolve("solver")
    write_index_entry("solver", folder, profile="default-v1", prompts="reference-v1", extra={"tokens": 40_000_000})
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cleave.errors import ConfigError, DataError, FingerprintError
from cleave.prompts import load_prompts

ROOT = Path(__file__).resolve().parents[2] / "reference"
INDEX = "index.json"
_PARTS = {
    "profile": "task profile",
    "profile_hash": "generated problems of the task profile",
    "prompts": "prompt set",
    "prompts_hash": "text of the prompt set",
    "tokenizer_hash": "tokenizer.json",
    "config_hash": "config.json",
}


def shipped(root: Path = ROOT) -> list[str]:
    """Names in the index, sorted."""
    return sorted(_read_index(root))


def resolve(name: str, root: Path = ROOT) -> Path:
    """The folder of a shipped checkpoint. Raises ConfigError for an unknown name, FingerprintError for a stale one."""
    index = _read_index(root)
    folder = root / name
    if name not in index or not folder.is_dir():
        known = ", ".join(other for other in sorted(index) if (root / other).is_dir()) or "none yet"
        raise ConfigError(f"no reference model {name!r} in {root}; shipped: {known}; name one of them, or hf:PATH.")
    verify(name, folder, index[name].get("fingerprint", {}))
    return folder


def verify(name: str, folder: Path, recorded: Mapping[str, str]) -> None:
    """Raise FingerprintError naming the parts of `folder`'s fingerprint that differ from the recorded one."""
    try:
        now = fingerprint(folder, recorded.get("prompts", ""), recorded.get("profile", ""))
    except ConfigError as error:
        raise FingerprintError(f"reference:{name} cannot be checked: {error} Train it again with {_remedy(name)}.") from error
    stale = [meaning for part, meaning in _PARTS.items() if now[part] != recorded.get(part)]
    if stale:
        raise FingerprintError(f"reference:{name} is stale: {', '.join(stale)} changed since it was trained; run {_remedy(name)}.")


def fingerprint(folder: Path, prompts: str, profile: str = "default-v1") -> dict[str, str]:
    """What a checkpoint depends on, by part. Raises ConfigError for an unknown profile or prompt set, or a missing file."""
    from cleave.tasks.reference.profile import profile_hash

    return {
        "profile": profile,
        "profile_hash": profile_hash(profile),
        "prompts": prompts,
        "prompts_hash": load_prompts(prompts).fingerprint,
        "tokenizer_hash": _sha256(folder / "tokenizer.json"),
        "config_hash": _sha256(folder / "config.json"),
    }


def write_index_entry(name: str, folder: Path, profile: str, prompts: str, extra: Mapping[str, Any] | None = None) -> None:
    """Record the fingerprint of `folder` (ROOT/name) in the index beside it, replacing an older entry."""
    index = _read_index(folder.parent)
    index[name] = {"fingerprint": fingerprint(folder, prompts, profile), **(extra or {})}
    target = folder.parent / INDEX
    partial = target.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(target)


def _read_index(root: Path) -> dict[str, dict[str, Any]]:
    try:
        data = json.loads((root / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{root / INDEX} cannot be read: {error}; restore it from version control.") from error
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        raise DataError(f"{root / INDEX} is not a mapping of names to entries; restore it from version control.")
    return data


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{path.parent} has no readable {path.name}.") from error


def _remedy(name: str) -> str:
    return f"`cleave distill configs/reference/{name}.yaml`"
