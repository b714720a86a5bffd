"""One attempt at a problem, that of a stage: what has been found, and what the roles are asked for.

Strategies write here as they go, so that whatever was found before a failure stays. Made by stages.py. Left out: admitting, booking and
timing the calls (case.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field

from cleave.calibration import VoteCalibration
from cleave.case import Case, RoleFailed, failing, failure_of, is_budget
from cleave.config.reasoning import ReasoningConfig, Stage
from cleave.early_stopping import count, enough
from cleave.errors import ParseError
from cleave.events import Failed, PlanMade, SolutionFound, VerdictsGiven
from cleave.gold_solver import gold_reply
from cleave.plans import DEFAULT_LIMITS, check_plan
from cleave.roles import DecomposeReply, DecomposeRequest, SolveReply, SolveRequest, VerifyRequest
from cleave.seeds import derive_seed
from cleave.selection import Choice, Options, agreement, select
from cleave.tasks.scoring import normalise
from cleave.types import Failure, Plan, Sampling, Solution, SolutionStep, Trace, Verdict

NO_LIMIT = 1 << 20
"""Tokens per reply that the loop asks for: the limit is each role's own `max_tokens`."""


@dataclass
class Attempt:
    """`solutions` and `plan_of` are keyed by sample, counted from 0, so that their order never depends on arrival. `plans` are those that
    were made before anything was solved. `window` are the samples of the round. `number` is the stage's, from 0, `before` the number of
    solutions that earlier stages brought. `judged`: the verifier was asked."""

    case: Case
    stage: Stage
    number: int = 0
    before: int = 0
    plans: list[Plan] = field(default_factory=list)
    solutions: dict[int, Solution] = field(default_factory=dict)
    plan_of: dict[int, Plan] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    window: range = range(0)
    judged: bool = False
    verdicts: tuple[Verdict | None, ...] = ()
    votes: VoteCalibration | None = None

    @property
    def strategy(self) -> ReasoningConfig:
        """How this stage reasons."""
        return self.stage.reasoning

    @property
    def drawn(self) -> int:
        """How many samples have been asked for."""
        return self.window.stop

    @property
    def asked(self) -> int:
        """How many samples an answer's share is of: those that were asked for, or would have been."""
        return self.drawn or self.strategy.n

    def next_round(self) -> bool:
        """Move on to the samples that come next; False where none are left, or enough were drawn. Raises RoleFailed where the budget leaves
        no room for one."""
        n, threshold, start = self.strategy.n, self.strategy.stop_early, self.drawn
        if start == n or (start and threshold is not None and enough(self._votes(), n - start, threshold)):
            return False
        wanted = n - start if threshold is None else min(n - start, self.strategy.samples_per_round)
        self.window = range(start, start + self.case.grant(wanted))
        return True

    def _votes(self) -> list[int]:
        return count([None if solution.answer is None else normalise(solution.answer) for solution in self.ordered()])

    def seed(self, *parts: int | str) -> int:
        """A seed of this run, problem and stage for the purpose that `parts` name. The first stage draws what it would draw alone."""
        stage = ("stage", self.number) if self.number else ()
        return derive_seed(self.strategy.seed, self.case.problem.id, *stage, *parts)

    def place(self, sample: int) -> int:
        """The place of a sample among the solutions of all stages."""
        return self.before + sample

    async def decompose(self) -> list[Plan]:
        """Ask for plans. Those that cannot be read are left out; none at all is a ParseError of the decomposer."""
        if self.strategy.gold_plan:
            return self._take_gold_plan()
        sampling = Sampling(NO_LIMIT, self.strategy.plan_temperature, n=self.strategy.plans)
        request = DecomposeRequest(self.case.problem, sampling, self.seed("decomposer"), self.strategy.max_steps)
        with self.case.phase("decompose"):
            reply = await self.case.call("decomposer", self.case.roles.decomposer, request)
        self.plans, failures = self._readable(reply)
        for plan in self.plans:
            self.case.emit(PlanMade(plan))
        for failure in failures:
            self.case.emit(Failed(failure))
        self.case.check_budget("decomposer")
        return self.plans

    async def extend(self, sample: int, plan: Plan, known: tuple[SolutionStep, ...]) -> Plan:
        """Ask for the sub-question after those of `plan`, which `known` answers: the plan with it, or the plan itself if none is needed."""
        k = len(plan.steps)
        sampling = Sampling(NO_LIMIT, self.strategy.plan_temperature)
        request = DecomposeRequest(
            self.case.problem, sampling, self.seed("decomposer", sample, k), self.strategy.max_steps, "next", asked=plan, known=known
        )
        reply = await self.case.call("decomposer", self.case.roles.decomposer, request)
        longer = self._readable(reply)[0][0]
        if longer.steps[:k] != plan.steps or len(longer.steps) > k + 1:
            message = "the decomposer changed sub-questions that are answered already; check its host."
            raise RoleFailed(Failure("ParseError", message, "decomposer"))
        self.plan_of[sample] = longer
        if longer != plan:
            self.case.emit(PlanMade(longer, self.place(sample)))
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
        if self.case.problem.gold_plan is None:
            message = f"{self.case.problem.id} has no gold plan; choose a task that has them, or set gold_plan=false."
            raise RoleFailed(Failure("DataError", message, "decomposer"))
        self.plans.append(self.case.problem.gold_plan)
        self.case.emit(PlanMade(self.case.problem.gold_plan))
        return self.plans

    async def solve(self, request: SolveRequest) -> SolveReply:
        """Ask the solver once, for as many samples as the request says. The reply has at least one solution."""
        if self.strategy.gold_steps:
            return self._take_gold_steps(request)
        reply = await self.case.call("solver", self.case.roles.solver, request)
        if not reply.solutions:
            raise RoleFailed(Failure("GenerationError", "the solver sent no solution; check its model.", "solver"))
        return reply

    def _take_gold_steps(self, request: SolveRequest) -> SolveReply:
        with failing("solver"):
            return gold_reply(request)

    def sampling(self, n: int = 1) -> Sampling:
        """The solver's sampling options."""
        return Sampling(NO_LIMIT, self.strategy.temperature, self.strategy.top_p, min_p=self.strategy.min_p or 0.0, n=n)

    def add(self, sample: int, solution: Solution, plan: Plan | None = None) -> None:
        """Keep a solution as number `sample`."""
        self.solutions[sample] = solution
        if plan is not None:
            self.plan_of[sample] = plan
        self.case.emit(SolutionFound(self.place(sample), solution))

    def fail(self, sample: int, failure: Failure) -> None:
        """Note why sample `sample` came to nothing; the others go on."""
        self.failures[sample] = failure
        self.case.emit(Failed(failure))

    async def verify(self) -> None:
        """Have all solutions scored, once, if there is a verifier and anything to score."""
        if self.judged or self.case.roles.verifier is None or not self.solutions:
            return
        self.judged = True
        request = VerifyRequest(self.case.problem, self.ordered(), self.ordered_plans())
        with self.case.phase("verify"):
            reply = await self.case.call("verifier", self.case.roles.verifier, request)
        if len(reply.verdicts) not in (0, len(self.solutions)):
            message = f"{len(reply.verdicts)} verdicts for {len(self.solutions)} solutions; check the verifier."
            raise RoleFailed(Failure("ParseError", message, "verifier"))
        self.verdicts, self.votes = reply.verdicts, reply.votes
        for failure in reply.failures:
            self.case.emit(Failed(failure))
        if self.verdicts:
            self.case.emit(VerdictsGiven((None,) * self.before + self.verdicts))
        self.case.check_budget("verifier")

    def failure(self) -> Failure | None:
        """What the samples' failures mean for the attempt: a budget that ran out always counts, another failure if it hit every sample."""
        failures = [self.failures[i] for i in sorted(self.failures)]
        exceeded = [failure for failure in failures if is_budget(failure)]
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

    def choice(self) -> Choice | None:
        """What the selection rule takes of the solutions; None when none has an answer."""
        options = Options(self.strategy.rerank_top_k, self.strategy.majority_top_n)
        return select(self.strategy.selection, self.ordered(), self.verdicts, asked=self.asked, options=options, votes=self.votes)

    def agreement(self, choice: Choice) -> float:
        """The share of the samples that give the chosen answer."""
        return agreement(self.ordered(), choice.index, self.asked)

    def holds(self) -> bool:
        """Whether there is an answer and the stage takes it."""
        choice = self.choice()
        return choice is not None and self.stage.takes(self.agreement(choice), choice.confidence)


def recorded(case: Case, stage: Stage, trace: Trace) -> Attempt:
    """The attempt that ended in `trace`, before its solutions were judged."""
    attempt = Attempt(case, stage, plans=list(trace.plans) if len(trace.plans) == 1 else [], solutions=dict(enumerate(trace.solutions)))
    attempt.plan_of |= {i: plan for i in attempt.solutions if (plan := trace.plan_of(i)) is not None}
    attempt.window = range(len(trace.solutions) if stage.reasoning.stop_early else stage.reasoning.n)
    return attempt


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
