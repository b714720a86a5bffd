"""The batching handle: which requests share a call, how endpoints differ from local models, and shared weights."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from actors.handle import BatchingHandle, batch_key, inline_roles, sequences
from cleave.config.roles import RoleConfig
from cleave.roles import DecomposeReply, DecomposeRequest, SolveRequest, VerifyRequest
from cleave.tasks.reference.task import reference_task
from cleave.types import ModelInfo, Problem, Sampling, Solution, Usage
from tests.scripted import record, recorded_roles

PROBLEM = Problem("p", "How many?")


class CountingRole:
    """Replies at once and remembers how many requests each call had, and how many calls ran at the same time."""

    info = ModelInfo("counting")

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.running = self.most = 0

    async def __call__(self, requests: Sequence[DecomposeRequest]) -> list[DecomposeReply]:
        self.calls.append(len(requests))
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        return [DecomposeReply((None,), ("",), Usage(1)) for _ in requests]

    async def aclose(self) -> None:
        return None


def test_key_separates_kinds_modes_and_options() -> None:
    greedy, warm = Sampling(), Sampling(temperature=0.7)
    keys = [
        batch_key(DecomposeRequest(PROBLEM, greedy)),
        batch_key(DecomposeRequest(PROBLEM, warm)),
        batch_key(SolveRequest(PROBLEM, "steps", sampling=greedy)),
        batch_key(SolveRequest(PROBLEM, "answer", sampling=greedy)),
        batch_key(VerifyRequest(PROBLEM, ())),
    ]
    assert len(set(keys)) == len(keys)
    assert batch_key(SolveRequest(PROBLEM, sampling=greedy, seed=1)) == batch_key(SolveRequest(PROBLEM, sampling=Sampling(), seed=2))


def test_size_is_what_the_model_decodes() -> None:
    assert sequences(SolveRequest(PROBLEM, sampling=Sampling(n=8, temperature=1))) == 8
    assert sequences(VerifyRequest(PROBLEM, (Solution(), Solution()))) == 2


async def test_local_model_gets_batches_one_after_the_other() -> None:
    role = CountingRole()
    batching = {"max_batch_size": 4}
    handle = BatchingHandle(role, RoleConfig.model_validate({"model": "hf:x", "batching": batching}))
    await asyncio.gather(*(handle(DecomposeRequest(PROBLEM)) for _ in range(10)))
    assert role.calls == [4, 4, 2]
    assert role.most == 1
    assert handle.stats.mean_batch_size == 10 / 3


async def test_endpoint_gets_single_requests_many_at_a_time() -> None:
    role = CountingRole()
    model = {"backend": "openai", "model_name_or_path": "m", "base_url": "http://127.0.0.1:1/v1", "max_concurrency": 3}
    handle = BatchingHandle(role, RoleConfig.model_validate({"model": model}))
    await asyncio.gather(*(handle(DecomposeRequest(PROBLEM)) for _ in range(10)))
    assert role.calls == [1] * 10
    assert role.most == 3


async def test_inline_roles_share_one_model(tmp_path: Path) -> None:
    problems = list(reference_task("lookup").problems("test", limit=2))
    path = tmp_path / "calls.jsonl"
    await asyncio.to_thread(record, path, problems, [])
    async with inline_roles(recorded_roles(path)) as roles:
        assert isinstance(roles.decomposer, BatchingHandle)
        assert isinstance(roles.solver, BatchingHandle)
        assert roles.decomposer.role.model is roles.solver.role.model  # type: ignore[attr-defined]
