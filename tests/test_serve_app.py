"""The application on real Ray Serve: real HTTP, real clients, real replicas. The models' endpoint is the one thing that is faked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI, Request

from cleave.config.serve import ServeConfig
from cleave.errors import ConfigError
from cleave.types import Trace, from_json
from serve.keys import entry
from serve.run import main

QUESTION = "Tom has 12 apples, buys 7 and eats 2. How many are left?"
PLAN = "1. How many in all?\n2. How many is #1 less 2?\n"
SOLUTION = "1. 12 + 7 = 19\n2. 19 - 2 = 17\nThe answer is: 17\n"
SLOWLY = "Slowly, how many?"
FAIL = "Fail, how many?"
BATCHED = "asked for a batch"
KEY, SLOW_KEY = "sk-test-all", "sk-test-slow"
HEADERS = {"Authorization": f"Bearer {KEY}"}


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
        if BATCHED in body["prompt"]:
            await asyncio.sleep(0.2)
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
def url(ray_session: None, endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`cleave serve` without waiting for Ctrl-C, with one key that may do everything and one that may ask once a minute."""
    from ray import serve as ray_serve

    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{entry('all', KEY)}\n{entry('slow', SLOW_KEY)}\n")
    limits = {"slow": {"requests_per_minute": 1}}
    config = config_of(
        endpoint,
        limits={"max_concurrent_requests": 2, "request_timeout_s": 60},
        keys={"file": str(keys), "limits": limits},
        traces={"max_traces": 10},
        batches={"folder": str(tmp_path_factory.mktemp("batches"))},
        ingress={"num_cpus": 0.2},
    )
    assert main(config, blocking=False) == 0
    yield f"http://127.0.0.1:{config.port}/v1"
    ray_serve.shutdown()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.mark.ray
def test_solve_over_http(url: str) -> None:
    reply = httpx.post(f"{url}/solve", json={"question": QUESTION}, timeout=60, headers=HEADERS)
    trace = from_json(Trace, reply.text)
    assert (reply.status_code, trace.answer, trace.error) == (200, "17", None)
    assert trace.plans[0].text + "\n" == PLAN
    assert {role: usage.tokens for role, usage in trace.usage.items() if usage.calls} == {"decomposer": 17, "solver": 17}
    assert trace.models["verifier"].name.startswith("likelihood of")
    assert httpx.get(url.removesuffix("/v1") + "/ready", timeout=60, headers=HEADERS).json() == {"status": "ready"}


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
    with pytest.raises(openai.BadRequestError, match="no token log-probabilities") as refused:
        client.chat.completions.create(model="cleave", messages=[{"role": "user", "content": QUESTION}], logprobs=True)
    assert refused.value.param == "logprobs"
    with pytest.raises(openai.InternalServerError, match="without any choice") as failed:
        client.chat.completions.create(model="cleave", messages=[{"role": "user", "content": FAIL}])
    assert (failed.value.status_code, failed.value.code) == (502, "generation_failed")


