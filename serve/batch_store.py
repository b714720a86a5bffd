"""Files and batches on disk: what was sent, which requests are at work, what came of them. One SQLite database; plain calls, any thread.

    store = BatchStore(config)
    batch = store.create("alice", store.add_file("alice", "in.jsonl", data).id, "/v1/chat/completions", {})
    while (work := store.take(lease_s=60)) is not None:
        store.finish(work, {"status_code": 200, "request_id": "1", "body": {}})

What it guarantees, also when its process is killed at any moment:

1. A request is handed out to one worker at a time; a worker that does not finish it within its lease is taken for dead.
2. What is finished stays finished and is never handed out again, nor is anything of a batch that was cancelled or has expired.
3. Nobody sees, uses or deletes anything of another key.
4. Keys take turns: the next request is of the key with the fewest at work, and of its oldest batch.

Left out: doing the work (serve/batch_worker.py), the routes (serve/batch_routes.py).
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cleave.config.serve_batches import BatchesConfig
from cleave.errors import DataError
from serve.batch_file import BadLine, read_requests
from serve.batch_tables import Database, StoredBatch, StoredFile, Work, batch_of

WINDOW_S = 86_400
"""OpenAI's completion window of 24 hours."""
LEAST_BYTES = 1024
"""What a file counts at least."""
OPEN = ("in_progress", "cancelling")


