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
6. Budgets are checked before and after every call, time at any moment, over all stages. The number of samples never exceeds its limit,
   nor does the number of calls, as long as roles make one call per request; tokens and money can overshoot by the calls in flight.
7. Plans are bounded and acyclic whoever sends them (plans.py), and nothing that a model wrote is evaluated.
8. A verifier's failure loses no answer: what it did not score votes as if scored nothing.
9. An answer that is withheld (`abstain_below`) is an Abstained error without answer; `chosen` and the confidence stay.
10. `adaptive`: what a stage draws depends on its place in the config alone, not on what other stages did. All solutions stay in the
    Trace, in order; a stage's failure that another stage makes good is an event, not the Trace's error.

Left out: which stages are entered (stages.py), how roles are hosted (actors/, serve/), and which of them need what resources.
"""

from __future__ import annotations

import asyncio

from cleave.attempt import recorded
from cleave.budget import Meter, out_of_time
from cleave.case import Case, RoleFailed, failure_of
from cleave.config.reasoning import BudgetConfig, ReasoningConfig
from cleave.errors import Abstained
from cleave.events import Failed, OnEvent, Selected
from cleave.roles import Roles
from cleave.selection import Choice
from cleave.stages import Stages
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
    case = Case(problem, roles, Meter(limits), on_event)
    stages = Stages(case, strategy)
    with case.phase("total"):
        failure = await _attempt(stages, limits)
        choice = stages.choice()
    if choice is None and failure is None:
        failure = Failure("ParseError", f"none of the {stages.asked} solutions has a final answer; check the solver's prompts.", "solver")
    if choice is not None and failure is None:
        failure = _too_unsure(choice, strategy.abstain_below)
    _report(case, choice, failure)
    return _trace(stages, choice, failure)


async def judge(trace: Trace, roles: Roles, strategy: ReasoningConfig, on_event: OnEvent | None = None) -> Trace:
    """Have the solutions of a trace judged and chosen among anew, as `strategy` says. Its plans and solutions, what they cost and what
    failed stay; only the verifier is asked. Samples of `adaptive` stopped by what was thought of them then: they are not for this."""
    assert roles.verifier is not None
    case = Case(trace.problem, roles, Meter(BudgetConfig()), on_event)
    case.usage |= {role: usage for role, usage in trace.usage.items() if role != "verifier"}
    case.models |= {**trace.models, "verifier": await roles.verifier.info()}
    case.timings |= {phase: seconds for phase, seconds in trace.timings.items() if phase not in ("verify", "total")}
    stages = Stages(case, strategy, [recorded(case, strategy.in_stages()[0], trace)])
    failure = None if trace.error is None or trace.error.role == "verifier" or _abstained(trace.error) else trace.error
    with case.phase("total"):
        try:
            await stages.attempts[0].verify()
        except RoleFailed as failed:
            failure = failed.failure
        choice = stages.choice()
    if choice is not None and failure is None:
        failure = _too_unsure(choice, strategy.abstain_below)
    _report(case, choice, failure)
    return _trace(stages, choice, failure)


async def _attempt(stages: Stages, limits: BudgetConfig) -> Failure | None:
    """Plan, solve and verify, in the time that there is. Returns what stopped it, None if nothing did."""
    try:
        async with asyncio.timeout_at(stages.case.meter.deadline()) as clock:
            await stages.case.identify()
            await stages.run()
    except RoleFailed as failed:
        return failed.failure
    except TimeoutError:
        if not clock.expired():
            raise
        return failure_of(out_of_time(limits))
    return None


def _too_unsure(choice: Choice, threshold: float | None) -> Failure | None:
    """Why an answer is not given; None if it is."""
    if threshold is None or (choice.confidence is not None and choice.confidence >= threshold):
        return None
    known = "unknown" if choice.confidence is None else f"{choice.confidence:.2f}"
    return Failure(
        Abstained.__name__, f"the confidence of the best answer is {known}, below abstain_below={threshold:g}; lower it to see it."
    )


def _report(case: Case, choice: Choice | None, failure: Failure | None) -> None:
    if choice is not None and not _abstained(failure):
        case.emit(Selected(choice.index, choice.answer, choice.confidence))
    if failure is not None:
        case.emit(Failed(failure, final=True))


def _abstained(failure: Failure | None) -> bool:
    return failure is not None and failure.type == Abstained.__name__


def _trace(stages: Stages, choice: Choice | None, failure: Failure | None) -> Trace:
    case, strategy = stages.case, stages.strategy
    return Trace(
        problem=case.problem,
        strategy=strategy.strategy,
        seed=strategy.seed,
        plans=stages.plans(),
        solutions=stages.solutions(),
        verdicts=stages.verdicts(),
        answer=choice.answer if choice and not _abstained(failure) else None,
        chosen=choice.index if choice else None,
        confidence=choice.confidence if choice else None,
        usage=dict(case.usage),
        models=dict(case.models),
        timings=dict(case.timings),
        error=failure,
        stages=stages.sizes(),
    )
