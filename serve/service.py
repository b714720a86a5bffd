"""What the routes ask for: problems reasoned about, single roles asked, and whether the roles are there.

Holds every request to the limits: a place to work in (429), the time it may take (504), the tokens per reply. Whoever awaits may
cancel; then every call under way is cancelled too. Left out: HTTP (the routes) and reasoning itself (cleave/reasoning.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from cleave.config.reasoning import ReasoningConfig
from cleave.config.serve import LimitsConfig
from cleave.errors import CleaveError, RoleUnavailable
from cleave.events import Event
from cleave.reasoning import reason
from cleave.roles import DecomposeReply, DecomposeRequest, Role, RoleHandle, Roles, SolveRequest, VerifyReply, VerifyRequest
from cleave.types import Finish, ModelInfo, Plan, Problem, Sampling, Trace, Usage, to_dict
from serve.account import Account
from serve.admission import Admission
from serve.failures import ApiError, refused
from serve.given_plan import GivenPlan
from serve.lease import book, booked, borrows, holder
from serve.ledger import Ledger
from serve.model_calls import Continue, Continued, ModelCall, Piece, RoleModel, Said, Say, Weigh
from serve.observer import Observer, Observers
from serve.pins import CURRENT, Pins, pinned
from serve.solvers import Capped, Heard, can_be_heard, heard

if TYPE_CHECKING:
    from serve.problem_spans import ProblemSpans
    from serve.spans import Spans

READY_WITHIN_S = 2.0
BEGINNINGS = 5
"""Times that a request begins whose roles are replaced meanwhile."""
BEGIN_PAUSE_S = 0.25
"""Before the first new beginning; doubles with each one."""
Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True)
class Texts:
    """What one role replied, as it stands, one text per sample."""

    texts: tuple[str, ...]
    finishes: tuple[Finish, ...]
    usage: Usage
    model: ModelInfo


@dataclass(frozen=True)
class Listener:
    """What a caller wants to hear while choice number i is reasoned out: events, and the text of its answer as it grows."""

    on_event: Callable[[int, Event], None]
    on_text: Callable[[int, str], None]


class Service:
    """The roles behind the limits, and the models behind the roles. One per ingress replica."""

    def __init__(
        self,
        roles: Roles,
        limits: LimitsConfig,
        models: Mapping[Role, RoleModel] | None = None,
        traces: Ledger | None = None,
        observer: Observer | None = None,
        spans: Spans | None = None,
    ) -> None:
        """`models`: the models that can be asked past their roles; `traces`: where traces are kept, None: nowhere; `observer`: who is told
        of what happens, None: nobody; `spans`: who makes spans of it, None: nobody."""
        self.limits = limits
        self.observer = observer or Observer()
        self.spans = spans
        if spans is not None:
            self.observer = Observers((self.observer, spans.notes))
            roles, models = spans.roles(roles), spans.models(models or {})
        self._traces = traces
        self._roles = booked(roles)
        self._models = models or {}
        self.admission = Admission(limits.max_concurrent_requests)

    async def reason(
        self,
        problems: Sequence[Problem],
        reasoning: ReasoningConfig,
        *,
        choices: int = 1,
        max_tokens: int | None = None,
        listener: Listener | None = None,
        plan: Plan | None = None,
    ) -> list[Trace]:
        """The traces of each problem's choices, in order; choice i of a problem uses seed + i. `plan`: the one to follow, None: the
        decomposer makes one. All calls of a role go to one version of it (serve/pins.py). Raises RoleUnavailable, ApiError 429 or 504."""
        ways = [reasoning.model_copy(update={"seed": reasoning.seed + i}) for i in range(choices)]
        asked = [(problem, way) for problem in problems for way in ways]
        async with self._at_work():
            for attempt in range(BEGINNINGS):
                with pinned() as pins:
                    async with asyncio.TaskGroup() as group:
                        tasks = [group.create_task(self._choice(i, *each, max_tokens, listener, plan)) for i, each in enumerate(asked)]
                if not pins.mixed:
                    return [_naming(task.result(), pins) for task in tasks]
                if pins.is_heard:
                    break
                await asyncio.sleep(BEGIN_PAUSE_S * 2**attempt)
            raise RoleUnavailable("a role was replaced again and again during the request; send it again.")

    async def _choice(
        self, i: int, problem: Problem, way: ReasoningConfig, max_tokens: int | None, listener: Listener | None, plan: Plan | None
    ) -> Trace:
        """One choice, heard if somebody listens."""
        roles = self._roles if plan is None else replace(self._roles, decomposer=GivenPlan(plan))
        account = Account(self.observer, streams=listener is not None)
        pins = CURRENT.get() or Pins()
        if listener is not None and can_be_heard(way) and "solver" in self._models:

            def on_text(text: str) -> None:
                pins.is_heard = True
                account.has_text()
                listener.on_text(i, text)

            roles = replace(roles, solver=Heard(roles.solver, self._models["solver"], on_text))
        if max_tokens is not None:
            roles = replace(roles, solver=Capped(roles.solver, max_tokens))

        def on_event(event: Event) -> None:
            if pins.mixed:
                return
            account.note(event)
            if spans is not None:
                spans.note(event)
            if listener is not None:
                listener.on_event(i, event)

        with self._spans_of(way) as spans:
            trace = await reason(problem, roles, way, on_event=on_event)
            if not pins.mixed:
                account.close(trace)
        return trace

    def _spans_of(self, way: ReasoningConfig) -> AbstractContextManager[ProblemSpans | None]:
        return nullcontext() if self.spans is None else self.spans.problem(way.strategy)

    async def decompose(self, request: DecomposeRequest) -> tuple[DecomposeReply, ModelInfo]:
        """The decomposer's reply as it is, and whose it is. Raises CleaveError, ApiError 429 or 504."""
        async with self._at_work():
            return await _named("decomposer", self._roles.decomposer, request)

    async def verify(self, request: VerifyRequest) -> tuple[VerifyReply, ModelInfo]:
        """The verdicts, and whose they are. A server without a verifier's model has the solver's weigh the texts: solutions that come over
        HTTP carry no likelihoods."""
        verifier = self._roles.verifier
        async with self._at_work():
            info = await verifier.info() if verifier is not None else None
            if verifier is not None and info is not None and info.parameters != 0:
                return await _named("verifier", verifier, request)
            reply: VerifyReply = await self._model("solver").ask(Weigh(request))
            book(reply.usage)
            model = await self._roles.solver.info()
            return reply, replace(model, name=f"likelihood of {model.name}")

    async def ask_model(self, role: Role, call: ModelCall) -> Any:
        """What the model behind a role replies. Raises CleaveError, ApiError 400, 429 or 504."""
        async with self._at_work():
            reply = await self._model(role).ask(call)
            book(getattr(reply, "usage", Usage()))
            return reply

    async def stream_model(self, role: Role, call: Say | Continue, on_piece: Callable[[Piece], None]) -> Said | Continued:
        """The same, heard while it grows."""
        async with self._at_work():
            account = Account(self.observer, streams=True)

            def heard_piece(piece: Piece) -> None:
                account.has_text()
                on_piece(piece)

            reply = await heard(self._model(role).stream(call), heard_piece)
            book(reply.usage)
            return reply

    def _model(self, role: Role) -> RoleModel:
        if role not in self._models:
            raise refused(f"the model behind the {role} cannot be asked here; leave out what needs its tokens.", code="unsupported_field")
        return self._models[role]

    async def ask(self, role: Role, problem: Problem, sampling: Sampling, seed: int) -> Texts:
        """What the decomposer or the solver says to a bare problem. Raises CleaveError, ApiError 429 or 504."""
        async with self._at_work():
            if role == "decomposer":
                plans, model = await _named("decomposer", self._roles.decomposer, DecomposeRequest(problem, sampling, seed))
                finishes: tuple[Finish, ...] = tuple("stop" for _ in plans.texts)
                return Texts(plans.texts, finishes, plans.usage, model)
            reply, model = await _named("solver", self._roles.solver, SolveRequest(problem, sampling=sampling, seed=seed))
            solutions = reply.solutions
            return Texts(tuple(s.text for s in solutions), tuple(s.finish for s in solutions), reply.usage, model)

    @property
    def keeps(self) -> bool:
        """Whether traces are kept."""
        return self._traces is not None

    async def keep(
        self, name: str, traces: Sequence[Trace], reasoning: ReasoningConfig, max_tokens: int | None = None, *, has_plan: bool = False
    ) -> None:
        """Keep the traces of a request for its sender, and how it was asked for, if that is wanted. `has_plan`: along the sender's own."""
        if self._traces is not None:
            asked = {"reasoning": reasoning.model_dump(mode="json"), "max_tokens": max_tokens, "plan": has_plan}
            document = json.dumps({"id": name, "traces": [to_dict(trace) for trace in traces], "asked": asked})
            await self._traces.keep(holder(), name, document)

    async def kept(self, name: str) -> str | None:
        """What was kept for this sender under the name."""
        return await self._traces.get(holder(), name) if self._traces is not None else None

    async def ready(self) -> Sequence[str]:
        """The roles that do not answer now, each with its reason; empty: ready."""
        handles: dict[str, RoleHandle[object, object] | None] = dict(vars(self._roles))
        asked = [_absent(name, handle) for name, handle in handles.items() if handle is not None]
        return [sentence for sentence in await asyncio.gather(*asked) if sentence]

    @contextmanager
    def _place(self) -> Iterator[None]:
        with self.admission.admit(holder()):
            self.observer.at_work(self.admission.at_work)
            try:
                yield
            finally:
                self.observer.at_work(self.admission.at_work - 1)

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator[None]:
        with nullcontext() if borrows() else self._place():
            try:
                async with asyncio.timeout(self.limits.request_timeout_s) as clock:
                    yield
            except TimeoutError as error:
                if not clock.expired():
                    raise
                message = f"no answer within {self.limits.request_timeout_s:g} seconds; ask for fewer samples or set a budget."
                raise ApiError(504, message, "timeout") from error


async def _named(role: Role, handle: RoleHandle[Q, A], request: Q) -> tuple[A, ModelInfo]:
    """A reply, and whose it is."""
    with pinned() as pins:
        reply = await handle(request)
    return reply, pins.models.get(role) or await handle.info()


def _naming(trace: Trace, pins: Pins) -> Trace:
    """The trace with the models that have answered: what the loop noted at its beginning can be what was there before."""
    return replace(trace, models={**trace.models, **pins.models})


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