class BatchStore:
    """All files and batches. Raises StorageError where the disk fails."""

    def __init__(self, config: BatchesConfig, clock: Callable[[], float] = time.time) -> None:
        """Raises ConfigError for a folder that cannot be written."""
        assert config.folder is not None
        self._config, self._clock = config, clock
        self._db = Database(Path(config.folder).expanduser())

    # --- files ---

    def add_file(self, key: str, name: str, content: bytes) -> StoredFile:
        """Keep what a key sent. Raises DataError where it has no room left."""
        with self._db.transaction():
            self._sweep()
            if self._bytes_of(key) + max(len(content), LEAST_BYTES) > self._config.max_bytes:
                raise DataError(f"this key's files and batches have {self._config.max_bytes} bytes in all; delete some files.")
            return self._keep(key, name, "batch", content)

    def file(self, key: str, name: str) -> StoredFile | None:
        """A file of a key."""
        with self._db.transaction():
            return next(iter(self._files("key = ? AND id = ?", key, name)), None)

    def files(self, key: str) -> list[StoredFile]:
        """The files of a key, the newest first."""
        with self._db.transaction():
            return self._files("key = ?", key)

    def content(self, key: str, name: str) -> bytes | None:
        """What is in a file of a key."""
        with self._db.transaction():
            row = self._db.execute("SELECT content FROM files WHERE key = ? AND id = ?", (key, name)).fetchone()
            return None if row is None else bytes(row["content"])

    def delete_file(self, key: str, name: str) -> bool:
        """Delete a file of a key; whether it was there. Batches have their own copy of what they were made of."""
        with self._db.transaction():
            return self._db.execute("DELETE FROM files WHERE key = ? AND id = ?", (key, name)).rowcount > 0

    # --- batches ---

    def create(self, key: str, file: str, endpoint: str, metadata: Mapping[str, str]) -> StoredBatch | None:
        """A batch of a key's file, failed at once where the file is not good; None without such a file. Raises DataError where the key has
        too many batches or bytes."""
        with self._db.transaction():
            self._sweep()
            row = self._db.execute("SELECT content FROM files WHERE key = ? AND id = ?", (key, file)).fetchone()
            if row is None:
                return None
            content = bytes(row["content"])
            self._check_room(key, len(content))
            name, now = f"batch_{uuid.uuid4().hex}", self._clock()
            requests, errors = [], list[Mapping[str, Any]]()
            try:
                requests = list(read_requests(content, endpoint, self._config.max_requests))
            except BadLine as bad:
                errors = [{"code": bad.code, "line": bad.line, "message": str(bad), "param": None}]
            status = "failed" if errors else "in_progress"
            size = 0 if errors else sum(len(request.body) for request in requests)
            times, total = json.dumps({status: int(now)}), 0 if errors else len(requests)
            self._db.execute(
                "INSERT INTO batches (id, key, file, endpoint, metadata, created, status, times, errors, total, bytes)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (name, key, file, endpoint, json.dumps(dict(metadata)), now, status, times, json.dumps(errors), total, size),
            )
            self._db.executemany(
                "INSERT INTO requests (batch, number, custom_id, body) VALUES (?, ?, ?, ?)",
                ((name, number, request.custom_id, request.body) for number, request in enumerate(requests)),
            )
            return self._batch(name)

    def batch(self, key: str, name: str) -> StoredBatch | None:
        """A batch of a key."""
        with self._db.transaction():
            self._sweep()
            row = self._db.execute("SELECT * FROM batches WHERE key = ? AND id = ?", (key, name)).fetchone()
            return None if row is None else batch_of(row)

    def batches(self, key: str) -> list[StoredBatch]:
        """The batches of a key, the newest first."""
        with self._db.transaction():
            self._sweep()
            rows = self._db.execute("SELECT * FROM batches WHERE key = ? ORDER BY created DESC, rowid DESC", (key,)).fetchall()
            return [batch_of(row) for row in rows]

    def cancel(self, key: str, name: str) -> StoredBatch | None:
        """Hand out nothing more of a batch; what is at work is finished. A batch that is finished stays as it is."""
        with self._db.transaction():
            self._db.execute(
                "UPDATE batches SET status = 'cancelling', times = json_set(times, '$.cancelling', ?)"
                " WHERE key = ? AND id = ? AND status = 'in_progress'",
                (int(self._clock()), key, name),
            )
            self._sweep()
            row = self._db.execute("SELECT * FROM batches WHERE key = ? AND id = ?", (key, name)).fetchone()
            return None if row is None else batch_of(row)

    # --- work ---

    def take(self, lease_s: float) -> Work | None:
        """The next request to work on; None: there is none now. It is handed out again after `lease_s` seconds without an end."""
        with self._db.transaction():
            self._sweep()
            now = self._clock()
            for batch in self._waiting(now):
                if self._bytes_of(batch["key"]) > self._config.max_bytes:
                    continue
                row = self._db.execute(
                    "SELECT number, custom_id, body FROM requests WHERE batch = ? AND line IS NULL AND leased <= ? ORDER BY number LIMIT 1",
                    (batch["id"], now),
                ).fetchone()
                if row is not None:
                    self._lease(batch["id"], row["number"], now + lease_s)
                    return Work(batch["id"], row["number"], row["custom_id"], batch["key"], batch["endpoint"], bytes(row["body"]))
            return None

    def put_back(self, work: Work, pause_s: float) -> None:
        """A request that could not be worked on; its batch rests for so long."""
        with self._db.transaction():
            self._lease(work.batch, work.number, 0.0)
            self._db.execute("UPDATE batches SET paused = ? WHERE id = ?", (self._clock() + pause_s, work.batch))

    def finish(self, work: Work, response: Mapping[str, Any]) -> None:
        """The end of a request. `response`: status_code, request_id and body. What was finished already stays as it is."""
        with self._db.transaction():
            self._end(work.batch, work.number, work.custom_id, response, None)
            self._sweep()

    # --- inside ---

    def _keep(self, key: str, name: str, purpose: str, content: bytes) -> StoredFile:
        file = StoredFile(f"file-{uuid.uuid4().hex}", name, purpose, int(self._clock()), len(content))
        self._db.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", (file.id, key, name, purpose, self._clock(), content))
        return file

    def _files(self, where: str, *values: str) -> list[StoredFile]:
        rows = self._db.execute(
            f"SELECT id, name, purpose, created, LENGTH(content) AS size FROM files WHERE {where} ORDER BY created DESC, rowid DESC", values
        )
        return [StoredFile(row["id"], row["name"], row["purpose"], int(row["created"]), row["size"]) for row in rows]

    def _batch(self, name: str) -> StoredBatch:
        return batch_of(self._db.execute("SELECT * FROM batches WHERE id = ?", (name,)).fetchone())

    def _bytes_of(self, key: str) -> int:
        files = self._one("SELECT SUM(MAX(LENGTH(content), ?)) FROM files WHERE key = ?", LEAST_BYTES, key)
        return files + self._one("SELECT SUM(bytes) FROM batches WHERE key = ?", key)

    def _one(self, query: str, *values: Any) -> int:
        return self._db.execute(query, values).fetchone()[0] or 0

    def _check_room(self, key: str, size: int) -> None:
        if self._one("SELECT COUNT(*) FROM batches WHERE key = ? AND status IN (?, ?)", key, *OPEN) >= self._config.max_open:
            raise DataError(f"this key has {self._config.max_open} batches that are not finished; wait, or cancel one.")
        if self._bytes_of(key) + size > self._config.max_bytes:
            raise DataError(f"this key's files and batches have {self._config.max_bytes} bytes in all; delete some files.")

    def _waiting(self, now: float) -> list[sqlite3.Row]:
        """Batches to take from, those of the key with the fewest requests at work first, then the oldest."""
        return self._db.execute(
            "SELECT id, key, endpoint, (SELECT COUNT(*) FROM requests r JOIN batches o ON o.id = r.batch"
            " WHERE o.key = b.key AND r.line IS NULL AND r.leased > ?) AS at_work"
            " FROM batches b WHERE status = 'in_progress' AND paused <= ? ORDER BY at_work, created, rowid",
            (now, now),
        ).fetchall()

    def _lease(self, batch: str, number: int, until: float) -> None:
        self._db.execute("UPDATE requests SET leased = ? WHERE batch = ? AND number = ? AND line IS NULL", (until, batch, number))

    def _end(self, batch: str, number: int, custom_id: str, response: Any, error: Any) -> None:
        failed = response is None or response["status_code"] != 200
        data = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}
        line = (json.dumps(data, ensure_ascii=False) + "\n").encode()
        changed = self._db.execute(
            "UPDATE requests SET line = ?, failed = ?, body = x'' WHERE batch = ? AND number = ? AND line IS NULL",
            (line, failed, batch, number),
        ).rowcount
        if changed:
            self._db.execute(
                "UPDATE batches SET completed = completed + ?, failed = failed + ?, bytes = bytes + ? WHERE id = ?",
                (not failed, failed, len(line), batch),
            )

    def _sweep(self) -> None:
        """Close batches that are done, cancelled or out of time; delete what is old."""
        now = self._clock()
        for batch in self._db.execute("SELECT * FROM batches WHERE status IN (?, ?)", OPEN).fetchall():
            if batch["created"] + WINDOW_S <= now:
                self._expire(batch["id"])
            elif batch["status"] == "cancelling" and not self._at_work(batch["id"], now):
                self._close(batch["id"], "cancelled")
            elif batch["status"] == "in_progress" and batch["completed"] + batch["failed"] == batch["total"]:
                self._close(batch["id"], "completed")
        oldest = now - self._config.keep_days * 86_400
        self._db.execute("DELETE FROM files WHERE created < ?", (oldest,))
        self._db.execute("DELETE FROM batches WHERE created < ? AND status NOT IN (?, ?)", (oldest - WINDOW_S, *OPEN))

    def _at_work(self, batch: str, now: float) -> int:
        return self._one("SELECT COUNT(*) FROM requests WHERE batch = ? AND line IS NULL AND leased > ?", batch, now)

    def _expire(self, batch: str) -> None:
        """What was not worked on is an error."""
        error = {"code": "batch_expired", "message": "this request was not worked on before the batch expired."}
        for row in self._db.execute("SELECT number, custom_id FROM requests WHERE batch = ? AND line IS NULL", (batch,)).fetchall():
            self._end(batch, row["number"], row["custom_id"], None, error)
        self._close(batch, "expired")

    def _close(self, name: str, status: str) -> None:
        """Put the replies into files, forget the requests."""
        batch = self._db.execute("SELECT * FROM batches WHERE id = ?", (name,)).fetchone()
        files: dict[str, str | None] = {}
        for kind, failed in (("output", 0), ("error", 1)):
            rows = self._db.execute("SELECT line FROM requests WHERE batch = ? AND failed = ? ORDER BY number", (name, failed))
            content = b"".join(row["line"] for row in rows)
            files[kind] = self._keep(batch["key"], f"{name}_{kind}.jsonl", "batch_output", content).id if content else None
        self._db.execute("DELETE FROM requests WHERE batch = ?", (name,))
        self._db.execute(
            "UPDATE batches SET status = ?, times = json_set(times, ?, ?), output = ?, error = ?, bytes = 0 WHERE id = ?",
            (status, f"$.{status}", int(self._clock()), files["output"], files["error"], name),
        )
