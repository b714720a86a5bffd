"""The spans of one problem: one for its stages each (plan, solve, verify, vote), one for each sub-question that is put on its own.

Events tell of what has happened, spans have to be there before their children. So a stage begins with its first call to a role, or with
the first event that only it has, and ends with the last of both; plans, solutions and failures are events of its span, without texts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Tracer

from cleave.events import Event, Failed, PlanMade, Selected, SolutionFound, StageEntered, StepAnswered, StepAsked, VerdictsGiven
from cleave.roles import DecomposeRequest, SolveRequest, VerifyRequest
from serve.open_span import current_span, fail

UNANSWERED = "unanswered"
CURRENT: ContextVar[ProblemSpans | None] = ContextVar("problem_spans", default=None)
STEP: ContextVar[Span | None] = ContextVar("step_span", default=None)
"""The sub-question that the running task has asked: each is asked and answered within one task."""


class ProblemSpans:
    """Made within the problem's own span. `note` gets every event, from the task that caused it."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._problem = trace.get_current_span()
        self._stage: Span | None = None
        self._name = ""
        self._of: dict[str, Any] = {}
        self._steps: dict[tuple[int, int], Span] = {}
        self._last = time.time_ns()

    def note(self, event: Event) -> None:
        """Something has happened."""
        match event:
            case StageEntered():
                self.leave()
                self._of = {"cleave.stage": event.stage, "cleave.strategy": event.strategy}
            case StepAsked():
                self._ask(event.sample, event.step)
            case StepAnswered():
                self._answer(event.sample, event.step.id)
            case Selected():
                self.leave()
                vote = self._begin("vote", _figures(event), start=self._last)
                vote.end()
            case PlanMade(sample=None):
                self._enter("plan").add_event(event.event, _figures(event))
            case Failed(final=True):
                pass  # told of the problem's own span (serve/span_notes.py)
            case _:
                (self._stage or self._problem).add_event(event.event, _figures(event))
        self._last = time.time_ns()

    def context_of(self, request: object) -> Context:
        """Where a call belongs: to the sub-question that it answers, else to its stage, which begins if it has not yet."""
        step = STEP.get()
        if step is not None and isinstance(request, SolveRequest) and request.mode == "step":
            return trace.set_span_in_context(step)
        return trace.set_span_in_context(self._enter(_stage_of(request)))

    def touch(self) -> None:
        """A call is over."""
        self._last = time.time_ns()

    def leave(self) -> None:
        """The stage is over; what was asked in it stays unanswered."""
        for step in self._steps.values():
            fail(step, UNANSWERED)
            step.end(self._last)
        self._steps.clear()
        if self._stage is not None:
            self._stage.end(self._last)
        self._stage, self._name = None, ""

    def _enter(self, name: str) -> Span:
        """The stage of that name: the one under way, or the next one."""
        if self._stage is None or self._name != name:
            self.leave()
            self._stage, self._name = self._begin(name, {} if name == "verify" else self._of), name
        return self._stage

    def _begin(self, name: str, attributes: dict[str, Any], start: int | None = None) -> Span:
        return self._tracer.start_span(name, trace.set_span_in_context(self._problem), attributes=attributes, start_time=start)

    def _ask(self, sample: int, step: int) -> None:
        context = trace.set_span_in_context(self._enter("solve"))
        span = self._tracer.start_span("sub-question", context, attributes={"cleave.sample": sample, "cleave.step": step})
        self._steps[sample, step] = span
        STEP.set(span)

    def _answer(self, sample: int, step: int) -> None:
        if (span := self._steps.pop((sample, step), None)) is not None:
            span.end()
        STEP.set(None)


@contextmanager
def problem_spans(tracer: Tracer, strategy: str) -> Iterator[ProblemSpans]:
    """The spans of a problem that is worked on in the block."""
    with current_span(tracer.start_span(f"reason {strategy}", attributes={"cleave.strategy": strategy})):
        spans = ProblemSpans(tracer)
        before = CURRENT.set(spans)
        try:
            yield spans
        finally:
            CURRENT.reset(before)
            spans.leave()


@contextmanager
def belonging(request: object) -> Iterator[Context | None]:
    """The context of a call that is made in the block; None: it is no problem's, and what is current holds."""
    spans = CURRENT.get()
    if spans is None:
        yield None
        return
    try:
        yield spans.context_of(request)
    finally:
        spans.touch()


def _stage_of(request: object) -> str:
    if isinstance(request, VerifyRequest):
        return "verify"
    return "plan" if isinstance(request, DecomposeRequest) and request.mode == "plan" else "solve"


def _figures(event: Event) -> dict[str, Any]:
    """What an event tells beside texts."""
    match event:
        case PlanMade():
            return {"cleave.plan.steps": len(event.plan.steps)}
        case SolutionFound():
            solution = event.solution
            figures = {"cleave.solution.steps": len(solution.steps), "cleave.solution.answered": solution.answer is not None}
            return {"cleave.sample": event.sample, **figures, "cleave.solution.finish": solution.finish}
        case VerdictsGiven():
            return {"cleave.verdicts": sum(verdict is not None for verdict in event.verdicts)}
        case Failed():
            return {"error.type": event.failure.type, "cleave.role": event.failure.role}
        case Selected():
            return {"cleave.sample": event.sample, **({} if event.confidence is None else {"cleave.confidence": event.confidence})}
    return {}
