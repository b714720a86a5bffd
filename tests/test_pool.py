"""The pool on real Ray actors: replies, errors, cancellation, death, choice. Each model is a recording, so replies are known."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.pool import PoolHandle, pool_roles
from cleave.config.reasoning import ReasoningConfig
from cleave.config.roles import RolesConfig
from cleave.errors import ConfigError, GenerationError, RoleUnavailable
from cleave.reasoning import reason
from cleave.roles import DecomposeRequest, Roles, SolveRequest
from cleave.tasks.reference.task import reference_task
from cleave.types import Problem, Sampling
from tests.scripted import record, recorded_roles

pytestmark = pytest.mark.ray
STATIC = ReasoningConfig(strategy="static")


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return list(reference_task("arithmetic").problems("test", limit=24))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, problems: list[Problem]) -> Path:
    path = tmp_path_factory.mktemp("recording") / "calls.jsonl"
    record(path, problems, [STATIC])
    return path


@pytest.fixture(scope="module")
def roles(ray_session: None, recording: Path) -> Iterator[Roles]:
    with pool_roles(recorded_roles(recording, solvers=2, num_cpus=0.25)) as started:
        yield started


def solver_of(roles: Roles) -> PoolHandle[Any, Any]:
    assert isinstance(roles.solver, PoolHandle)
    return roles.solver


async def test_traces_are_those_of_the_recording(roles: Roles, problems: list[Problem]) -> None:
    traces = await asyncio.gather(*(reason(problem, roles, STATIC) for problem in problems))
    assert [trace.error for trace in traces] == [None] * len(problems)
    assert all(trace.plans[0] == problem.gold_plan for trace, problem in zip(traces, problems, strict=True))
    right = sum(trace.answer == problem.answer for trace, problem in zip(traces, problems, strict=True))
    assert 0 < right < len(problems)
    assert traces[0].models["solver"].name == "scripted"


def test_actors_carry_the_name_of_their_run(ray_session: None, recording: Path) -> None:
    with (
        pool_roles(recorded_roles(recording, solvers=2, num_cpus=0.1), run="demo"),
        pool_roles(recorded_roles(recording, num_cpus=0.1), {"solver"}, run="demo"),
    ):
        names = [name.partition(" (")[0] for name in ray.util.list_named_actors()]
        assert sorted(name for name in names if name.startswith("demo")) == [
            "demo decomposer 0", "demo solver 0", "demo solver 0", "demo solver 1"
        ]  # fmt: skip


async def test_typed_error_arrives_as_itself(roles: Roles, problems: list[Problem]) -> None:
    good = reason(problems[0], roles, STATIC)
    unknown = roles.solver(SolveRequest(Problem("x", "never recorded")))
    trace, error = await asyncio.gather(good, unknown, return_exceptions=True)
    assert type(error) is GenerationError
    assert "no recorded generate call" in str(error)
    assert "Traceback" not in str(error)
    assert trace.error is None  # type: ignore[union-attr]


async def test_bug_in_a_role_keeps_its_traceback(roles: Roles) -> None:
    with pytest.raises(AttributeError, match=r"(?s)actors/solver\.py.*AttributeError"):
        await roles.solver("no request")  # type: ignore[arg-type]


async def test_least_outstanding_actor_is_chosen(ray_session: None) -> None:
    handle = PoolHandle[Any, Any]("solver", [None, None, None], None)  # type: ignore[arg-type]
    handle._outstanding = [2, 0, 1]
    assert handle._choose() == 1
    handle._outstanding = [1, 1, 1]
    assert sorted(handle._choose() for _ in range(3)) == [0, 1, 2]
    handle._alive = {2}
    assert handle._choose() == 2
    handle._alive = set()
    with pytest.raises(RoleUnavailable, match="max_restarts"):
        handle._choose()


async def test_calls_are_spread_over_the_actors(roles: Roles, problems: list[Problem]) -> None:
    before = await solver_of(roles).stats()
    await asyncio.gather(*(reason(problem, roles, STATIC) for problem in problems))
    after = await solver_of(roles).stats()
    calls = [new.requests - old.requests for new, old in zip(after, before, strict=True)]
    assert sum(calls) == len(problems)
    assert min(calls) >= len(problems) // 3
    assert solver_of(roles)._outstanding == [0, 0]


async def test_cancelling_a_call_cancels_it_in_the_actor(ray_session: None, recording: Path, problems: list[Problem]) -> None:
    cast = recorded_roles(recording, num_cpus=0.25)
    batching = cast.solver.batching.model_copy(update={"batch_wait_timeout_s": 60.0})
    slow = cast.model_copy(update={"solver": cast.solver.model_copy(update={"batching": batching})})
    with pool_roles(slow) as roles:
        solver = solver_of(roles)
        call = asyncio.create_task(roles.solver(SolveRequest(problems[0])))
        await waiting(solver, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await waiting(solver, 0)
        assert solver._outstanding == [0]


async def waiting(solver: PoolHandle[Any, Any], wanted: int) -> None:
    async with asyncio.timeout(20):
        while (await solver.stats())[0].waiting != wanted:
            await asyncio.sleep(0.05)


async def test_actor_given_up_is_role_unavailable_and_gets_no_more_calls(
    ray_session: None, recording: Path, problems: list[Problem]
) -> None:
    cast = recorded_roles(recording, solvers=2, num_cpus=0.25)
    resources = cast.solver.resources.model_copy(update={"max_restarts": 0, "max_task_retries": 0})
    mortal = cast.model_copy(update={"solver": cast.solver.model_copy(update={"resources": resources})})
    with pool_roles(mortal) as roles:
        os.kill((await solver_of(roles).health())[0].pid, signal.SIGKILL)
        outcomes = Counter[str]()
        for problem in problems:
            trace = await reason(problem, roles, STATIC)
            outcomes[trace.error.type if trace.error else "ok"] += 1
        assert outcomes["RoleUnavailable"] <= 2
        assert outcomes["ok"] + outcomes["RoleUnavailable"] == len(problems)
        assert outcomes["ok"] > 0


def test_role_that_cannot_be_built_is_a_config_error(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recording at"), pool_roles(recorded_roles(tmp_path / "none.jsonl")):
        pass


def test_too_small_cluster_is_refused_at_once(ray_session: None) -> None:
    cast = RolesConfig.model_validate({"solver": {"model": "hf:x", "resources": {"num_cpus": 64}}})
    with pytest.raises(ConfigError, match=r"roles\.solver\.resources\.num_cpus=2 or start Ray with more CPUs"), pool_roles(cast):
        pass


async def test_batches_form_across_callers(roles: Roles, problems: list[Problem]) -> None:
    decomposer = roles.decomposer
    assert isinstance(decomposer, PoolHandle)
    (before,) = await decomposer.stats()
    sampling = ReasoningConfig()
    assert sampling.n == 1
    await asyncio.gather(*(reason(problem, roles, STATIC) for problem in problems))
    (after,) = await decomposer.stats()
    assert after.requests - before.requests == len(problems)
    assert after.batches - before.batches < len(problems)


async def test_info_names_the_model(roles: Roles) -> None:
    assert (await roles.models())["decomposer"].parameters == 1000
    with pytest.raises(GenerationError):
        await roles.decomposer(DecomposeRequest(Problem("x", "?"), Sampling()))
