"""What one machine has for a run: versions, clock, memory, disk, models, variables. `cleave doctor` asks this of every node.

    report = examine(Wanted(models={"roles.solver.model": model}, variables=("HF_TOKEN",)), name="here")

Imports neither torch nor Ray and loads no weights. Left out: what the answers mean (cleave/doctor.py).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from cleave.config.model import ModelConfig
from cleave.errors import CleaveError, ConfigError, StorageError
from cleave.lm.revision import local_revision
from cleave.runs import RunFolder

TREE = Path(__file__).resolve().parent.parent
PACKAGES = ("ray", "torch", "transformers")
SOURCES = ("cleave", "actors", "pipelines", "tune", "serve")
CONNECT_S = 3.0


@dataclass(frozen=True)
class Wanted:
    """What a run needs of every machine."""

    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    """By the place where the config names them."""
    storage_path: str | None = None
    """Where results are kept; None: nothing is."""
    variables: tuple[str, ...] = ()
    """Environment variables that have to be set; their values are never read."""


@dataclass(frozen=True)
class ModelReport:
    """What a machine knows of one model."""

    model: str
    found: bool
    revision: str | None = None
    """None where only the Hub or a server knows."""
    weights: int = 0
    """Bytes of weights on disk."""
    problem: str = ""
    """Why it cannot be used; empty: it can."""
    note: str = ""
    """What will happen at the start, such as a download."""


@dataclass(frozen=True)
class NodeReport:
    """What a machine said. Sizes are bytes."""

    name: str
    python: str
    versions: Mapping[str, str]
    """Of the packages that are installed."""
    code: str
    """A hash of Cleave's own sources."""
    clock: float
    """Seconds since 1970."""
    memory: int
    """All of it; 0 where unknown."""
    scratch: int
    """Free in the folder for temporary files."""
    models: Mapping[str, ModelReport] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    """Wanted variables that are not set."""


def examine(wanted: Wanted, name: str) -> NodeReport:
    """Look at this machine. `name` is how messages call it."""
    return NodeReport(
        name=name,
        python=platform.python_version(),
        versions={package: found for package in PACKAGES if (found := _version(package)) is not None},
        code=code_hash(),
        clock=time.time(),
        memory=_memory(),
        scratch=shutil.disk_usage(tempfile.gettempdir()).free,
        models={place: model_report(model) for place, model in wanted.models.items()},
        missing=tuple(variable for variable in wanted.variables if not os.environ.get(variable)),
    )


def code_hash(tree: Path = TREE) -> str:
    """Sixteen hexadecimal digits for the sources that a run executes."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in (tree / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(tree).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def model_report(model: ModelConfig) -> ModelReport:
    """Whether a model can be used from here, by its files, the Hub's cache or an open port; nothing is downloaded."""
    try:
        if model.backend == "openai":
            return _endpoint(model)
        if model.backend == "recorded":
            there = Path(model.model_name_or_path).expanduser().exists()
            return ModelReport(model.short, there, problem="" if there else "there is no such file")
        revision = local_revision(model)
        return _on_the_hub(model) if revision is None else ModelReport(model.short, True, revision, sum(_weights(model)))
    except CleaveError as error:
        return ModelReport(model.short, False, problem=str(error).rstrip("."))


def write_mark(storage_path: str, probe: str, name: str) -> str:
    """Leave a file for the other machines to see. Returns the complaint, empty if it could be written."""
    try:
        RunFolder.open(storage_path, probe).write_text(name, name)
    except (StorageError, ConfigError) as error:
        return str(error)
    return ""


def seen_marks(storage_path: str, probe: str) -> list[str]:
    """The files of `write_mark` that can be seen from here; none where the folder cannot be read."""
    try:
        return RunFolder.open(storage_path, probe).names(".")
    except (StorageError, ConfigError):
        return []


def remove_marks(storage_path: str, probe: str) -> None:
    """Take the files of `write_mark` away again. Raises StorageError."""
    RunFolder.open(storage_path, probe).remove(["."])


def free_space(storage_path: str) -> int | None:
    """Free bytes at a local path, or at its nearest parent that exists; None for a URL."""
    if "://" in storage_path:
        return None
    path = Path(storage_path).expanduser().absolute()
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def _endpoint(model: ModelConfig) -> ModelReport:
    parts = urlsplit(model.base_url or "")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_S).close()
    except OSError as error:
        reason = f"nothing answers at {parts.hostname}:{port} ({error.strerror or error})"
        return ModelReport(model.short, False, problem=reason)
    return ModelReport(model.short, True)


def _on_the_hub(model: ModelConfig) -> ModelReport:
    name = model.model_name_or_path
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        return ModelReport(model.short, False, problem="there is no such folder")
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json", revision=model.revision), str):
        return ModelReport(model.short, True)
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return ModelReport(model.short, False, problem="it is not in the Hub's cache, and HF_HUB_OFFLINE forbids to fetch it")
    return ModelReport(model.short, True, note="is fetched from the Hub at the start, by each node")


def _weights(model: ModelConfig) -> Iterator[int]:
    from cleave.lm.reference import ROOT

    name = model.model_name_or_path
    folder = ROOT / name if model.backend == "reference" else Path(name).expanduser()
    return (path.stat().st_size for path in folder.glob("*.safetensors"))


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _version(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]  # builds for CPU and CUDA nodes are alike
    except PackageNotFoundError:
        return None
