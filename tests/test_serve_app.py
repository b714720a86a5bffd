"""The application on real Ray Serve: real HTTP, real clients, real replicas. The models' endpoint is the one thing that is faked."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
import ray.exceptions
import uvicorn
from fastapi import FastAPI, Request
from ray.serve.exceptions import BackPressureError

from cleave.config.serve import ServeConfig
from cleave.errors import CleaveError, ConfigError, GenerationError, Overloaded, RoleUnavailable
from cleave.types import ModelInfo, Trace, from_json
from serve.handle import ServeHandle
from serve.run import main

QUESTION = "Tom has 12 apples, buys 7 and eats 2. How many are left?"
PLAN = "1. How many in all?\n2. How many is #1 less 2?\n"
SOLUTION = "1. 12 + 7 = 19\n2. 19 - 2 = 17\nThe answer is: 17\n"
SLOWLY = "Slowly, how many?"
FAIL = "Fail, how many?"


class Endpoint:
    """An OpenAI-compatible completions server in a thread. It counts the callers that wait for a slow reply and those that left."""

    def __init__(self) -> None:
        self.waiting = 0
        self.left = 0
        self.asked: list[dict[str, Any]] = []
        app = FastAPI()
        app.post("/v1/completions")(self.complete)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=self.port, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    async def complete(self, request: Request) -> Any:
        body = await request.json()
        self.asked.append(body)
        if SLOWLY in body["prompt"]:
            self.waiting += 1
            while not await request.is_disconnected():
                await asyncio.sleep(0.02)
            self.left += 1
        if FAIL in body["prompt"]:
            return {"choices": []}
        text = PLAN if body["prompt"].endswith("Plan:\n") else SOLUTION
        choice = {"text": text, "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5, -0.5]}}
        return {"choices": [choice] * body.get("n", 1), "usage": {"prompt_tokens": 11, "completion_tokens": 6}}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    endpoint.thread.start()
    wait_until(lambda: endpoint.server.started)
    yield endpoint
    endpoint.server.should_exit = True
    endpoint.thread.join()


def wait_until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def config_of(endpoint: Endpoint, **more: Any) -> ServeConfig:
    role = {
        "model": {
            "backend": "openai",
            "model_name_or_path": "fake",
            "base_url": f"http://127.0.0.1:{endpoint.port}/v1",
            "max_retries": 0,
        },
        "prompts": "reference-v1",
        "resources": {"num_cpus": 0.25},
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return ServeConfig.model_validate({"roles": {"decomposer": role, "solver": role}, "port": port, **more})


@pytest.fixture(scope="module")
def url(ray_session: None, endpoint: Endpoint) -> Iterator[str]:
    """`cleave serve` without waiting for Ctrl-C."""
    from ray import serve as ray_serve

    config = config_of(endpoint, limits={"max_concurrent_requests": 2})
    assert main(config, blocking=False) == 0
    yield f"http://127.0.0.1:{config.port}/v1"
    ray_serve.shutdown()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.ray
def test_solve_over_http(url: str) -> None:
    reply = httpx.post(f"{url}/solve", json={"question": QUESTION}, timeout=60)
    trace = from_json(Trace, reply.text)
    assert (reply.status_code, trace.answer, trace.error) == (200, "17", None)
    assert trace.plans[0].text + "\n" == PLAN
    assert {role: usage.tokens for role, usage in trace.usage.items() if usage.calls} == {"decomposer": 17, "solver": 17}
    assert trace.models["verifier"].name.startswith("likelihood of")
    assert httpx.get(url.removesuffix("/v1") + "/ready", timeout=60).json() == {"status": "ready"}


@pytest.mark.ray
def test_the_openai_client(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="cleave", messages=[{"role": "user", "content": QUESTION}], extra_body={"strategy": "single", "samples": 2}, temperature=1
    )
    assert completion.choices[0].message.content == SOLUTION.strip()
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens) == (11, 6, 17)
    assert completion.model_extra is not None
    assert completion.model_extra["cleave"]["choices"][0]["confidence"] == 1.0
    assert "cleave-stepwise" in [model.id for model in client.models.list()]


@pytest.mark.ray
def test_the_openai_clients_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.models.retrieve("gpt-9")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="not streamed yet") as refused:
        client.chat.completions.create(model="cleave", messages=[{"role": "user", "content": QUESTION}], stream=True)
    assert refused.value.param == "stream"
    with pytest.raises(openai.InternalServerError, match="without any choice") as failed:
        client.chat.completions.create(model="cleave", messages=[{"role": "user", "content": FAIL}])
    assert (failed.value.status_code, failed.value.code) == (502, "generation_failed")


@pytest.mark.ray
def test_a_body_of_a_megabyte(url: str) -> None:
    reply = httpx.post(f"{url}/solve", json={"question": "a" * 1_000_000}, timeout=60)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.ray
def test_a_client_that_leaves_cancels_its_work_and_gives_back_its_place(url: str, endpoint: Endpoint) -> None:
    before = endpoint.left
    threads = [threading.Thread(target=leave, args=(f"{url}/solve", endpoint, before + i + 1)) for i in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: endpoint.waiting == before + 2)
    busy = httpx.post(f"{url}/solve", json={"question": QUESTION}, timeout=60)
    assert (busy.status_code, busy.json()["error"]["code"], busy.headers["Retry-After"]) == (429, "overloaded", "1")
    for thread in threads:
        thread.join()
    wait_until(lambda: endpoint.left == before + 2)
    wait_until(lambda: httpx.post(f"{url}/solve", json={"question": QUESTION}, timeout=60).status_code == 200)


def leave(url: str, endpoint: Endpoint, waiting: int) -> None:
    """Ask, and hang up once the question has come to the model (all callers wait for both to be there)."""
    host, port = url.removeprefix("http://").partition("/")[0].split(":")
    body = f'{{"question": "{SLOWLY} {waiting}"}}'
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/solve HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        wait_until(lambda: endpoint.waiting >= 2)
        time.sleep(1.0)


@pytest.mark.ray
def test_a_second_application_of_the_name_is_refused(url: str, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match="runs on this cluster already"):
        main(config_of(endpoint), blocking=False)
    assert httpx.get(f"{url}/models", timeout=60).status_code == 200


@pytest.mark.ray
def test_a_cluster_too_small_is_refused(url: str, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match=r"ingress need [0-9.]+ CPU, the cluster has 4"):
        main(config_of(endpoint, application="big", ingress={"num_cpus": 100}), blocking=False)


@pytest.mark.ray
def test_two_applications_need_two_prefixes(url: str, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match="Prefix / is being used"):
        main(config_of(endpoint, application="other"), blocking=False)
    assert httpx.get(f"{url}/models", timeout=60).status_code == 200


@pytest.mark.slow
@pytest.mark.ray
def test_a_model_that_cannot_be_loaded_is_told_in_its_own_sentence(url: str, endpoint: Endpoint) -> None:
    bad = config_of(endpoint, application="bad", route_prefix="/bad", ingress={"num_cpus": 0.1})
    roles = bad.roles.model_copy(update={"decomposer": bad.roles.decomposer.model_copy(update={"prompts": "nowhere-v1"})})
    with pytest.raises(ConfigError, match="Decomposer cannot start: no prompt set is named 'nowhere-v1'"):
        main(bad.model_copy(update={"roles": roles}), blocking=False)
    assert httpx.post(f"{url}/solve", json={"question": QUESTION}, timeout=60).status_code == 200


# --- the handle alone ---


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
