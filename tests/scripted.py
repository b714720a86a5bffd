"""A model that knows the reference tasks by heart, and recordings of it: the one faked seam of the evaluation tests."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from actors.decomposer import build_decomposer
from actors.local import LocalHandle
from actors.solver import build_solver
from cleave.config.reasoning import ReasoningConfig
from cleave.config.roles import RoleConfig, RolesConfig
from cleave.lm.recorded import Recorder
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.solutions import ANSWER_MARKER
from cleave.types import Completion, ModelInfo, Problem, Prompt, Sampling, Usage


class ScriptedModel:
    """Replies to reference-v1 prompts from the gold data of known problems; every `wrong_every`-th problem gets a wrong answer."""

    info = ModelInfo("scripted", "1", "float32", 1000)
    capabilities = frozenset({"text", "seed", "logprobs"})

    def __init__(self, problems: Iterable[Problem], wrong_every: int = 3) -> None:
        self.problems = {problem.text: problem for problem in problems}
        self.wrong_every = wrong_every
        self.calls = 0

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        self.calls += len(prompts)
        return [[self._reply(prompt.text or "", i) for i in range(sampling.n)] for prompt in prompts]

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        raise NotImplementedError

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        raise NotImplementedError
        yield ""

    async def aclose(self) -> None:
        return None

    def _reply(self, text: str, sample: int) -> Completion:
        question, _, rest = text.removeprefix("Question: ").partition("\nPlan:\n")
        if not rest and "\nPlan:\n" not in text:
            question = question.partition("\nSolution:\n")[0].partition("\nAnswer:\n")[0]
        problem = self.problems[question]
        assert problem.gold_plan is not None
        if text.endswith("Plan:\n"):
            reply = problem.gold_plan.text
        else:
            steps = "".join(f"{step.id}. {step.text}\n" for step in problem.gold_steps)
            reply = ("" if text.endswith("Answer:\n") else steps) + f"{ANSWER_MARKER} {self._answer(problem, text)}"
        usage = Usage(1, len(text.split()), len(reply.split()), 0.001, 2000.0 * len(text.split()))
        return Completion(reply, tuple(range(5)), (-0.1 * (1 + sample),) * 5, usage=usage)

    def _answer(self, problem: Problem, text: str) -> str:
        digest = hashlib.sha256((problem.id + text[-10:]).encode()).digest()
        return "wrong" if digest[0] % self.wrong_every == 0 else str(problem.answer)


def record(path: Path, problems: Sequence[Problem], variants: Iterable[ReasoningConfig], model: ScriptedModel | None = None) -> None:
    """Record every call that `variants` make for `problems`."""
    recorder = Recorder(model or ScriptedModel(problems), path)
    config = RoleConfig.model_validate({"model": f"recorded:{path}", "prompts": "reference-v1"})
    roles = Roles(LocalHandle(build_decomposer(config, recorder)), LocalHandle(build_solver(config, recorder)))

    async def run() -> None:
        for variant in variants:
            for problem in problems:
                await reason(problem, roles, variant)

    asyncio.run(run())


def recorded_roles(path: Path, solvers: int = 1, num_cpus: float = 0.5) -> RolesConfig:
    """The cast over a recording."""
    role = {"model": f"recorded:{path}", "prompts": "reference-v1"}
    return RolesConfig.model_validate(
        {
            "decomposer": role | {"resources": {"num_cpus": num_cpus}},
            "solver": role | {"resources": {"num_cpus": num_cpus, "num_replicas": solvers}},
        }
    )
