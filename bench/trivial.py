"""Problems and models that cost next to nothing, for measurements of what is around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from actors.local import LocalHandle, NotAsked
from actors.solver import build_solver
from bench.endpoint import ANSWER
from cleave.config.reasoning import ReasoningConfig
from cleave.config.roles import RolesConfig
from cleave.lm.recorded import Recorder
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.tasks.task import StrictTask
from cleave.types import Completion, ModelInfo, Problem, Prompt, Sampling, Usage

CALLS_PER_NODE = 4
OUTSTANDING = 1000
DIRECT = ReasoningConfig(strategy="direct")
SAME = Problem("same", "How many?", answer="1", task="same")


class Same(StrictTask):
    """As many copies of one problem as are asked for: nothing is spent on making problems, and one recorded reply answers all."""

    name, description, splits = "same", "One problem again and again.", {"test": None}

    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]:
        return islice(repeat(SAME), limit)


class ByHeart:
    """The model behind the recording."""

    info = ModelInfo("by-heart")
    capabilities = frozenset({"text", "chat", "seed"})

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        return [[Completion(ANSWER, usage=Usage(1, 9, 5))] for _ in prompts]

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        raise NotImplementedError

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        raise NotImplementedError
        yield ""

    async def aclose(self) -> None:
        return None


def cast(model: str, **resources: Any) -> RolesConfig:
    """The roles over one model; only the solver is asked."""
    named: dict[str, Any] = {"short": model}
    if model.startswith("openai:"):
        named["max_concurrency"] = CALLS_PER_NODE
    role = {"model": named, "prompts": "instruct-v1", "batching": {"batch_wait_timeout_s": 0}}
    accepted = {"max_ongoing_requests": 2 * OUTSTANDING, **resources}
    return RolesConfig.model_validate({"decomposer": role, "solver": role | {"resources": accepted}})


def recording(folder: Path) -> str:
    """The short string of a model that has the one reply by heart."""
    path = folder / "calls.jsonl"
    recorder = Recorder(ByHeart(), path)
    config = cast(f"recorded:{path}").solver
    solver = LocalHandle(build_solver(config, recorder))
    roles = Roles(NotAsked("decomposer"), solver, NotAsked("verifier"))
    asyncio.run(reason(SAME, roles, DIRECT))
    return f"recorded:{path}"
