"""How a problem is solved, once it is known which plans there are.

direct     the final answer only                          no plan    one pass
single     step by step, the solver's own steps           no plan    one pass
static     the plan's steps and the answer in one reply   planned    one pass
stepwise   the plan's steps one call each                 planned    node by node
dynamic    one sub-question at a time, after the answers  emerging   question by question
adaptive   the others in stages, from cheap to dear, until one's answer is sure enough (stages.py)

In one pass, each plan is one call that draws its share of the n samples. Node by node, each sample walks through its plan on its own;
steps that do not need each other are asked at the same time, each with the part of the plan that it depends on, and the last step's
answer is the final answer. Question by question (self-ask, arXiv 2210.03350; as in arXiv 2402.15000, table 6), each sample asks the
decomposer for the next sub-question and the solver for its answer, both with all that was asked and answered before, until the
decomposer says that no more are needed; the last answer is the final one. A decomposer that never says so leaves no answer.
A sample that fails never cancels another. Left out: asking for whole plans and choosing (attempt.py), and `adaptive`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from cleave.attempt import Attempt, together
from cleave.case import RoleFailed, is_budget
from cleave.config.reasoning import StrategyName
from cleave.events import StepAnswered, StepAsked
from cleave.plans import ancestors, subplan, substitute
from cleave.roles import SolveMode, SolveRequest
from cleave.solutions import render_solution, render_step
from cleave.types import Failure, Finish, Plan, Solution, SolutionStep, Step, Usage


@dataclass(frozen=True)
class Strategy:
    """`planned`: the decomposer is asked for plans first. `solve` puts solutions into the attempt, along the plans it is given."""

    planned: bool
    solve: Callable[[Attempt, Sequence[Plan | None]], Awaitable[None]]


async def in_one_pass(attempt: Attempt, plans: Sequence[Plan | None], mode: SolveMode = "steps") -> None:
    """One call per plan, all at the same time."""
    await together(_ask(attempt, samples, plan, mode) for plan, samples in share(plans, attempt))


async def node_by_node(attempt: Attempt, plans: Sequence[Plan | None]) -> None:
    """One chain of calls per sample, all at the same time. An empty plan has no nodes, so it is solved in one pass."""
    await together(
        Chain(attempt, sample, plan).run() if plan is not None and plan.steps else _ask(attempt, range(sample, sample + 1), plan, "steps")
        for plan, samples in share(plans, attempt)
        for sample in samples
    )


async def question_by_question(attempt: Attempt, plans: Sequence[Plan | None]) -> None:
    """One dialogue of decomposer and solver per sample, all at the same time. There are no plans yet."""
    await together(Dialogue(attempt, sample).run() for sample in attempt.window)


def share(plans: Sequence[Plan | None], attempt: Attempt) -> list[tuple[Plan | None, range]]:
    """Divide the samples of the round among the plans in order, as evenly as possible, earlier plans getting the odd ones, and a plan
    for which none is left nothing."""
    shares: list[tuple[Plan | None, range]] = []
    start, n = attempt.window.start, len(attempt.window)
    for i, plan in enumerate(plans):
        size = n // len(plans) + (i < n % len(plans))
        if size:
            shares.append((plan, range(start, start + size)))
        start += size
    return shares


STRATEGIES: Mapping[StrategyName, Strategy] = {
    "direct": Strategy(planned=False, solve=partial(in_one_pass, mode="answer")),
    "single": Strategy(planned=False, solve=in_one_pass),
    "static": Strategy(planned=True, solve=in_one_pass),
    "stepwise": Strategy(planned=True, solve=node_by_node),
    "dynamic": Strategy(planned=False, solve=question_by_question),
}


async def _ask(attempt: Attempt, samples: range, plan: Plan | None, mode: SolveMode) -> None:
    """Draw all of `samples` in one call."""
    seed = attempt.seed("solver", samples.start)
    request = SolveRequest(attempt.case.problem, mode, plan, sampling=attempt.sampling(len(samples)), seed=seed)
    try:
        reply = await attempt.solve(request)
        for sample, solution in zip(samples, reply.solutions, strict=False):
            attempt.add(sample, solution, plan)
        attempt.case.check_budget("solver")
    except RoleFailed as failed:
        for sample in samples:
            attempt.fail(sample, failed.failure)


@dataclass
class Walk(ABC):
    """One sample's way through a plan, a call per step: the answered steps and what they cost, kept as they come."""

    attempt: Attempt
    sample: int
    plan: Plan = field(default_factory=Plan)
    answered: dict[int, SolutionStep] = field(default_factory=dict)
    replies: list[Solution] = field(default_factory=list)

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether the last step's answer answers the problem."""

    @abstractmethod
    async def walk(self) -> None:
        """Answer the steps. Raises RoleFailed."""

    async def run(self) -> None:
        """Answer every step; whatever happens, what was answered is kept as a solution."""
        try:
            await self.walk()
        except RoleFailed as failed:
            self.attempt.fail(self.sample, failed.failure)
            self._keep("budget" if is_budget(failed.failure) else "error")
        except asyncio.CancelledError:
            self._keep("budget")
            raise
        else:
            self._keep("stop")

    async def answer(self, step: Step, part: Plan, known: tuple[SolutionStep, ...]) -> None:
        """Ask the solver for one step. `part` is the plan that it is shown, with the step at its end, `known` the answers of the others."""
        answers = {i: answered.answer for i, answered in self.answered.items()}
        place = self.attempt.place(self.sample)
        self.attempt.case.emit(StepAsked(place, step.id, substitute(step.question, answers)))
        seed = self.attempt.seed("solver", self.sample, step.id)
        reply = await self.attempt.solve(SolveRequest(self.attempt.case.problem, "step", part, known, self.attempt.sampling(), seed))
        solution = reply.solutions[0]
        self.replies.append(replace(solution, usage=reply.usage))
        if solution.answer is None or not solution.steps:
            raise RoleFailed(Failure("ParseError", f"the solver's reply to step {step.id} has no answer; check its prompts.", "solver"))
        self.answered[step.id] = replace(solution.steps[-1], id=step.id)
        self.attempt.case.emit(StepAnswered(place, self.answered[step.id]))

    @property
    def known(self) -> tuple[SolutionStep, ...]:
        """The answered steps in order."""
        return tuple(self.answered[i] for i in sorted(self.answered))

    def _keep(self, finish: Finish) -> None:
        """Hand the solution to the attempt: with an answer if the walk is complete, not at all if no step has one."""
        if not self.answered:
            return
        steps, complete = self.known, self.complete
        answer = steps[-1].answer if complete else None
        text = "\n".join(map(render_step, steps)) if answer is None else render_solution(steps, answer)
        usage = sum((reply.usage for reply in self.replies), Usage())
        solution = Solution(steps, answer, text, mean_logprob(self.replies), usage, "stop" if complete else finish)
        self.attempt.add(self.sample, solution, self.plan)


