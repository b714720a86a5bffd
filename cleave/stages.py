"""The stages of one problem, entered from cheap to dear until one's answer is taken (Adaptive-Solver, arXiv 2310.01446).

Any strategy but `adaptive` is the case of one stage. A stage plans, solves and chooses among its own solutions; its answer is taken if
it is sure enough (cleave/config/reasoning.py: Stage.takes). Before that is decided, verdicts are asked for only where they matter;
whoever answers is verified in the end. A stage that fails makes room for the next; a budget that runs out ends everything. If no stage
is sure enough, the last one answers, or the one that agrees most (`otherwise`); a stage without an answer leaves it to those before.
Left out: what happens within a stage (attempt.py, strategies.py), and what the outcome means for the trace (reasoning.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cleave.attempt import Attempt
from cleave.case import Case, RoleFailed, is_budget
from cleave.config.reasoning import ReasoningConfig, Stage
from cleave.events import Failed, StageEntered
from cleave.selection import Choice
from cleave.strategies import STRATEGIES
from cleave.types import Plan, Solution, Verdict


@dataclass
class Stages:
    """`attempts`: one per stage that was entered, in order. Whatever they found stays when one of them fails."""

    case: Case
    strategy: ReasoningConfig
    attempts: list[Attempt] = field(default_factory=list)

    async def run(self) -> None:
        """Go through the stages. Raises RoleFailed where the last one fails, a budget runs out, or the answering one cannot be verified."""
        stages = self.strategy.in_stages()
        for stage in stages:
            attempt, is_last = self._enter(stage, len(stages)), stage is stages[-1]
            try:
                await _solve(attempt)
                if (is_last and self.strategy.otherwise == "last") or await _is_taken(attempt):
                    break
            except RoleFailed as failed:
                if is_last or is_budget(failed.failure):
                    raise
                self.case.emit(Failed(failed.failure))
        await (self.answering() or self.attempts[-1]).verify()

    def _enter(self, stage: Stage, of: int) -> Attempt:
        number = len(self.attempts)
        if self.strategy.strategy == "adaptive":
            self.case.emit(StageEntered(number, of, stage.reasoning.strategy, stage.reasoning.n))
        self.attempts.append(Attempt(self.case, stage, number, before=len(self.solutions())))
        return self.attempts[-1]

    def answering(self) -> Attempt | None:
        """Whose answer, if any, is given; None: none of several stages has one."""
        if len(self.attempts) == 1:
            return self.attempts[0]
        choices = [(attempt, choice) for attempt in self.attempts if (choice := attempt.choice()) is not None]
        if not choices:
            return None
        if self.strategy.otherwise == "last" or self.attempts[-1].holds():
            return choices[-1][0]
        return max(reversed(choices), key=lambda each: each[0].agreement(each[1]))[0]  # of equal ones the later

    def choice(self) -> Choice | None:
        """The answer, with its solution's place among those of all stages."""
        attempt = self.answering()
        choice = attempt.choice() if attempt is not None else None
        if attempt is None or choice is None:
            return None
        return replace(choice, index=attempt.place(choice.index))

    @property
    def asked(self) -> int:
        """Samples that were asked for, or would have been."""
        return sum(attempt.asked for attempt in self.attempts)

    def sizes(self) -> tuple[int, ...]:
        """How many solutions each stage brought; none where there are no stages to speak of."""
        return tuple(len(attempt.solutions) for attempt in self.attempts) if self.strategy.strategy == "adaptive" else ()

    def solutions(self) -> tuple[Solution, ...]:
        """Those of all stages, in order."""
        return tuple(solution for attempt in self.attempts for solution in attempt.ordered())

    def plans(self) -> tuple[Plan, ...]:
        """As Trace.plans: of several stages one for each solution, an empty one where a stage made none."""
        if len(self.attempts) == 1 or not self.solutions():
            return self.attempts[-1].ordered_plans() if self.attempts else ()
        if not any(attempt.plan_of for attempt in self.attempts):
            return ()
        return tuple(attempt.plan_of.get(sample, Plan()) for attempt in self.attempts for sample in sorted(attempt.solutions))

    def verdicts(self) -> tuple[Verdict | None, ...]:
        """None where a stage was not verified; empty if none was."""
        if not any(attempt.verdicts for attempt in self.attempts):
            return ()
        return tuple(verdict for attempt in self.attempts for verdict in attempt.verdicts or (None,) * len(attempt.solutions))


async def _solve(attempt: Attempt) -> None:
    """Plan and solve. Raises RoleFailed."""
    strategy = STRATEGIES[attempt.strategy.strategy]
    attempt.case.check_samples()  # a plan that nobody may follow is not paid for
    plans = await attempt.decompose() if strategy.planned else [None]
    with attempt.case.phase("solve"):
        while attempt.next_round():
            await strategy.solve(attempt, plans)
    failure = attempt.failure()
    if failure is not None:
        raise RoleFailed(failure)


async def _is_taken(attempt: Attempt) -> bool:
    """Whether the stage is where it ends. Raises RoleFailed."""
    if attempt.stage.is_scored:
        await attempt.verify()
    return attempt.holds()
