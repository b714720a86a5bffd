"""What the reasoning loop reports while it works. Read by `cleave ask`, by streaming routes and by the web page.

Every event of one problem comes from one coroutine's thread, in the order in which things happened; a callback must be quick and
may not raise. `sample` is the index into Trace.solutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from cleave.types import Failure, Plan, Solution, SolutionStep, Verdict, to_dict


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    event: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the kind of event under `event`."""
        return {"event": self.event, **to_dict(self)}


@dataclass(frozen=True)
class StageEntered(Event):
    """Stage number `stage`, from 0, `of` several begins (adaptive): with `n` samples of `strategy`. What follows is of this stage."""

    event: ClassVar[str] = "stage"
    stage: int
    of: int
    strategy: str
    n: int


@dataclass(frozen=True)
class PlanMade(Event):
    """A decomposer's plan was read. dynamic: the plan so far of `sample`, each time that it has grown; None: a plan for any sample."""

    event: ClassVar[str] = "plan"
    plan: Plan
    sample: int | None = None


@dataclass(frozen=True)
class StepAsked(Event):
    """A single step is put to the solver (stepwise, dynamic). `question` has the known answers in place of its references."""

    event: ClassVar[str] = "step_asked"
    sample: int
    step: int
    question: str


@dataclass(frozen=True)
class StepAnswered(Event):
    """A single step has its answer (stepwise, dynamic)."""

    event: ClassVar[str] = "step_answered"
    sample: int
    step: SolutionStep


@dataclass(frozen=True)
class SolutionFound(Event):
    """A solution is complete, with or without an answer."""

    event: ClassVar[str] = "solution"
    sample: int
    solution: Solution


@dataclass(frozen=True)
class VerdictsGiven(Event):
    """The verifier has scored the solutions; None: it could not, or was not asked (adaptive: stages before)."""

    event: ClassVar[str] = "verdicts"
    verdicts: tuple[Verdict | None, ...]


@dataclass(frozen=True)
class Selected(Event):
    """The answer is chosen; the last event of a problem that has one, but for a final Failed."""

    event: ClassVar[str] = "selected"
    sample: int
    answer: str
    confidence: float | None


@dataclass(frozen=True)
class Failed(Event):
    """Something failed: one of several plans, solutions or stages, or (`final`, the last event) the problem as a whole."""

    event: ClassVar[str] = "failed"
    failure: Failure
    final: bool = False


OnEvent = Callable[[Event], None]
EVENTS: tuple[type[Event], ...] = (StageEntered, PlanMade, StepAsked, StepAnswered, SolutionFound, VerdictsGiven, Selected, Failed)
