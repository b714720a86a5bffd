"""What the store of batches (serve/batch_store.py) keeps and where: its records, and the SQLite database that they lie in."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cleave.errors import ConfigError, StorageError

FILE = "batches.sqlite"
WAIT_S = 30.0
"""For another process that writes: during an upgrade there are two for a moment."""
TABLES = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, key TEXT, name TEXT, purpose TEXT, created REAL, content BLOB);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, key TEXT, file TEXT, endpoint TEXT, metadata TEXT, created REAL, status TEXT, times TEXT, errors TEXT,
    total INTEGER, completed INTEGER DEFAULT 0, failed INTEGER DEFAULT 0, bytes INTEGER DEFAULT 0, paused REAL DEFAULT 0,
    output TEXT, error TEXT);
CREATE TABLE IF NOT EXISTS requests (
    batch TEXT, number INTEGER, custom_id TEXT, body BLOB, leased REAL DEFAULT 0, failed INTEGER, line BLOB, PRIMARY KEY (batch, number));
CREATE INDEX IF NOT EXISTS waiting ON requests (batch, number) WHERE line IS NULL;
CREATE INDEX IF NOT EXISTS leases ON requests (batch, leased) WHERE line IS NULL;
"""


@dataclass(frozen=True)
class StoredFile:
    """What is known of a file beside its content. Times are Unix seconds."""

    id: str
    name: str
    purpose: str
    created: int
    bytes: int


@dataclass(frozen=True)
class StoredBatch:
    """A batch. `times`: Unix seconds by what happened (in_progress, completed, …). `errors`: why its file was refused."""

    id: str
    file: str
    endpoint: str
    metadata: Mapping[str, str]
    created: int
    status: str
    times: Mapping[str, int]
    errors: Sequence[Mapping[str, Any]]
    total: int
    completed: int
    failed: int
    output: str | None
    error: str | None


@dataclass(frozen=True)
class Work:
    """One request of a batch, handed to a worker. `body`: JSON, as the client wrote it."""

    batch: str
    number: int
    custom_id: str
    key: str
    endpoint: str
    body: bytes = field(repr=False)


class Database:
    """The database of a folder; one transaction at a time, from any thread."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError for a folder that cannot be written."""
        self._lock = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(folder / FILE, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(TABLES)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"batches cannot be kept in {folder}: {error}; correct batches.folder.") from error
        self._connection.row_factory = sqlite3.Row
        self.execute, self.executemany = self._connection.execute, self._connection.executemany

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is executed in the `with`, or nothing of it. Raises StorageError."""
        with self._lock:
            try:
                self.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    if self._connection.in_transaction:  # SQLite has ended it where the disk is full
                        self.execute("ROLLBACK")
                    raise
                self.execute("COMMIT")
            except sqlite3.Error as error:
                raise StorageError(f"batches cannot be stored: {error}; free space on the disk of batches.folder.") from error


def batch_of(row: sqlite3.Row) -> StoredBatch:
    """A row of the table of batches."""
    return StoredBatch(
        id=row["id"],
        file=row["file"],
        endpoint=row["endpoint"],
        metadata=json.loads(row["metadata"]),
        created=int(row["created"]),
        status=row["status"],
        times=json.loads(row["times"]),
        errors=json.loads(row["errors"]),
        total=row["total"],
        completed=row["completed"],
        failed=row["failed"],
        output=row["output"],
        error=row["error"],
    )
