"""The Serve adapter of RoleHandle and RoleModel over deployments that are faked: repeats, errors, cancelling, streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import ray.exceptions
from ray.serve.exceptions import BackPressureError

from cleave.errors import CleaveError, GenerationError, Overloaded, RoleUnavailable
from cleave.types import ModelInfo, Sampling, Usage
from serve.handle import ServeHandle
from serve.model_calls import Continue, Continued, Piece
from serve.pins import Version


class Call:
    """What a deployment handle's method returns: awaitable once, cancellable."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Any:
        if isinstance(self.outcome, Exception) and not isinstance(self.outcome, CleaveError):
            raise self.outcome
        if self.outcome is None:
            yield from asyncio.sleep(60).__await__()
        return self.outcome


class Deployment:
    """A deployment handle whose calls end as listed, the last one again and again."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[Call] = []

    def remote(self, *arguments: Any) -> Call:
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        self.calls.append(Call(outcome))
        return self.calls[-1]

    def __getattribute__(self, name: str) -> Any:
        return self if name in ("__call__", "info") else super().__getattribute__(name)


DIED = ray.exceptions.ActorDiedError()


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.handle.PAUSE_S", 0.0)


@pytest.mark.usefixtures("_no_pause")
async def test_a_call_whose_replica_died_is_repeated() -> None:
    deployment = Deployment(DIED, DIED, "reply")
    assert await ServeHandle[Any, Any]("solver", deployment, retries=2)("request") == "reply"  # type: ignore[arg-type]
    assert len(deployment.calls) == 3


@pytest.mark.usefixtures("_no_pause")
async def test_a_replica_that_keeps_dying_is_unavailable() -> None:
    deployment = Deployment(DIED)
    with pytest.raises(RoleUnavailable, match="the solver went away 3 times"):
        await ServeHandle[Any, Any]("solver", deployment, retries=2)("request")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcome", "error"),
    [(BackPressureError(9, 8), Overloaded), (GenerationError("no reply; look."), GenerationError), (KeyError("bug"), KeyError)],
)
async def test_errors_arrive_typed_and_are_not_repeated(outcome: Exception, error: type[Exception]) -> None:
    deployment = Deployment(outcome)
    with pytest.raises(error):
        await ServeHandle[Any, Any]("solver", deployment)("request")  # type: ignore[arg-type]
    assert len(deployment.calls) == 1


async def test_a_cancelled_caller_cancels_the_call() -> None:
    deployment = Deployment(None)
    task = asyncio.create_task(ServeHandle[Any, Any]("solver", deployment)("request"))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [call.cancelled for call in deployment.calls] == [True]


async def test_info_is_asked_again_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = ModelInfo("old"), ModelInfo("new")
    handle = ServeHandle[Any, Any]("solver", Deployment(old, new))  # type: ignore[arg-type]
    assert [await handle.info(), await handle.info()] == [old, old]
    monkeypatch.setattr("serve.handle.INFO_AGE_S", -1.0)
    assert await handle.info() == new


# --- streams ---

ASK = Continue(("2 + 2",), Sampling())
WHOLE = Continued((), Usage(), ModelInfo("m"))


class Streaming:
    """A deployment handle whose streams end as listed."""

    def __init__(self, *streams: list[Any]) -> None:
        self.streams = list(streams)
        self.cancelled = 0
        self.stream_model = self

    def options(self, *, stream: bool) -> Streaming:
        assert stream
        return self

    def remote(self, call: Continue, wanted: Version | None) -> Streaming:
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self.streams.pop(0):
            await asyncio.sleep(60 if item is None else 0)
            if isinstance(item, Exception) and not isinstance(item, CleaveError):
                raise item
            yield item


def handle_of(*streams: list[Any]) -> tuple[ServeHandle[Any, Any], Streaming]:
    deployment = Streaming(*streams)
    return ServeHandle("solver", deployment, retries=1), deployment  # type: ignore[arg-type]


@pytest.mark.usefixtures("_no_pause")
async def test_a_stream_whose_replica_died_goes_on_where_it_was() -> None:
    handle, _ = handle_of([Piece(0, "1. 12"), Piece(1, "x"), DIED], [Piece(0, "1"), Piece(0, ". 12 + 7"), Piece(1, "xy"), WHOLE])
    items = [item async for item in handle.stream(ASK)]
    assert items == [Piece(0, "1. 12"), Piece(1, "x"), Piece(0, " + 7"), Piece(1, "y"), WHOLE]


@pytest.mark.usefixtures("_no_pause")
async def test_a_stream_is_not_begun_for_ever() -> None:
    handle, _ = handle_of([DIED], [DIED])
    with pytest.raises(RoleUnavailable, match="the solver went away 2 times"):
        _ = [item async for item in handle.stream(ASK)]


@pytest.mark.parametrize(("item", "error"), [(GenerationError("no reply; look."), GenerationError), (BackPressureError(9, 8), Overloaded)])
async def test_a_stream_ends_with_a_typed_error(item: Exception, error: type[Exception]) -> None:
    handle, deployment = handle_of([Piece(0, "1"), item])
    with pytest.raises(error):
        _ = [each async for each in handle.stream(ASK)]
    assert deployment.cancelled == 1


async def test_a_reader_that_leaves_cancels_the_stream() -> None:
    handle, deployment = handle_of([Piece(0, "1"), None])

    async def read() -> None:
        async for _ in handle.stream(ASK):
            pass

    task = asyncio.create_task(read())
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert deployment.cancelled == 1
