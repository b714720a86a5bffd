"""Requests that the application has answered, put to another version of a role: those that the ledger still holds, or those to come.

    agreement = asyncio.run(replay(ledger, Replay(recorded=200, shadow=0.1, seconds=300), "solver", info, roles))

The shadow is a copy: a request that was answered is asked again, in the same way and with the same seeds, of the candidate beside the
application; nobody waits for it and nobody gets its answer. Where copies come faster than the candidate works, they are left out. Needs
`traces.max_traces`. Left out: the judgement (serve/promote.py).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

from cleave.agreement import Agreement
from cleave.config.reasoning import ReasoningConfig
from cleave.console import say
from cleave.reasoning import reason
from cleave.roles import Role, Roles
from cleave.types import ModelInfo, Plan, Trace, from_dict
from serve.given_plan import GivenPlan
from serve.ledger import Ledger
from serve.pins import pinned
from serve.probe import AT_A_TIME
from serve.solvers import Capped

POLL_S = 0.5
"""Between two looks for requests that have been answered."""
MOST_WAITING = 64
"""Copies that may wait for the candidate."""


@dataclass(frozen=True)
class Replay:
    """Which requests: the last `recorded` ones that were answered, and a share `shadow` of those that are answered in `seconds`."""

    recorded: int = 0
    shadow: float = 0.0
    seconds: float = 0.0

    @property
    def wanted(self) -> bool:
        return self.recorded > 0 or self.shadow > 0


@dataclass(frozen=True)
class Asked:
    """One choice of a request, how it was asked for, and what came of it. `plan`: the client's own."""

    trace: Trace
    reasoning: ReasoningConfig
    max_tokens: int | None
    plan: Plan | None


async def replay(ledger: Ledger, wanted: Replay, role: Role, old: ModelInfo, new: Roles) -> Agreement:
    """Ask the candidate's cast what the version `old` of the role was asked, and compare. Raises RoleUnavailable without a ledger."""
    agreement, left_out = Agreement(), 0
    places, tasks = asyncio.Semaphore(AT_A_TIME), set[asyncio.Task[None]]()

    async def ask(asked: Asked) -> None:
        async with places:
            agreement.add(asked.trace, await _again(asked, new))

    async with asyncio.TaskGroup() as group:
        async for document, is_live in _documents(ledger, wanted):
            for asked in asked_in(document):
                if asked.trace.models.get(role) != old:
                    continue
                if is_live and len(tasks) >= MOST_WAITING:
                    left_out += 1
                    continue
                task = group.create_task(ask(asked))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
    if left_out:
        say(f"{left_out} requests came faster than the new version works, and are left out.")
    return agreement


def asked_in(document: str) -> Iterator[Asked]:
    """What a kept document says of each choice. Nothing of documents that do not say how they were asked for."""
    data = json.loads(document)
    how = data.get("asked")
    if how is None:
        return
    base = ReasoningConfig.model_validate(how["reasoning"])
    for each in data["traces"]:
        trace = from_dict(Trace, each)
        plan = trace.plans[0] if how["plan"] and trace.plans else None
        yield Asked(trace, base.model_copy(update={"seed": trace.seed}), how["max_tokens"], plan)


async def _documents(ledger: Ledger, wanted: Replay) -> AsyncIterator[tuple[str, bool]]:
    """Kept documents, and whether each has come just now."""
    kept = [each async for each in _since(ledger, 0)]
    for _, document in kept[-wanted.recorded :] if wanted.recorded else []:
        yield document, False
    if not wanted.shadow:
        return
    say(f"a share of {wanted.shadow:g} of what is asked in {wanted.seconds:g} s is put to the new version too.")
    last, chosen, end = kept[-1][0] if kept else 0, random.Random(0), time.monotonic() + wanted.seconds
    while time.monotonic() < end:
        await asyncio.sleep(POLL_S)
        async for number, document in _since(ledger, last):
            last = number
            if chosen.random() < wanted.shadow:
                yield document, True


async def _since(ledger: Ledger, last: int) -> AsyncIterator[tuple[int, str]]:
    """All documents after that one, in parts."""
    while part := await ledger.recorded(last):
        for number, document in part:
            yield number, document
        last = part[-1][0]


async def _again(asked: Asked, roles: Roles) -> Trace:
    if asked.max_tokens is not None:
        roles = replace(roles, solver=Capped(roles.solver, asked.max_tokens))
    if asked.plan is not None:
        roles = replace(roles, decomposer=GivenPlan(asked.plan))
    with pinned():
        return await reason(asked.trace.problem, roles, asked.reasoning)
