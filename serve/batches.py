"""The store of batches as the ingress replicas see it, in this process or in the replica named Batches (serve/deployments.py).

Every method is one of BatchStore's (serve/batch_store.py), asynchronous; it raises that one's errors, and RoleUnavailable where the store
cannot be reached. What is stored lies on disk, so a store that comes back goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from cleave.config.serve import ServeArgs
from cleave.config.serve_batches import BatchesConfig
from cleave.errors import CleaveError
from serve.batch_store import BatchStore
from serve.batch_tables import StoredBatch, StoredFile, Work


class Batches:
    """The methods of a store. A subclass says how they are reached."""

    def __init__(self, config: BatchesConfig) -> None:
        self.config = config

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the store."""
        raise NotImplementedError

    async def add_file(self, key: str, name: str, content: bytes) -> StoredFile:
        file: StoredFile = await self.ask("add_file", key, name, content)
        return file

    async def file(self, key: str, name: str) -> StoredFile | None:
        file: StoredFile | None = await self.ask("file", key, name)
        return file

    async def files(self, key: str) -> list[StoredFile]:
        files: list[StoredFile] = await self.ask("files", key)
        return files

    async def content(self, key: str, name: str) -> bytes | None:
        content: bytes | None = await self.ask("content", key, name)
        return content

    async def delete_file(self, key: str, name: str) -> bool:
        there: bool = await self.ask("delete_file", key, name)
        return there

    async def create(self, key: str, file: str, endpoint: str, metadata: Mapping[str, str]) -> StoredBatch | None:
        batch: StoredBatch | None = await self.ask("create", key, file, endpoint, metadata)
        return batch

    async def batch(self, key: str, name: str) -> StoredBatch | None:
        batch: StoredBatch | None = await self.ask("batch", key, name)
        return batch

    async def batches(self, key: str) -> list[StoredBatch]:
        batches: list[StoredBatch] = await self.ask("batches", key)
        return batches

    async def cancel(self, key: str, name: str) -> StoredBatch | None:
        batch: StoredBatch | None = await self.ask("cancel", key, name)
        return batch

    async def take(self, lease_s: float) -> Work | None:
        work: Work | None = await self.ask("take", lease_s)
        return work

    async def put_back(self, work: Work, pause_s: float) -> None:
        await self.ask("put_back", work, pause_s)

    async def finish(self, work: Work, response: Mapping[str, Any]) -> None:
        await self.ask("finish", work, response)


class LocalBatches(Batches):
    """A store in this process, with its disk kept off the event loop."""

    def __init__(self, args: ServeArgs) -> None:
        """Raises ConfigError for a folder that cannot be written."""
        super().__init__(args.batches)
        self._store = BatchStore(args.batches)

    async def ask(self, method: str, *arguments: Any) -> Any:
        return await asyncio.to_thread(getattr(self._store, method), *arguments)


class HostedBatches(LocalBatches):
    """The same in a replica of its own: typed errors travel as values, so they arrive as they left."""

    async def ask(self, method: str, *arguments: Any) -> Any:
        try:
            return await super().ask(method, *arguments)
        except CleaveError as error:
            return error
