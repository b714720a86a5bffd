"""A run folder: `storage_path/name` on a local disk or at any URL that pyarrow or fsspec understands (s3://, gs://, memory:// …).

    folder = RunFolder.open("runs", "demo")
    folder.write_text("config.yaml", text)

Files appear whole or not at all: each is written under a temporary name and moved. Failures of the disk are StorageErrors with the
remedy. Left out: what the files hold (traces.py, manifest.py and the programs).
"""

from __future__ import annotations

import errno
import json
import os
import posixpath
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

import pyarrow
from pyarrow import fs

from cleave.errors import ConfigError, StorageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
PROBE = ".probe"
CONFIG = "config.yaml"
MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
REPORT = "report.html"


class RunFolder:
    """One run's folder. `location` is how messages call it; `filesystem` and `root` are pyarrow's."""

    def __init__(self, filesystem: fs.FileSystem, root: str, location: str) -> None:
        self.filesystem = filesystem
        self.root = root
        self.location = location

    @classmethod
    def open(cls, storage_path: str, name: str) -> RunFolder:
        """Name a folder; nothing is created yet. Raises ConfigError for a bad name or an unknown kind of URL."""
        if not NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot name a run; use letters, digits, '.', '_' and '-', such as name=demo-1.")
        filesystem, base = _filesystem(storage_path)
        return cls(filesystem, posixpath.join(base, name), posixpath.join(storage_path, name))

    @classmethod
    def at(cls, location: str) -> RunFolder:
        """The folder of an existing run, by its path or URL. Raises ConfigError if there is none."""
        filesystem, root = _filesystem(location)
        folder = cls(filesystem, root, location)
        if not folder.exists("."):
            raise ConfigError(f"there is no run folder at {location}; `ls runs/` shows those of this machine.")
        return folder

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        """The file's path inside `filesystem`."""
        return posixpath.normpath(posixpath.join(self.root, name))

    def prepare(self) -> None:
        """Create the folder and write a byte, so that a folder that cannot be written is refused before work starts."""
        with self._storage("write to"):
            self.filesystem.create_dir(self.root, recursive=True)
        self.write_text(PROBE, "x")
        self.remove([PROBE])

    def exists(self, name: str) -> bool:
        with self._storage("read"):
            return bool(self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound)

    def names(self, under: str, *, recursive: bool = False) -> list[str]:
        """Names of the files in a sub-folder, sorted, each with its path inside this folder; none if it does not exist."""
        with self._storage("read"):
            infos = self.filesystem.get_file_info(fs.FileSelector(self.path(under), allow_not_found=True, recursive=recursive))
        start = len(self.path(".").strip("/")) + 1  # some file systems name their files from a leading slash, some do not
        return sorted(info.path.strip("/")[start:] for info in infos if info.is_file and not info.base_name.startswith("."))

    def read_text(self, name: str) -> str:
        with self._storage("read"), self.filesystem.open_input_stream(self.path(name)) as stream:
            return bytes(stream.read()).decode("utf-8")

    def write_text(self, name: str, text: str) -> None:
        with self.writing(name) as stream:
            stream.write(text.encode("utf-8"))

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSON lines file."""
        self.write_text(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A stream whose content becomes the file when the body ends without an error; of several writers the last one counts."""
        final = self.path(name)
        folder, base = posixpath.split(final)
        temporary = posixpath.join(folder, f".{secrets.token_hex(4)}.{base}.partial")
        with self._storage("write to"):
            self.filesystem.create_dir(folder, recursive=True)
            try:
                with self.filesystem.open_output_stream(temporary) as stream:
                    yield stream
                self.filesystem.move(temporary, final)
            except BaseException:
                with suppress(OSError):
                    self.filesystem.delete_file(temporary)
                raise

    def remove(self, names: Iterable[str]) -> None:
        """Delete files and sub-folders by name; those that are not there are skipped."""
        with self._storage("delete from"):
            for name in names:
                kind = self.filesystem.get_file_info(self.path(name)).type
                if kind == fs.FileType.Directory:
                    self.filesystem.delete_dir(self.path(name))
                elif kind != fs.FileType.NotFound:
                    self.filesystem.delete_file(self.path(name))

    @contextmanager
    def _storage(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(_sentence(doing, self.location, error)) from error


def _filesystem(location: str) -> tuple[fs.FileSystem, str]:
    """Split a path or URL into a file system and the path inside it."""
    if "://" not in location:
        return fs.LocalFileSystem(), _absolute(location)
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        return _fsspec(location)
    return filesystem, path


def _fsspec(location: str) -> tuple[fs.FileSystem, str]:
    import fsspec  # type: ignore[import-untyped, unused-ignore]

    try:
        filesystem, path = fsspec.core.url_to_fs(location)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"cannot store runs at {location}: {error}; use a local path or install the file system's package.") from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _sentence(doing: str, location: str, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left for {location}; free some, then run the same command again: finished work is kept."
    reason = (error.strerror or str(error) or type(error).__name__).rstrip(".")
    return f"cannot {doing} {location} ({' '.join(reason.split())}); check the path and its permissions, or set storage_path elsewhere."
