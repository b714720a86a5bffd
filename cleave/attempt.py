"""One problem under way: what has been found, and the calls to the roles, each admitted, booked, timed and reported.

Strategies write here as they go, so that whatever was found before a failure stays. Made and read by reasoning.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from cleave.budget import Meter
from cleave.calibration import VoteCalibration
from cleave.config.reasoning import ReasoningConfig
from cleave.early_stopping import count, enough
from cleave.errors import BudgetExceeded, CleaveError, ParseError
from cleave.events import Event, Failed, OnEvent, PlanMade, SolutionFound, VerdictsGiven
from cleave.gold_solver import gold_reply
from cleave.plans import DEFAULT_LIMITS, check_plan
from cleave.roles import DecomposeReply, DecomposeRequest, Role, RoleHandle, Roles, SolveReply, SolveRequest, VerifyRequest
from cleave.seeds import derive_seed
from cleave.tasks.scoring import normalise
from cleave.types import Failure, ModelInfo, Plan, Problem, Sampling, Solution, SolutionStep, Usage, Verdict

NO_LIMIT = 1 << 20
"""Tokens per reply that the loop asks for: the limit is each role's own `max_tokens`."""

Q = TypeVar("Q")
A = TypeVar("A")


class RoleFailed(Exception):
    """A role's typed error as data, on its way to the trace. Never leaves the loop."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass
class Attempt:
    """`solutions` and `plan_of` are keyed by sample, so that their order never depends on arrival. `plans` are those that were made before
    anything was solved. `drawn` samples have been asked for, `window` are those of the round."""

    problem: Problem
    roles: Roles
    strategy: ReasoningConfig
    meter: Meter
    on_event: OnEvent | None = None
    plans: list[Plan] = field(default_factory=list)
    solutions: dict[int, Solution] = field(default_factory=dict)
    plan_of: dict[int, Plan] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    window: range = range(0)
    verdicts: tuple[Verdict | None, ...] = ()
    votes: VoteCalibration | None = None
    usage: dict[str, Usage] = field(default_factory=dict)
    models: dict[str, ModelInfo] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def drawn(self) -> int:
        """How many samples have been asked for."""
        return self.window.stop

    def next_round(self) -> bool:
        """Move on to the samples that come next; False where none are left, or enough were drawn."""
        n, threshold, start = self.strategy.n, self.strategy.stop_early, self.drawn
        if start and (threshold is None or start == n or enough(self._votes(), n - start, threshold)):
            return False
        self.window = range(start, n if threshold is None else min(n, start + self.strategy.samples_per_round))
        return True

    def _votes(self) -> list[int]:
        return count([None if solution.answer is None else normalise(solution.answer) for solution in self.ordered()])

    def emit(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)

    def seed(self, *parts: int | str) -> int:
        """A seed of this run and problem for the purpose that `parts` name."""
        return derive_seed(self.strategy.seed, self.problem.id, *parts)

    async def identify(self) -> None:
        """Note which models answer."""
        try:
            self.models.update(await self.roles.models())
        except CleaveError as error:
            raise RoleFailed(failure_of(error)) from error

    async def decompose(self) -> list[Plan]:
        """Ask for plans. Those that cannot be read are left out; none at all is a ParseError of the decomposer."""
        if self.strategy.gold_plan:
            return self._take_gold_plan()
        sampling = Sampling(NO_LIMIT, self.strategy.plan_temperature, n=self.strategy.plans)
        request = DecomposeRequest(self.problem, sampling, self.seed("decomposer"), self.strategy.max_steps)
        with self.phase("decompose"):
            reply = await self._call("decomposer", self.roles.decomposer, request)
        self.plans, failures = self._readable(reply)
        for plan in self.plans:
            self.emit(PlanMade(plan))
        for failure in failures:
            self.emit(Failed(failure))
        self.check_budget("decomposer")
        return self.plans

    async def extend(self, sample: int, plan: Plan, known: tuple[SolutionStep, ...]) -> Plan:
        """Ask for the sub-question after those of `plan`, which `known` answers: the plan with it, or the plan itself if none is needed."""
        k = len(plan.steps)
        sampling = Sampling(NO_LIMIT, self.strategy.plan_temperature)
        request = DecomposeRequest(
            self.problem, sampling, self.seed("decomposer", sample, k), self.strategy.max_steps, "next", asked=plan, known=known
        )
        reply = await self._call("decomposer", self.roles.decomposer, request)
        longer = self._readable(reply)[0][0]
        if longer.steps[:k] != plan.steps or len(longer.steps) > k + 1:
            message = "the decomposer changed sub-questions that are answered already; check its host."
            raise RoleFailed(Failure("ParseError", message, "decomposer"))
        self.plan_of[sample] = longer
        if longer != plan:
            self.emit(PlanMade(longer, sample))
        return longer

    def _readable(self, reply: DecomposeReply) -> tuple[list[Plan], list[Failure]]:
        """The plans that keep the contract, at least one, and what was wrong with the others."""
        limits = DEFAULT_LIMITS.at_most(self.strategy.max_steps)
        plans: list[Plan] = []
        failures = list(reply.failures)
        for plan in reply.plans:
            if plan is None:
                continue
            try:
                check_plan(plan, limits)
            except ParseError as error:
                failures.append(failure_of(error, "decomposer"))
            else:
                plans.append(plan)
        if not plans:
            missing = Failure("ParseError", "the decomposer sent no plan; check its prompts.", "decomposer")
            raise RoleFailed(failures[0] if failures else missing)
        return plans, failures

    def _take_gold_plan(self) -> list[Plan]:
        if self.problem.gold_plan is None:
            message = f"{self.problem.id} has no gold plan; choose a task that has them, or set gold_plan=false."
            raise RoleFailed(Failure("DataError", message, "decomposer"))
        self.plans.append(self.problem.gold_plan)
        self.emit(PlanMade(self.problem.gold_plan))
        return self.plans

    async def solve(self, request: SolveRequest) -> SolveReply:
        """Ask the solver once, for as many samples as the request says. The reply has at least one solution."""
        if self.strategy.gold_steps:
            return self._take_gold_steps(request)
        reply = await self._call("solver", self.roles.solver, request)
        if not reply.solutions:
            raise RoleFailed(Failure("GenerationError", "the solver sent no solution; check its model.", "solver"))
        return reply

    def _take_gold_steps(self, request: SolveRequest) -> SolveReply:
        try:
            return gold_reply(request)
        except CleaveError as error:
            raise RoleFailed(failure_of(error, "solver")) from error

    def sampling(self, n: int = 1) -> Sampling:
        """The solver's sampling options."""
        return Sampling(NO_LIMIT, self.strategy.temperature, self.strategy.top_p, n=n)

    def add(self, sample: int, solution: Solution, plan: Plan | None = None) -> None:
        """Keep a solution as number `sample`."""
        self.solutions[sample] = solution
        if plan is not None:
            self.plan_of[sample] = plan
        self.emit(SolutionFound(sample, solution))

    def fail(self, sample: int, failure: Failure) -> None:
        """Note why sample `sample` came to nothing; the others go on."""
        self.failures[sample] = failure
        self.emit(Failed(failure))

    async def verify(self) -> None:
        """Have all solutions scored, if there is a verifier and anything to score."""
        if self.roles.verifier is None or not self.solutions:
            return
        request = VerifyRequest(self.problem, self.ordered(), self.ordered_plans())
        with self.phase("verify"):
            reply = await self._call("verifier", self.roles.verifier, request)
        if len(reply.verdicts) not in (0, len(self.solutions)):
            message = f"{len(reply.verdicts)} verdicts for {len(self.solutions)} solutions; check the verifier."
            raise RoleFailed(Failure("ParseError", message, "verifier"))
        self.verdicts, self.votes = reply.verdicts, reply.votes
        for failure in reply.failures:
            self.emit(Failed(failure))
        if self.verdicts:
            self.emit(VerdictsGiven(self.verdicts))
        self.check_budget("verifier")

    def check_budget(self, role: Role) -> None:
        """Raise RoleFailed if the calls so far have passed a limit."""
        try:
            self.meter.check()
        except CleaveError as error:
            raise RoleFailed(failure_of(error, role)) from error

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one phase in wall seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start

    def failure(self) -> Failure | None:
        """What the samples' failures mean for the problem: a budget that ran out always counts, another failure if it hit every sample."""
        failures = [self.failures[i] for i in sorted(self.failures)]
        exceeded = [failure for failure in failures if failure.type == BudgetExceeded.__name__]
        if exceeded:
            return exceeded[0]
        return failures[0] if failures and len(failures) == self.drawn else None

    def ordered(self) -> tuple[Solution, ...]:
        """The solutions in order of sample."""
        return tuple(self.solutions[i] for i in sorted(self.solutions))

    def ordered_plans(self) -> tuple[Plan, ...]:
        """One plan that belongs to all solutions, or one per solution; while there are none, the plans as far as they are made."""
        if len(self.plans) != 1 and self.solutions and self.plan_of.keys() >= self.solutions.keys():
            return tuple(self.plan_of[i] for i in sorted(self.solutions))
        return tuple(self.plans) or tuple(self.plan_of[i] for i in sorted(self.plan_of))

    async def _call(self, role: Role, handle: RoleHandle[Q, A], request: Q) -> A:
        try:
            with self.meter.call(free=self._is_free(role)) as entry:
                try:
                    reply = await handle(request)
                    entry.usage = reply.usage  # type: ignore[attr-defined]
                finally:
                    self.usage[role] = self.usage.get(role, Usage()) + entry.usage
        except CleaveError as error:
            raise RoleFailed(failure_of(error, role)) from error
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            message = "the host cancelled the call; check that it is still running."  # nobody here asked for it
            raise RoleFailed(Failure("RoleUnavailable", message, role)) from cancelled
        return reply

    def _is_free(self, role: Role) -> bool:
        """Whether the role asks no model: it says so by having no parameters (the likelihood verifier)."""
        info = self.models.get(role)
        return info is not None and info.parameters == 0


def failure_of(error: CleaveError, role: str = "") -> Failure:
    """An error as data."""
    return Failure(type(error).__name__, str(error), role)


async def together(coroutines: Iterable[Coroutine[object, object, None]]) -> None:
    """Run at the same time. The first failure cancels the others and is raised as itself; a bug goes before a role's failure.

    asyncio.TaskGroup would raise groups, and on Python 3.11 its own cancelling of the parent cannot be told from a caller's.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError)]
    if errors:
        raise next((error for error in errors if not isinstance(error, RoleFailed)), errors[0])
