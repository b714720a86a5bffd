"""The tree as one zip file for a job: what .gitignore and .rayignore leave, refused above the dashboard's upload limit.

The same content gives the same bytes, so an unchanged tree is uploaded once. The choice of files is Ray's own (its `.rayignore`
rules), so that `cleave submit` and `ray job submit --working-dir` send the same files.
"""

import logging
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from cleave.errors import ConfigError, StorageError

MAX_BYTES = 100 * 2**20
"""Largest request body that a Ray dashboard takes."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can hold; every file gets it."""


def build_package(folder: Path, target: Path, max_bytes: int = MAX_BYTES, excludes: Sequence[str] = ()) -> int:
    """Zip `folder` into `target` and return the number of files; `excludes` are further patterns, as in .gitignore.

    Raises ConfigError where the folder is missing or the zip would be larger than `max_bytes`, naming what is large;
    StorageError where `target` cannot be written.
    """
    if not folder.is_dir():
        raise ConfigError(f"no folder at {folder}; --working-dir names the root of the tree to send.")
    files = chosen_files(folder, excludes)
    if not files:
        raise ConfigError(f"{folder} has no file to send once .gitignore and .rayignore are applied.")
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as package:
            for file in files:
                _add(package, folder, file)
                if os.path.getsize(target) > max_bytes:
                    raise ConfigError(_too_large(folder, files, max_bytes))
    except OSError as error:
        raise StorageError(f"cannot pack {folder}: {error}; free some space or set TMPDIR.") from error
    if os.path.getsize(target) > max_bytes:
        raise ConfigError(_too_large(folder, files, max_bytes))
    return len(files)


def chosen_files(folder: Path, excludes: Sequence[str] = ()) -> list[Path]:
    """The regular files under `folder` that a job gets, sorted."""
    # Private to Ray, which is pinned exactly; tests/test_submit.py holds the behaviour that is relied on.
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    quiet = logging.getLogger(f"{__name__}.ray")
    quiet.disabled = True
    root = folder.absolute()
    found: list[Path] = []
    left_out = [_get_excludes(root, [*get_runtime_env_default_excludes(), *excludes])]
    _dir_travel(root, left_out, lambda path: found.append(path) if path.is_file() else None, include_gitignore=True, logger=quiet)
    return sorted(found)


def _add(package: zipfile.ZipFile, folder: Path, file: Path) -> None:
    info = zipfile.ZipInfo(file.relative_to(folder.absolute()).as_posix(), date_time=EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    executable = file.stat().st_mode & stat.S_IXUSR
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    package.writestr(info, file.read_bytes())


def _too_large(folder: Path, files: Iterable[Path], max_bytes: int) -> str:
    sizes: Counter[str] = Counter()
    for file in files:
        sizes["/".join(file.relative_to(folder.absolute()).parts[:2])] += file.stat().st_size
    largest = ", ".join(f"{name} ({size / 2**20:.0f} MB)" for name, size in sizes.most_common(3))
    return (
        f"{folder} is more than {max_bytes / 2**20:.0f} MB when zipped, which a Ray dashboard refuses; largest are {largest}: "
        "list what a job does not need in .rayignore, or put data on shared storage."
    )
