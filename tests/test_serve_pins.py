"""A request meets one version of each role, whatever the router does: handles over deployments that are faked, and a service over those."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cleave.config.reasoning import ReasoningConfig
from cleave.config.roles import RoleConfig
from cleave.config.serve import LimitsConfig
from cleave.errors import CleaveError, GenerationError, RoleUnavailable
from cleave.events import Event, Failed
from cleave.plans import parse_plan
from cleave.roles import DecomposeReply, Role, Roles, SolveReply
from cleave.types import ModelInfo, Problem, Sampling, Solution, SolutionStep, Usage
from serve.handle import ServeHandle
from serve.model_calls import Continue, Continued, Piece
from serve.pins import Answer, Version, pinned
from serve.service import Listener, Service
from tests.serving import PLAN, SOLVE_COST

ASK = Continue(("1",), Sampling())


class Call:
    def __init__(self, reply: Awaitable[Any]) -> None:
        self.reply = reply

    def cancel(self) -> None: ...

    def __await__(self) -> Any:
        return self.reply.__await__()


class Method:
    def __init__(self, remote: Callable[..., Any]) -> None:
        self.remote = remote


class Deployment:
    """Replicas of several versions behind a router that goes along `route`, the last of it again and again."""

    def __init__(self, *route: str, reply: Callable[[str, Any], Any] = lambda version, request: version) -> None:
        self.route, self.reply = list(route), reply
        self.worked: list[str] = []
        self.answer = Method(lambda *arguments: Call(self._answer(*arguments)))
        self.info = Method(lambda: Call(self._info()))
        self.stream_model = Method(lambda *arguments: self._stream(*arguments))

    def options(self, **_: Any) -> Deployment:
        return self

    def _next(self) -> str:
        return self.route.pop(0) if len(self.route) > 1 else self.route[0]

    async def _info(self) -> ModelInfo:
        return version(self._next()).model

    async def _answer(self, request: Any, wanted: Version | None) -> Answer:
        mine = self._next()
        await asyncio.sleep(0)
        if wanted not in (None, version(mine)):
            return Answer(version(mine), declined=True)
        self.worked.append(mine)
        return Answer(version(mine), self.reply(mine, request))

    def _stream(self, call: Any, wanted: Version | None = None) -> Any:
        mine = self._next()

        async def items() -> AsyncIterator[Any]:
            yield version(mine)
            if wanted in (None, version(mine)):
                yield Piece(0, mine)
                yield Continued((), Usage(), version(mine).model)

        class Stream:
            def cancel(self) -> None: ...

            def __aiter__(self) -> Any:
                return items()

        return Stream()


def version(name: str) -> Version:
    return Version(ModelInfo(name, "1"), "c")


def handle_of(deployment: Deployment, role: Role = "solver") -> ServeHandle[Any, Any]:
    return ServeHandle(role, deployment)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.handle.ROUTE_PAUSE_S", 0.0)
    monkeypatch.setattr("serve.service.BEGIN_PAUSE_S", 0.0)


async def test_calls_are_routed_until_the_first_ones_version_takes_them() -> None:
    deployment = Deployment("old", "new", "new", "old", "new", "old")
    handle = handle_of(deployment)
    with pinned() as pins:
        assert [await handle(i) for i in range(3)] == ["old"] * 3
    assert deployment.worked == ["old"] * 3
    assert pins.models == {"solver": ModelInfo("old", "1")}
    with pinned() as pins:
        deployment.route = ["new"]
        assert await handle(1) == "new"
        assert (await handle.info()).name == "new"


async def test_of_calls_that_begin_together_one_is_asked_again() -> None:
    deployment = Deployment("old", "new", "old")
    handle = handle_of(deployment)
    with pinned():
        assert await asyncio.gather(handle(1), handle(2)) == ["old", "old"]


async def test_a_version_that_is_gone_mixes_the_request() -> None:
    deployment = Deployment("old", "new")
    handle = handle_of(deployment)
    with pinned() as pins:
        await handle(1)
        with pytest.raises(RoleUnavailable, match="replaced during the request"):
            await handle(2)
        assert pins.mixed
    assert deployment.worked == ["old"]


async def test_a_replicas_error_is_raised_as_it_left() -> None:
    handle = handle_of(Deployment("old", reply=lambda *_: GenerationError("broken; mend it.")))
    with pinned() as pins, pytest.raises(GenerationError, match="mend"):
        await handle(1)
    assert not pins.mixed


async def test_a_stream_is_of_one_version() -> None:
    handle = handle_of(Deployment("new", "new", "old"))
    with pinned() as pins:
        pins.fits("solver", version("old"))
        assert Piece(0, "old") in [item async for item in handle.stream(ASK)]
    with pinned() as pins:
        pins.fits("solver", version("gone"))
        with pytest.raises(RoleUnavailable):
            _ = [item async for item in handle.stream(ASK)]


def test_a_version_is_weights_and_prompts_and_not_resources() -> None:
    model = ModelInfo("m", "1")
    base = RoleConfig.model_validate({"model": "hf:x", "prompts": "reference-v1"})
    assert Version.of(base, model) == Version.of(base.model_copy(update={"resources": base.resources.model_copy()}), model)
    roomier = RoleConfig.model_validate({"model": "hf:x", "prompts": "reference-v1", "resources": {"num_cpus": 2}})
    other = RoleConfig.model_validate({"model": "hf:x", "prompts": "reference-v2"})
    assert Version.of(base, model) == Version.of(roomier, model)
    assert len({Version.of(base, model), Version.of(other, model), Version.of(base, ModelInfo("m", "2"))}) == 3


# --- a whole request ---


def step_of(name: str, request: Any) -> SolveReply:
    number = len(request.plan.steps)
    step = SolutionStep(number, name, str(number))
    return SolveReply((Solution((step,), step.answer, f"{number}. {name}", -0.1, SOLVE_COST),), SOLVE_COST)


def plan_of(name: str, request: Any) -> DecomposeReply:
    return DecomposeReply((parse_plan(PLAN),), (PLAN,), Usage(calls=1))


def service_of(*route: str) -> tuple[Service, Deployment]:
    solver = Deployment(*route, reply=step_of)
    roles = Roles(handle_of(Deployment("d", reply=plan_of), "decomposer"), handle_of(solver))
    return Service(roles, LimitsConfig()), solver


async def traces_of(service: Service, choices: int = 1, listener: Listener | None = None) -> Any:
    problem, way = Problem("p", "How many?"), ReasoningConfig(strategy="stepwise")
    return await service.reason([problem], way, choices=choices, listener=listener)


@pytest.mark.parametrize("choices", [1, 3])
async def test_a_request_whose_version_goes_begins_again_on_one(choices: int) -> None:
    service, solver = service_of("old", "old", "new")
    events: list[Event] = []
    traces = await traces_of(service, choices, Listener(lambda _, event: events.append(event), lambda *_: None))
    for trace in traces:
        assert {step.text for solution in trace.solutions for step in solution.steps} == {"new"}
        assert trace.models["solver"].name == "new"
        assert trace.error is None
    assert "old" in solver.worked
    assert not [event for event in events if isinstance(event, Failed)]


async def test_a_request_that_never_meets_one_version_gives_up_with_a_retryable_error() -> None:
    solver = Deployment("a", reply=step_of)
    names = iter(range(1000))
    solver._next = lambda: str(next(names))  # type: ignore[method-assign]
    service = Service(Roles(handle_of(Deployment("d", reply=plan_of), "decomposer"), handle_of(solver)), LimitsConfig())
    with pytest.raises(CleaveError) as failed:
        await traces_of(service)
    assert failed.value.http_status == 503


async def test_without_an_upgrade_nothing_is_asked_twice() -> None:
    service, solver = service_of("old")
    (trace,) = await traces_of(service)
    assert solver.worked == ["old", "old"]
    assert trace.models["solver"].name == "old"
