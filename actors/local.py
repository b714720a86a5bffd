"""Roles in this process: RoleHandle without Ray and without batching, for `cleave ask`, notebooks and tests.

async with open_roles(RolesConfig()) as roles:
    trace = await reason(problem, roles, ReasoningConfig())
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from actors.decomposer import build_decomposer
from actors.solver import build_solver
from actors.verifier import build_likelihood, build_verifier
from cleave.config.model import ModelConfig
from cleave.config.roles import RolesConfig
from cleave.errors import RoleUnavailable
from cleave.lm.build import build
from cleave.lm.protocol import LanguageModel
from cleave.roles import ROLES, Role, RoleHandle, Roles, VerifyReply, VerifyRequest
from cleave.types import ModelInfo

Q = TypeVar("Q")
A = TypeVar("A")
Q_contra = TypeVar("Q_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)


class BatchedRole(Protocol[Q_contra, A_co]):
    """What the three role classes have in common."""

    @property
    def info(self) -> ModelInfo: ...

    async def __call__(self, requests: Sequence[Q_contra], /) -> Sequence[A_co]: ...

    async def aclose(self) -> None: ...


class LocalHandle(Generic[Q, A]):
    """A RoleHandle that calls a role object directly."""

    def __init__(self, role: BatchedRole[Q, A]) -> None:
        self.role = role

    async def __call__(self, request: Q) -> A:
        (reply,) = await self.role([request])
        return reply

    async def info(self) -> ModelInfo:
        return self.role.info

    async def aclose(self) -> None:
        await self.role.aclose()


class NotAsked:
    """In the place of a role that a run does not ask, so that nothing is loaded for it."""

    def __init__(self, role: Role) -> None:
        self._role = role

    async def __call__(self, request: object) -> Any:
        raise RoleUnavailable(f"the {self._role} is not hosted in this run.")

    async def info(self) -> ModelInfo:
        return ModelInfo("not asked")


def local_roles(config: RolesConfig, record: Path | None = None, only: Collection[Role] = ROLES) -> Roles:
    """Build the cast in this process. Roles that name the same model share its weights; `record` appends every call to that file.

    Raises ConfigError. Loading local weights blocks.
    """
    models: dict[ModelConfig, LanguageModel] = {}

    def model(wanted: ModelConfig) -> LanguageModel:
        if wanted not in models:
            models[wanted] = build(wanted, record)
        return models[wanted]

    def verifier() -> BatchedRole[VerifyRequest, VerifyReply]:
        if config.verifier is not None:
            return build_verifier(config.verifier, model(config.verifier.model))
        return build_likelihood(config.solver, model(config.solver.model) if "solver" in only else None)

    def handle(role: Role, open_role: Callable[[], BatchedRole[Any, Any]]) -> RoleHandle[Any, Any]:
        return LocalHandle(open_role()) if role in only else NotAsked(role)

    return Roles(
        handle("decomposer", lambda: build_decomposer(config.decomposer, model(config.decomposer.model))),
        handle("solver", lambda: build_solver(config.solver, model(config.solver.model))),
        handle("verifier", verifier),
    )


@asynccontextmanager
async def open_roles(config: RolesConfig, record: Path | None = None) -> AsyncIterator[Roles]:
    """`local_roles` built in a thread, closed at the end."""
    roles = await asyncio.to_thread(local_roles, config, record)
    try:
        yield roles
    finally:
        for handle in (roles.decomposer, roles.solver, roles.verifier):
            if isinstance(handle, LocalHandle):
                await handle.aclose()
