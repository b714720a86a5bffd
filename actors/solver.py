"""The solver: a problem, with or without a plan, in; solutions out.

    solver = build_solver(RoleConfig.model_validate("reference:solver"))
    (reply,) = await solver([SolveRequest(problem, "steps", plan)])

A reply without a final answer is a Solution whose answer is None; nothing is guessed from its steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.role import Ask, PromptedRole, Reading, open_model
from cleave.config.roles import RoleConfig
from cleave.lm.protocol import LanguageModel
from cleave.prompts import PromptSet, solve_form
from cleave.roles import SolveReply, SolveRequest
from cleave.solutions import ANSWER_MARKER, DEFAULT_LIMITS, SolutionLimits, parse_solution, parse_step, render_step
from cleave.types import Completion, Solution


class Solver(PromptedRole):
    """Prompt → model → strict parse. One call takes many requests."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: PromptSet,
        limits: SolutionLimits = DEFAULT_LIMITS,
        repair_retries: int = 0,
        max_tokens: int = 256,
    ) -> None:
        super().__init__(model, prompts, repair_retries, max_tokens)
        self.limits = limits

    async def __call__(self, requests: Sequence[SolveRequest]) -> list[SolveReply]:
        """One reply per request, in order. Raises what the model raises (GenerationError, ConfigError), nothing for what it writes,
        and ValueError for mode 'step' without its plan and known answers."""

        def read(i: int, completion: Completion, text: str) -> Reading[Solution]:
            return self._read(requests[i], completion, text)

        replies = await self.ask([self._ask(request) for request in requests], read)
        return [SolveReply(tuple(reading.value for reading in reply.readings), reply.usage) for reply in replies]

    def _ask(self, request: SolveRequest) -> Ask:
        form = solve_form(request.mode, request.plan)
        prompt = self.prompts.solve(request.problem, request.mode, request.plan, request.known, request.seed)
        return Ask(prompt, self.sampling(request.sampling, form), form)

    def _read(self, request: SolveRequest, completion: Completion, text: str) -> Reading[Solution]:
        if request.mode == "step":
            return self._read_step(request, completion, text)
        solution = parse_solution(
            text, logprob=completion.mean_logprob, usage=completion.usage, finish=completion.finish, limits=self.limits
        )
        missing = None if solution.answer is not None else f"it has no last line of the form `{ANSWER_MARKER} X`."
        return Reading(solution, text, missing)

    def _read_step(self, request: SolveRequest, completion: Completion, text: str) -> Reading[Solution]:
        assert request.plan is not None
        number = request.plan.steps[-1].id
        complete = completion.finish == "stop" and len(text) <= self.limits.text
        step = parse_step(text, number) if complete else None
        solution = Solution(
            steps=(step,) if step else (),
            answer=step.answer if step else None,
            text=render_step(step) if step else text[: self.limits.text],
            logprob=completion.mean_logprob,
            usage=completion.usage,
            finish=completion.finish,
        )
        return Reading(solution, text, None if step else f"it is not one line of the form `{number}. answer`.")


def build_solver(config: RoleConfig, model: LanguageModel | None = None) -> Solver:
    """Build from a config; `model` None: the config's. Raises ConfigError. Loading local weights blocks."""
    model, prompts = open_model(config, model, "the solver")
    return Solver(model, prompts, repair_retries=config.repair_retries, max_tokens=config.max_tokens)
