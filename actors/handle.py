"""RoleHandle over a role object in this process, with micro-batching: what every host (actor, Serve replica, inline job) puts in front.

    async with inline_roles(config.roles) as roles:
        trace = await reason(problem, roles, strategy)

Left out: Ray (pool.py) and handles without batching (local.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Hashable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from actors.batcher import BatcherStats, MicroBatcher, OnBatch
from actors.local import BatchedRole, LocalHandle, local_roles
from cleave.config.roles import RoleConfig, RolesConfig
from cleave.roles import ROLES, DecomposeRequest, Role, Roles, SolveRequest, VerifyRequest
from cleave.types import ModelInfo

Q = TypeVar("Q")
A = TypeVar("A")


class BatchingHandle(Generic[Q, A]):
    """Groups the requests of many callers into calls of one role. `on_batch` gets (requests, sequences) of each batch."""

    def __init__(self, role: BatchedRole[Q, A], config: RoleConfig, on_batch: OnBatch | None = None) -> None:
        self.role = role
        remote = config.model.backend == "openai"  # an endpoint batches by itself: one request per call, many calls at a time
        self._batcher: MicroBatcher[Q, A] = MicroBatcher(
            role,
            key=batch_key,
            size=sequences,
            max_batch_size=1 if remote else config.batching.max_batch_size,
            batch_wait_timeout_s=0.0 if remote else config.batching.batch_wait_timeout_s,
            concurrency=config.model.max_concurrency if remote else 1,
            on_batch=on_batch,
        )

    async def __call__(self, request: Q, on_batch: OnBatch | None = None) -> A:
        """The reply to one request. `on_batch`: as for the constructor, of the batch that this request is in."""
        return await self._batcher.submit(request, on_batch)

    async def info(self) -> ModelInfo:
        return self.role.info

    @property
    def stats(self) -> BatcherStats:
        return self._batcher.stats

    async def aclose(self) -> None:
        """Cancel what waits and release the model."""
        await self._batcher.aclose()
        await self.role.aclose()


@asynccontextmanager
async def inline_roles(config: RolesConfig, record: Path | None = None, only: Collection[Role] = ROLES) -> AsyncIterator[Roles]:
    """The cast in this process behind micro-batchers; roles that name the same model share its weights. Raises ConfigError."""
    local = await asyncio.to_thread(local_roles, config, record, only)
    handles: list[Any] = [
        BatchingHandle(handle.role, role_config) if isinstance(handle, LocalHandle) else handle
        for handle, role_config in (
            (local.decomposer, config.decomposer),
            (local.solver, config.solver),
            (local.verifier, config.verifier or config.solver),
        )
    ]
    try:
        yield Roles(*handles)
    finally:
        for handle in handles:
            if isinstance(handle, BatchingHandle):
                await handle.aclose()


def batch_key(request: object) -> Hashable:
    """Requests of equal keys may share a call of the model: same kind, same mode, same sampling options."""
    if isinstance(request, DecomposeRequest):
        return request.mode, request.sampling
    if isinstance(request, SolveRequest):
        return request.mode, request.sampling
    return type(request).__name__


def sequences(request: object) -> int:
    """How many sequences a request makes the model work on."""
    if isinstance(request, DecomposeRequest | SolveRequest):
        return request.sampling.n
    return len(request.solutions) if isinstance(request, VerifyRequest) else 1