@pytest.mark.ray
def test_streams_over_serve(client: openai.OpenAI) -> None:
    """An endpoint's reply comes in one piece, whoever speaks."""
    for model, text in (("cleave", SOLUTION.strip()), ("solver", SOLUTION), ("decomposer", PLAN)):
        stream = client.chat.completions.create(model=model, messages=[{"role": "user", "content": QUESTION}], stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
    with pytest.raises(openai.InternalServerError, match="without any choice"):
        client.chat.completions.create(model="solver", messages=[{"role": "user", "content": FAIL}], stream=True)
    with pytest.raises(openai.BadRequestError, match="needs a model of transformers"):
        client.completions.create(model="solver", prompt="2 + 2 =", echo=True, logprobs=1)


@pytest.mark.ray
@pytest.mark.parametrize("model", ["cleave", "solver"])
def test_a_client_that_leaves_a_stream_cancels_its_work(url: str, endpoint: Endpoint, model: str) -> None:
    before = endpoint.left
    body = {"model": model, "messages": [{"role": "user", "content": f"{SLOWLY} {model}"}], "stream": True, "events": model == "cleave"}
    with asking(url, "/chat/completions", body):
        wait_until(lambda: endpoint.waiting == before + 1)
    wait_until(lambda: endpoint.left == before + 1)


@pytest.mark.ray
def test_keys_and_traces_are_shared_by_all_replicas(url: str) -> None:
    assert httpx.post(f"{url}/solve", json={"question": QUESTION}).status_code == 401
    name = httpx.post(f"{url}/solve", json={"question": QUESTION}, timeout=60, headers=HEADERS).headers["X-Trace-Id"]
    assert httpx.get(f"{url}/traces/{name}", timeout=60, headers=HEADERS).json()["traces"][0]["answer"] == "17"
    slow = {"Authorization": f"Bearer {SLOW_KEY}"}
    first, second = [httpx.post(f"{url}/solve", json={"question": QUESTION}, timeout=60, headers=slow) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 429)
    assert 1 < int(second.headers["Retry-After"]) <= 60
    assert httpx.get(f"{url}/traces/{name}", timeout=60, headers=slow).status_code == 404


@pytest.mark.ray
def test_a_body_of_a_megabyte(url: str) -> None:
    reply = httpx.post(f"{url}/solve", json={"question": "a" * 1_000_000}, timeout=60, headers=HEADERS)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.ray
def test_a_client_that_leaves_cancels_its_work_and_gives_back_its_place(url: str, endpoint: Endpoint) -> None:
    before = endpoint.left
    threads = [threading.Thread(target=leave, args=(url, endpoint, before + i + 1)) for i in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: endpoint.waiting == before + 2)
    busy = httpx.post(f"{url}/solve", json={"question": QUESTION}, timeout=60, headers=HEADERS)
    assert (busy.status_code, busy.json()["error"]["code"], busy.headers["Retry-After"]) == (429, "overloaded", "1")
    for thread in threads:
        thread.join()
    wait_until(lambda: endpoint.left == before + 2)
    wait_until(lambda: httpx.post(f"{url}/solve", json={"question": QUESTION}, timeout=60, headers=HEADERS).status_code == 200)


def leave(url: str, endpoint: Endpoint, waiting: int) -> None:
    """Ask, and hang up once the question has come to the model (all callers wait for both to be there)."""
    with asking(url, "/solve", {"question": f"{SLOWLY} {waiting}"}):
        wait_until(lambda: endpoint.waiting >= 2)
        time.sleep(1.0)


@contextmanager
def asking(url: str, path: str, body: dict[str, Any]) -> Iterator[None]:
    """A request that is sent and hung up on at the end of the `with`."""
    host, port = url.removeprefix("http://").partition("/")[0].split(":")
    content = json.dumps(body)
    with socket.create_connection((host, int(port))) as connection:
        lines = [f"POST /v1{path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {KEY}"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}", "", ""]
        connection.sendall(("\r\n".join(lines) + content).encode())
        yield


@pytest.mark.ray
def test_a_batch_over_serve(client: openai.OpenAI) -> None:
    body = {"model": "cleave", "messages": [{"role": "user", "content": QUESTION}]}
    row = {"custom_id": "mine", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = client.files.create(file=("in.jsonl", json.dumps(row).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    wait_until(lambda: client.batches.retrieve(batch.id).status == "completed")
    output = client.batches.retrieve(batch.id).output_file_id
    assert output is not None
    reply = json.loads(client.files.content(output).text)
    assert (reply["custom_id"], reply["response"]["body"]["choices"][0]["message"]["content"]) == ("mine", SOLUTION.strip())
    with pytest.raises(openai.NotFoundError):
        client.with_options(api_key=SLOW_KEY).batches.retrieve(batch.id)


@pytest.mark.slow
@pytest.mark.ray
def test_a_batch_survives_the_replicas(url: str, client: openai.OpenAI, endpoint: Endpoint) -> None:
    """The ingress replica and the store's are killed while it is worked on."""
    questions = [f"What is {i} + 1, {BATCHED}?" for i in range(40)]
    rows = [
        {"custom_id": q, "method": "POST", "url": "/v1/chat/completions", "body": {"model": "cleave-direct", "messages": [user(q)]}}
        for q in questions
    ]
    file = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, rows)).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")

    def asked() -> list[str]:
        return [q for body in endpoint.asked for q in questions if q in body["prompt"]]

    wait_until(lambda: len(asked()) > 5)
    for name in ("Ingress", "Batches"):
        os.kill(pid_of(name), signal.SIGKILL)
    wait_until(lambda: finished(url, batch.id), within_s=200)
    done = client.batches.retrieve(batch.id)
    assert done.request_counts is not None
    assert (done.status, done.request_counts.completed) == ("completed", len(questions))
    assert sorted(set(asked())) == sorted(questions)
    assert len(asked()) <= len(questions) + 2 * 4  # at most what was in flight


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def finished(url: str, batch: str) -> bool:
    """Whether a batch is done; False also while nothing answers."""
    try:
        reply = httpx.get(f"{url}/batches/{batch}", timeout=10, headers=HEADERS)
    except httpx.HTTPError:
        return False
    return reply.status_code == 200 and reply.json()["status"] == "completed"


def pid_of(deployment: str) -> int:
    from ray.serve.context import _get_global_client

    (replica,) = _get_global_client().get_serve_details()["applications"]["cleave"]["deployments"][deployment]["replicas"]
    pid: int = replica["pid"]
    return pid


@pytest.mark.ray
def test_a_second_application_of_the_name_is_refused(url: str, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match="runs on this cluster already"):
        main(config_of(endpoint), blocking=False)
    assert httpx.get(f"{url}/models", timeout=60, headers=HEADERS).status_code == 200


@pytest.mark.ray
def test_a_cluster_too_small_is_refused(url: str, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match=r"ingress need [0-9.]+ CPU, the cluster has 4"):
        main(config_of(endpoint, application="big", ingress={"num_cpus": 100}), blocking=False)


@pytest.mark.ray
def test_two_applications_need_two_prefixes(url: str, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match="Prefix / is being used"):
        main(config_of(endpoint, application="other"), blocking=False)
    assert httpx.get(f"{url}/models", timeout=60, headers=HEADERS).status_code == 200


@pytest.mark.slow
@pytest.mark.ray
def test_a_model_that_cannot_be_loaded_is_told_in_its_own_sentence(url: str, endpoint: Endpoint) -> None:
    bad = config_of(endpoint, application="bad", route_prefix="/bad", ingress={"num_cpus": 0.1})
    roles = bad.roles.model_copy(update={"decomposer": bad.roles.decomposer.model_copy(update={"prompts": "nowhere-v1"})})
    with pytest.raises(ConfigError, match="Decomposer cannot start: no prompt set is named 'nowhere-v1'"):
        main(bad.model_copy(update={"roles": roles}), blocking=False)
    assert httpx.post(f"{url}/solve", json={"question": QUESTION}, timeout=60, headers=HEADERS).status_code == 200
