"""What the reasoning loop asks of the three roles, whoever hosts them.

A request is one frozen value in, one reply out; calls carry their seeds, so a repeated call gives the same reply. The three adapters
(local, actor pool, Serve handle) live in actors/ and serve/ and implement `RoleHandle`; the loop in reasoning.py sees only this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from cleave.calibration import VoteCalibration
from cleave.types import Failure, ModelInfo, Plan, Problem, Sampling, Solution, SolutionStep, Usage, Verdict

Role = Literal["decomposer", "solver", "verifier"]
ROLES: tuple[Role, ...] = ("decomposer", "solver", "verifier")
DecomposeMode = Literal["plan", "next"]
SolveMode = Literal["answer", "steps", "step"]


@dataclass(frozen=True)
class DecomposeRequest:
    """Ask for `sampling.n` plans of one problem, of at most `max_steps` sub-questions (None: as many as any plan may have).

    mode 'plan': whole plans; 'next': the plan `asked`, all of whose steps are answered in `known`, with one more step, or `asked` itself
    if no more are needed.
    """

    problem: Problem
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    max_steps: int | None = None
    mode: DecomposeMode = "plan"
    asked: Plan = field(default_factory=Plan)
    known: tuple[SolutionStep, ...] = ()


@dataclass(frozen=True)
class DecomposeReply:
    """`plans[i]` is None where sample i could not be parsed; then `failures` says why.

    `texts` are the replies as written, without `<think>` blocks.
    """

    plans: tuple[Plan | None, ...]
    texts: tuple[str, ...]
    usage: Usage
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class SolveRequest:
    """Ask for `sampling.n` solutions of one problem.

    mode 'answer': the final answer only; 'steps': step by step, along `plan` if there is one; 'step': only the last step of `plan`,
    whose earlier steps are answered in `known` (the loop passes the sub-plan of that step, renumbered from 1).
    """

    problem: Problem
    mode: SolveMode = "steps"
    plan: Plan | None = None
    known: tuple[SolutionStep, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0


@dataclass(frozen=True)
class SolveReply:
    """One Solution per sample; a reply that could not be parsed is a Solution without answer. `usage` covers the prompt once."""

    solutions: tuple[Solution, ...]
    usage: Usage


@dataclass(frozen=True)
class VerifyRequest:
    """Ask for an opinion of each solution of one problem. `plans`: one that all solutions followed, or one for each, or none."""

    problem: Problem
    solutions: tuple[Solution, ...]
    plans: tuple[Plan, ...] = ()

    def plan_of(self, i: int) -> Plan | None:
        """The plan that solution i followed."""
        return self.plans[i if len(self.plans) == len(self.solutions) else 0] if self.plans else None


@dataclass(frozen=True)
class VerifyReply:
    """One Verdict per solution, in order, None where the verifier failed on it: then `failures` says why. No verdicts at all where the
    verifier has no opinion. `votes` says how sure an answer is that several solutions give; None: the verifier does not know."""

    verdicts: tuple[Verdict | None, ...]
    usage: Usage = field(default_factory=Usage)
    failures: tuple[Failure, ...] = ()
    votes: VoteCalibration | None = None


Request_contra = TypeVar("Request_contra", contravariant=True)
Reply_co = TypeVar("Reply_co", covariant=True)


class RoleHandle(Protocol[Request_contra, Reply_co]):
    """One request in, one reply out; asynchronous and cancellable. Raises the errors of errors.py, never a backend's own."""

    async def __call__(self, request: Request_contra) -> Reply_co: ...

    async def info(self) -> ModelInfo:
        """Which weights answer behind this handle."""
        ...


@dataclass(frozen=True)
class Roles:
    """The handles that a strategy may call. `verifier` is None where no verdict is wanted."""

    decomposer: RoleHandle[DecomposeRequest, DecomposeReply]
    solver: RoleHandle[SolveRequest, SolveReply]
    verifier: RoleHandle[VerifyRequest, VerifyReply] | None = None

    async def models(self) -> Mapping[str, ModelInfo]:
        """Model information by role."""
        models = {"decomposer": await self.decomposer.info(), "solver": await self.solver.info()}
        return models if self.verifier is None else models | {"verifier": await self.verifier.info()}
