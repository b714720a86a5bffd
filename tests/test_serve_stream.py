"""Streams: chunks as the openai client reads them, events for those who ask, heartbeats, late errors, clients that leave."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from cleave.errors import GenerationError
from cleave.types import Trace, from_dict
from serve.event_stream import DONE, HEARTBEAT, event_stream
from serve.failures import ApiError
from serve.shown import Shown
from tests.serving import PLAN_COST, QUESTION, SOLVE_COST, TEXT, Script, application, chat, check_error, client_of, openai_of

USAGE = {"include_usage": True}
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def http(script: Script) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(script) as client:
        yield client


def events_of(text: str) -> list[Any]:
    """What the data lines hold, without the last one, which must be [DONE]."""
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    assert data[-1] == DONE
    return [json.loads(line) for line in data[:-1]]


# --- chunks ---


async def test_the_openai_client_reads_the_answer_as_it_is_written(script: Script) -> None:
    async with openai_of(script) as client:
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(model="cleave", messages=MESSAGES, stream=True, stream_options=USAGE)
        ]
    *texts, last = chunks
    deltas = [chunk.choices[0].delta for chunk in texts]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == TEXT
    assert len([delta for delta in deltas if delta.content]) > 5
    assert [chunk.choices[0].finish_reason for chunk in texts] == [None] * (len(texts) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in texts)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == (PLAN_COST + SOLVE_COST).tokens
    assert len({chunk.id for chunk in chunks}) == 1
    assert texts[-1].model_extra is not None
    assert texts[-1].model_extra["cleave"]["choices"][0]["answer"] == "17"


async def test_a_stream_says_what_the_reply_says(http: httpx.AsyncClient) -> None:
    for fields in (
        {"model": "cleave-stepwise"},
        {"samples": 2, "temperature": 1, "seed": 3},
        {"n": 2, "stop": "\nThe"},
        {"model": "solver"},
    ):
        whole = (await http.post("/chat/completions", json=chat(**fields))).json()
        streamed = await http.post("/chat/completions", json=chat(stream=True, **fields))
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert (streamed.headers["cache-control"], streamed.headers["x-accel-buffering"]) == ("no-cache", "no")
        chunks = events_of(streamed.text)
        for choice in whole["choices"]:
            own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
            assert "".join(each["delta"].get("content", "") for each in own) == choice["message"]["content"]
            assert own[-1]["finish_reason"] == choice["finish_reason"]
        assert chunks[-1]["system_fingerprint"] == whole["system_fingerprint"]
        assert chunks[-1]["cleave"]["usage"].keys() == whole["cleave"]["usage"].keys()


async def test_an_answer_that_may_be_withheld_is_not_shown_before(http: httpx.AsyncClient) -> None:
    reply = await http.post("/chat/completions", json=chat(stream=True, abstain_below=1.0))
    deltas = [chunk["choices"][0]["delta"] for chunk in events_of(reply.text)]
    assert "".join(delta.get("content", "") for delta in deltas) == ""
    assert "abstain_below" in next(delta["refusal"] for delta in deltas if "refusal" in delta)


async def test_events_are_for_those_who_ask(http: httpx.AsyncClient) -> None:
    reply = await http.post("/chat/completions", json=chat(model="cleave-stepwise", stream=True, events=True))
    events = [chunk["cleave"] for chunk in events_of(reply.text) if not chunk["choices"]]
    kinds = [event["event"] for event in events]
    assert kinds == ["plan", "step_asked", "step_answered", "step_asked", "step_answered", "solution", "selected"]
    assert events[3]["question"] == "How many is 10 less 2?"
    assert all(event["choice"] == 0 for event in events)


async def test_plain_text_streams_too(script: Script) -> None:
    async with openai_of(script) as client:
        stream = await client.completions.create(model="cleave", prompt=[QUESTION, QUESTION], stream=True, stream_options=USAGE)
        chunks = [chunk async for chunk in stream]
        assert [sum(1 for c in chunks if c.choices and c.choices[0].index == i) > 5 for i in (0, 1)] == [True, True]
        assert "".join(c.choices[0].text for c in chunks if c.choices and c.choices[0].index == 1) == TEXT
        assert chunks[-1].usage is not None
        role = await client.completions.create(model="solver", prompt="2 + 2 =", n=2, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in role]) == " after 2 + 2 =" * 2


async def test_solve_streams_named_events_and_the_trace(http: httpx.AsyncClient) -> None:
    reply = await http.post("/solve", json={"question": QUESTION, "stream": True})
    blocks = [block.split("\n") for block in reply.text.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in blocks]
    assert [name for name in names if name != "text"] == ["plan", "solution", "selected", "trace"]
    written = [json.loads(data.removeprefix("data: "))["text"] for name, data in blocks if name == "event: text"]
    assert "".join(written) == TEXT
    trace = from_dict(Trace, json.loads(blocks[-1][1].removeprefix("data: ")))
    assert (trace.answer, trace.strategy) == ("17", "static")


@pytest.mark.parametrize("fields", [{"stream_options": USAGE}, {"events": True}])
async def test_options_of_streams_need_one(http: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    check_error(await http.post("/chat/completions", json=chat(**fields)), 400, "invalid_request", next(iter(fields)))


# --- failures ---


async def test_what_fails_before_the_first_chunk_has_its_status(script: Script) -> None:
    script.fails = GenerationError("the model said nothing; look at its log.")
    async with openai_of(script) as client:
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(model="cleave", messages=MESSAGES, stream=True)
    assert (failed.value.status_code, failed.value.code) == (502, "generation_failed")


async def test_what_fails_later_is_an_event(script: Script) -> None:
    script.text = lambda request, sample: "I do not know"
    async with openai_of(script) as client:
        stream = await client.chat.completions.create(model="cleave", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="final answer") as failed:
            _ = [chunk async for chunk in stream]
    assert failed.value.code == "unparsable_reply"


# --- the mechanism ---


async def test_heartbeats_until_there_is_something_to_say() -> None:
    go = asyncio.Event()

    async def work(put: Any) -> None:
        await go.wait()
        put({"a": 1})
        put(("named", {"b": 2}))

    response = await event_stream(work, heartbeat_s=0.01)
    lines = response.body_iterator.__aiter__()
    assert [await anext(lines), await anext(lines)] == [HEARTBEAT, HEARTBEAT]
    go.set()
    rest = [line async for line in lines if line != HEARTBEAT]
    assert rest == ['data: {"a": 1}\n\n', 'event: named\ndata: {"b": 2}\n\n']


async def test_an_error_at_once_is_raised_and_a_late_bug_tells_nothing() -> None:
    async def refuse(put: Any) -> None:
        raise ApiError(400, "no.", "invalid_request")

    async def break_down(put: Any) -> None:
        put({})
        raise ZeroDivisionError("secret")

    with pytest.raises(ApiError):
        await event_stream(refuse, 1)
    lines = (await event_stream(break_down, 1)).body_iterator.__aiter__()
    assert await anext(lines) == "data: {}\n\n"
    last = str(await anext(lines))
    assert "internal_error" in last
    assert "secret" not in last
    with pytest.raises(ZeroDivisionError):
        await anext(lines)


async def test_who_leaves_while_nothing_was_sent_ends_the_work() -> None:
    ended = asyncio.Event()

    async def work(put: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    task = asyncio.create_task(event_stream(work, heartbeat_s=60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


@pytest.mark.parametrize(
    ("pieces", "stop", "sent"),
    [
        (["\n a", "b \n", "c\n"], [], ["a", "b", " \nc", ""]),
        (["x #", "# y", "z"], ["##"], ["x", "", ""]),
        (["x #", "y"], ["##"], ["x", " #y"]),
    ],
)
def test_nothing_is_shown_that_would_have_to_be_taken_back(pieces: list[str], stop: list[str], sent: list[str]) -> None:
    shown = Shown(stop)
    parts = [shown.push(piece) for piece in pieces]
    whole = "".join(pieces).strip()
    parts.append(shown.finish(whole[: whole.find(stop[0])].strip() if stop and stop[0] in whole else whole))
    assert parts[: len(sent)] == sent
    assert "".join(parts) == "".join(sent)


# --- a real server, a client that leaves ---


@contextmanager
def running(script: Script, **args: Any) -> Iterator[str]:
    """The application under uvicorn in a thread; its address."""
    app, stage = application(json.dumps(args))
    stage.script = script
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.should_exit = True
            thread.join()


def wait_until(condition: Any, within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_a_client_that_leaves_a_stream_ends_its_work(script: Script) -> None:
    script.pauses_s = 0.05
    with running(script) as url, openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        with client.chat.completions.create(model="cleave", messages=MESSAGES, stream=True) as stream:
            assert next(iter(stream)).choices[0].delta.role == "assistant"
            assert script.cancelled == 0
        wait_until(lambda: script.cancelled == 1)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_it_waits_ends_its_work(script: Script, stream: bool) -> None:
    script.waits_s = 60
    with running(script, limits={"max_concurrent_requests": 1}) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/chat/completions", json=chat(stream=stream), timeout=0.3)
        wait_until(lambda: script.cancelled == 1)
        script.waits_s = 0.0
        wait_until(lambda: httpx.post(f"{url}/solve", json={"question": QUESTION}).status_code == 200)
