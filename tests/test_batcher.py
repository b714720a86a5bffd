"""The invariants that actors/batcher.py states, one test each, on a model whose batches are let through by hand."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.batcher import MicroBatcher
from cleave.errors import GenerationError, ParseError


@dataclass(frozen=True)
class Ask:
    name: str
    key: str = "greedy"
    size: int = 1


@dataclass
class GatedModel:
    """Records each batch and holds it until `gate` is set."""

    batches: list[list[str]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    bad: dict[str, Exception] = field(default_factory=dict)

    async def __call__(self, requests: Sequence[Ask]) -> list[str]:
        self.batches.append([request.name for request in requests])
        await self.gate.wait()
        for request in requests:
            if request.name in self.bad:
                raise self.bad[request.name]
        return [request.name.upper() for request in requests]


def make(model: GatedModel, **options: object) -> MicroBatcher[Ask, str]:
    settings: dict[str, object] = {"max_batch_size": 4, "batch_wait_timeout_s": 0.01} | options
    return MicroBatcher(model, key=lambda ask: ask.key, size=lambda ask: ask.size, **settings)  # type: ignore[arg-type]


async def submit(batcher: MicroBatcher[Ask, str], *asks: Ask) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(batcher.submit(ask)) for ask in asks]
    await asyncio.sleep(0)
    return tasks


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


async def test_batch_holds_one_key_in_order_of_arrival() -> None:
    model = GatedModel()
    batcher = make(model, max_batch_size=8)
    tasks = await submit(batcher, Ask("a"), Ask("x", "warm"), Ask("b"), Ask("y", "warm"), Ask("c"))
    model.gate.set()
    assert await asyncio.gather(*tasks) == ["A", "X", "B", "Y", "C"]
    assert model.batches == [["a", "b", "c"], ["x", "y"]]


async def test_size_counts_sequences_and_a_large_request_runs_alone() -> None:
    model = GatedModel()
    model.gate.set()
    batcher = make(model)
    tasks = await submit(batcher, Ask("a", size=2), Ask("b", size=2), Ask("c", size=2), Ask("huge", size=99), Ask("d"))
    await asyncio.gather(*tasks)
    assert model.batches == [["a", "b"], ["c"], ["huge"], ["d"]]


async def test_each_request_is_told_of_its_own_batch_and_of_its_repetition() -> None:
    model = GatedModel(bad={"c": GenerationError("no reply; look.")})
    model.gate.set()
    batcher = make(model, max_batch_size=8)
    told: list[tuple[str, int, int]] = []

    async def one(ask: Ask) -> str:
        return await batcher.submit(ask, lambda requests, sequences: told.append((ask.name, requests, sequences)))

    asks = (Ask("a", size=2), Ask("x", "warm"), Ask("b"), Ask("y", "warm"), Ask("c", "warm"))
    await asyncio.gather(*map(one, asks), return_exceptions=True)
    assert told[:5] == [("a", 2, 3), ("b", 2, 3), ("x", 3, 3), ("y", 3, 3), ("c", 3, 3)]
    assert told[5:] == [("x", 1, 1), ("y", 1, 1), ("c", 1, 1)]


async def test_full_batch_does_not_wait() -> None:
    model = GatedModel()
    batcher = make(model, batch_wait_timeout_s=1000)
    await submit(batcher, *(Ask(name) for name in "abcd"))
    assert model.batches == [] or model.batches == [["a", "b", "c", "d"]]
    await until(lambda: model.batches == [["a", "b", "c", "d"]])
    await batcher.aclose()


async def test_idle_model_gets_a_lone_request_after_the_timeout() -> None:
    model = GatedModel()
    model.gate.set()
    batcher = make(model, batch_wait_timeout_s=0.03)
    start = time.monotonic()
    (task,) = await submit(batcher, Ask("a"))
    assert model.batches == []
    assert await task == "A"
    assert time.monotonic() - start >= 0.029


async def test_requests_accumulate_while_the_model_is_busy() -> None:
    model = GatedModel()
    batcher = make(model, batch_wait_timeout_s=0)
    tasks = await submit(batcher, Ask("a"))
    await until(lambda: model.batches == [["a"]])
    for name in "bcde":
        tasks += await submit(batcher, Ask(name))
    await asyncio.sleep(0.02)
    assert model.batches == [["a"]]
    assert batcher.stats.waiting == 4
    model.gate.set()
    await asyncio.gather(*tasks)
    assert model.batches == [["a"], ["b", "c", "d", "e"]]


async def test_longest_waiting_request_is_served_next_whatever_its_key() -> None:
    model = GatedModel()
    batcher = make(model, batch_wait_timeout_s=0)
    tasks = await submit(batcher, Ask("a"))
    await until(lambda: len(model.batches) == 1)
    tasks += await submit(batcher, Ask("rare", "warm"), *(Ask(name) for name in "bcdefgh"))
    model.gate.set()
    await asyncio.gather(*tasks)
    assert model.batches[1] == ["rare"]


async def test_one_bad_request_does_not_take_its_siblings() -> None:
    model = GatedModel(bad={"b": ParseError("cannot read it", text="??")})
    model.gate.set()
    batcher = make(model)
    tasks = await submit(batcher, Ask("a"), Ask("b"), Ask("c"))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == "A"
    assert isinstance(results[1], ParseError)
    assert results[1].text == "??"
    assert results[2] == "C"
    assert model.batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]


async def test_failing_batch_leaves_other_batches_alone() -> None:
    model = GatedModel(bad={"a": ValueError("a bug"), "x": GenerationError("out of memory; lower max_batch_size.")})
    model.gate.set()
    batcher = make(model)
    tasks = await submit(batcher, Ask("a"), Ask("b"), Ask("x", "warm"), Ask("y", "hot"))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError, GenerationError, str]
    assert await batcher.submit(Ask("z")) == "Z"


async def test_wrong_number_of_replies_is_an_error_not_a_shift() -> None:
    async def short(requests: Sequence[Ask]) -> list[str]:
        return ["only one"]

    batcher: MicroBatcher[Ask, str] = MicroBatcher(short, key=lambda ask: ask.key, size=lambda ask: ask.size)
    results = await asyncio.gather(*await submit(batcher, Ask("a"), Ask("b")), return_exceptions=True)
    assert all(isinstance(result, RuntimeError) for result in results)


async def test_cancelled_request_never_reaches_the_model() -> None:
    model = GatedModel()
    batcher = make(model, batch_wait_timeout_s=0)
    first = await submit(batcher, Ask("a"))
    await until(lambda: len(model.batches) == 1)
    dropped, kept = await submit(batcher, Ask("dropped"), Ask("kept"))
    dropped.cancel()
    model.gate.set()
    assert await asyncio.gather(*first, kept) == ["A", "KEPT"]
    assert model.batches == [["a"], ["kept"]]
    assert dropped.cancelled()


async def test_running_batch_is_cancelled_when_nobody_waits_for_it() -> None:
    model = GatedModel()
    batcher = make(model)
    tasks = await submit(batcher, Ask("a"), Ask("b"))
    await until(lambda: len(model.batches) == 1)
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert batcher.stats.running == 1
    tasks[1].cancel()
    await until(lambda: batcher.stats.running == 0)
    model.gate.set()
    assert await batcher.submit(Ask("c")) == "C"


async def test_several_batches_at_once_for_a_remote_endpoint() -> None:
    model = GatedModel()
    batcher = make(model, max_batch_size=1, concurrency=3)
    tasks = await submit(batcher, *(Ask(name) for name in "abcde"))
    await until(lambda: len(model.batches) == 3)
    await asyncio.sleep(0.02)
    assert len(model.batches) == 3
    model.gate.set()
    assert await asyncio.gather(*tasks) == list("ABCDE")


async def test_every_request_ends_exactly_once_under_random_load() -> None:
    import random

    rng = random.Random(3)
    model = GatedModel(bad={f"r{i}": GenerationError("no reply; retry.") for i in range(0, 300, 17)})
    model.gate.set()
    batcher = make(model, max_batch_size=7, batch_wait_timeout_s=0.001)

    async def one(i: int) -> str:
        await asyncio.sleep(rng.random() * 0.05)
        task = asyncio.create_task(batcher.submit(Ask(f"r{i}", key=f"k{i % 3}", size=1 + i % 4)))
        if i % 11 == 0:
            await asyncio.sleep(rng.random() * 0.003)
            task.cancel()
        return await task

    results = await asyncio.gather(*(one(i) for i in range(300)), return_exceptions=True)
    for i, result in enumerate(results):
        if isinstance(result, asyncio.CancelledError):
            assert i % 11 == 0
        elif isinstance(result, GenerationError):
            assert i % 17 == 0
        else:
            assert result == f"R{i}"
    assert batcher.stats.waiting == 0
    await until(lambda: batcher.stats.running == 0)
