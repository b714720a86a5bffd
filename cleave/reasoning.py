"""One problem in, one Trace out: plan, solve, verify, select.

    trace = await reason(problem, roles, ReasoningConfig(strategy="static"))

Every door uses this loop: the command line, batch evaluation, trace collection, HTTP. What it guarantees:

1. Every problem yields exactly one Trace, failed or not. Typed errors (errors.py) become `Trace.error`; a bug propagates.
2. A Trace has an answer or an error. It can have both: what was found before a budget ran out, or before a verifier failed, stays.
3. Cancellation propagates: a caller that gives up gets CancelledError and no call is left running.
4. The failure of one sample or one plan never cancels another; within one sample of `stepwise` it cancels the steps under way.
   What `dynamic` asked and answered before a failure stays, with the plan as far as it had emerged.
5. Calls carry seeds derived from the run's seed, the problem's id and the call's purpose: the Trace does not depend on the order in
   which calls return.
6. Budgets are checked before and after every call, time at any moment. The number of calls never exceeds its limit, as long as
   roles make one call per request; tokens and money can overshoot by the calls in flight.
7. Plans are bounded and acyclic whoever sends them (plans.py), and nothing that a model wrote is evaluated.
8. A verifier's failure loses no answer: what it did not score votes as if scored nothing.
9. An answer that is withheld (`abstain_below`) is an Abstained error without answer; `chosen` and the confidence stay.

Left out: how roles are hosted (actors/, serve/), and which of them need what resources.
"""

from __future__ import annotations

import asyncio

from cleave.attempt import Attempt, RoleFailed, failure_of
from cleave.budget import Meter, out_of_time
from cleave.config.reasoning import BudgetConfig, ReasoningConfig
from cleave.errors import Abstained
from cleave.events import Failed, OnEvent, Selected
from cleave.roles import Roles
from cleave.selection import Choice, Options, select
from cleave.strategies import STRATEGIES
from cleave.types import Failure, Problem, Trace


async def reason(
    problem: Problem,
    roles: Roles,
    strategy: ReasoningConfig,
    budget: BudgetConfig | None = None,
    on_event: OnEvent | None = None,
) -> Trace:
    """Reason about one problem. `budget` None: the strategy's own. `on_event` is called in order, from this event loop."""
    limits = strategy.budget if budget is None else budget
    attempt = Attempt(problem, roles, strategy, Meter(limits), on_event)
    with attempt.phase("total"):
        failure = await _attempt(attempt, limits)
        options = Options(strategy.rerank_top_k, strategy.majority_top_n)
        asked = attempt.drawn or strategy.n
        choice = select(strategy.selection, attempt.ordered(), attempt.verdicts, asked=asked, options=options, votes=attempt.votes)
    if choice is None and failure is None:
        failure = Failure("ParseError", f"none of the {asked} solutions has a final answer; check the solver's prompts.", "solver")
    if choice is not None and failure is None:
        failure = _too_unsure(choice, strategy.abstain_below)
    _report(attempt, choice, failure)
    return _trace(attempt, choice, failure)


async def _attempt(attempt: Attempt, limits: BudgetConfig) -> Failure | None:
    """Plan, solve and verify, in the time that there is. Returns what stopped it, None if nothing did."""
    strategy = STRATEGIES[attempt.strategy.strategy]
    try:
        async with asyncio.timeout_at(attempt.meter.deadline()) as clock:
            await attempt.identify()
            plans = await attempt.decompose() if strategy.planned else [None]
            with attempt.phase("solve"):
                while attempt.next_round():
                    await strategy.solve(attempt, plans)
            failure = attempt.failure()
            if failure is None:
                await attempt.verify()
            return failure
    except RoleFailed as failed:
        return failed.failure
    except TimeoutError:
        if not clock.expired():
            raise
        return failure_of(out_of_time(limits))


def _too_unsure(choice: Choice, threshold: float | None) -> Failure | None:
    """Why an answer is not given; None if it is."""
    if threshold is None or (choice.confidence is not None and choice.confidence >= threshold):
        return None
    known = "unknown" if choice.confidence is None else f"{choice.confidence:.2f}"
    return Failure(
        Abstained.__name__, f"the confidence of the best answer is {known}, below abstain_below={threshold:g}; lower it to see it."
    )


def _report(attempt: Attempt, choice: Choice | None, failure: Failure | None) -> None:
    if choice is not None and not _abstained(failure):
        attempt.emit(Selected(choice.index, choice.answer, choice.confidence))
    if failure is not None:
        attempt.emit(Failed(failure, final=True))


def _abstained(failure: Failure | None) -> bool:
    return failure is not None and failure.type == Abstained.__name__


def _trace(attempt: Attempt, choice: Choice | None, failure: Failure | None) -> Trace:
    return Trace(
        problem=attempt.problem,
        strategy=attempt.strategy.strategy,
        seed=attempt.strategy.seed,
        plans=attempt.ordered_plans(),
        solutions=attempt.ordered(),
        verdicts=attempt.verdicts,
        answer=choice.answer if choice and not _abstained(failure) else None,
        chosen=choice.index if choice else None,
        confidence=choice.confidence if choice else None,
        usage=dict(attempt.usage),
        models=dict(attempt.models),
        timings=dict(attempt.timings),
        error=failure,
    )