@dataclass
class Chain(Walk):
    """Through a plan that is there already; steps that do not need each other are asked at the same time."""

    ready: dict[int, asyncio.Event] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.answered) == len(self.plan.steps)

    async def walk(self) -> None:
        self.ready = {step.id: asyncio.Event() for step in self.plan.steps}
        await together(self._node(step) for step in self.plan.steps)

    async def _node(self, step: Step) -> None:
        """The step with all that it depends on, renumbered from 1."""
        for needed in step.needs:
            await self.ready[needed].wait()
        needs = ancestors(self.plan, step.id)
        known = tuple(replace(self.answered[old], id=new) for new, old in enumerate(needs, start=1))
        await self.answer(step, subplan(self.plan, step.id), known)
        self.ready[step.id].set()
        self.attempt.case.check_budget("solver")


@dataclass
class Dialogue(Walk):
    """Through a plan that emerges: the decomposer and the solver take turns."""

    ended: bool = False

    @property
    def complete(self) -> bool:
        return self.ended

    async def walk(self) -> None:
        while True:
            longer = await self.attempt.extend(self.sample, self.plan, self.known)
            self.ended = longer == self.plan
            self.plan = longer
            self.attempt.case.check_budget("decomposer")
            if self.ended:
                break
            await self.answer(self.plan.steps[-1], self.plan, self.known)
            self.attempt.case.check_budget("solver")
        if not self.plan.steps:
            await _ask(self.attempt, range(self.sample, self.sample + 1), self.plan, "steps")


def mean_logprob(replies: Sequence[Solution]) -> float | None:
    """Mean log-probability per generated token over all replies; None if one of them is unknown."""
    tokens = sum(reply.usage.completion_tokens for reply in replies)
    if not tokens or any(reply.logprob is None for reply in replies):
        return None
    return sum((reply.logprob or 0.0) * reply.usage.completion_tokens for reply in replies) / tokens
