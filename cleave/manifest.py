"""What a result was made with: versions, machine, commit. Written beside each result as manifest.json; imports nothing heavy."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("cleave-llm", "torch", "transformers", "tokenizers", "ray", "pyarrow", "numpy", "pydantic")


def manifest(**entries: Any) -> dict[str, Any]:
    """Versions, machine and commit, followed by `entries` (seeds, models, data hashes, whatever the program knows)."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "machine": {"system": platform.system(), "processor": platform.machine(), "cpus": os.cpu_count()},
        "git": git_commit(),
        **entries,
    }


def git_commit() -> dict[str, Any] | None:
    """Commit of the tree that this file belongs to and whether it was changed since; None outside a git checkout."""
    tree = Path(__file__).resolve().parent.parent
    commit = _git(tree, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git(tree, "status", "--porcelain", "--untracked-files=no"))}


def _git(tree: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
