"""What the routes ask for: problems reasoned about, single roles asked, and whether the roles are there.

Holds every request to the limits: a place to work in (429), the time it may take (504), the tokens per reply. Whoever awaits may
cancel; then every call under way is cancelled too. Left out: HTTP (the routes) and reasoning itself (cleave/reasoning.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from cleave.config.reasoning import ReasoningConfig
from cleave.config.serve import LimitsConfig
from cleave.errors import CleaveError, RoleUnavailable
from cleave.reasoning import reason
from cleave.roles import DecomposeRequest, Role, RoleHandle, Roles, SolveReply, SolveRequest
from cleave.types import Finish, ModelInfo, Problem, Sampling, Trace, Usage
from serve.admission import Admission
from serve.failures import ApiError

READY_WITHIN_S = 2.0


@dataclass(frozen=True)
class Texts:
    """What one role replied, as it stands, one text per sample."""

    texts: tuple[str, ...]
    finishes: tuple[Finish, ...]
    usage: Usage
    model: ModelInfo


class Service:
    """The roles behind the limits. One per ingress replica."""

    def __init__(self, roles: Roles, limits: LimitsConfig) -> None:
        self.limits = limits
        self._roles = roles
        self._admission = Admission(limits.max_concurrent_requests)

    async def reason(self, problem: Problem, reasoning: ReasoningConfig, *, choices: int = 1, max_tokens: int | None = None) -> list[Trace]:
        """One trace per choice; choice i uses seed + i. Raises ApiError 429 or 504."""
        roles = self._roles if max_tokens is None else replace(self._roles, solver=Capped(self._roles.solver, max_tokens))
        ways = [reasoning.model_copy(update={"seed": reasoning.seed + i}) for i in range(choices)]
        async with self._at_work(), asyncio.TaskGroup() as group:
            tasks = [group.create_task(reason(problem, roles, way)) for way in ways]
        return [task.result() for task in tasks]

    async def ask(self, role: Role, problem: Problem, sampling: Sampling, seed: int) -> Texts:
        """What the decomposer or the solver says to a bare problem. Raises CleaveError, ApiError 429 or 504."""
        async with self._at_work():
            if role == "decomposer":
                model = await self._roles.decomposer.info()
                plans = await self._roles.decomposer(DecomposeRequest(problem, sampling, seed))
                finishes: tuple[Finish, ...] = tuple("stop" for _ in plans.texts)
                return Texts(plans.texts, finishes, plans.usage, model)
            model = await self._roles.solver.info()
            reply = await self._roles.solver(SolveRequest(problem, sampling=sampling, seed=seed))
            solutions = reply.solutions
            return Texts(tuple(s.text for s in solutions), tuple(s.finish for s in solutions), reply.usage, model)

    async def ready(self) -> Sequence[str]:
        """The roles that do not answer now, each with its reason; empty: ready."""
        handles: dict[str, RoleHandle[object, object] | None] = dict(vars(self._roles))
        asked = [_absent(name, handle) for name, handle in handles.items() if handle is not None]
        return [sentence for sentence in await asyncio.gather(*asked) if sentence]

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator[None]:
        with self._admission.admit():
            try:
                async with asyncio.timeout(self.limits.request_timeout_s) as clock:
                    yield
            except TimeoutError as error:
                if not clock.expired():
                    raise
                message = f"no answer within {self.limits.request_timeout_s:g} seconds; ask for fewer samples or set a budget."
                raise ApiError(504, message, "timeout") from error


class Capped:
    """A solver whose replies are at most `max_tokens` long, whatever is asked of it."""

    def __init__(self, solver: RoleHandle[SolveRequest, SolveReply], max_tokens: int) -> None:
        self._solver, self._max_tokens = solver, max_tokens

    async def __call__(self, request: SolveRequest) -> SolveReply:
        sampling = replace(request.sampling, max_tokens=min(request.sampling.max_tokens, self._max_tokens))
        return await self._solver(replace(request, sampling=sampling))

    async def info(self) -> ModelInfo:
        return await self._solver.info()


async def _absent(name: str, handle: RoleHandle[object, object]) -> str:
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            await handle.info()
    except TimeoutError:
        return f"the {name} does not answer"
    except RoleUnavailable as error:
        return str(error)
    except CleaveError as error:
        return f"{name}: {error}"
    return ""
