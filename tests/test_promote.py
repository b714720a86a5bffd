"""Promoting and rolling back a role: the args, and on real Ray Serve under load, with its log and its status."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from cleave.comparison import Limits
from cleave.config.serve import ServeArgs, ServeConfig
from cleave.config.workload import TaskShare
from cleave.errors import ConfigError
from serve import status
from serve.promote import demoted, promote, promoted, rollback
from serve.recorded import Replay
from serve.run import main

QUESTIONS = [f"Tom has {i} apples and buys 7. How many are there?" for i in range(1, 7)]
WHO = "Who answers each step of this?"
STEPS = "\n".join(["1. Who?", *(f"{i}. Who after #{i - 1}?" for i in range(2, 7))])
NAME = "upgraded"


# --- args ---


def test_promoting_changes_the_model_and_remembers_the_role() -> None:
    args = ServeArgs.model_validate({"roles": {"solver": {"model": "hf:old", "prompts": "reference-v2", "resources": {"num_cpus": 0.5}}}})
    new = promoted(args, "solver", "hf:new")
    assert new.roles.solver.model.short == "hf:new"
    assert (new.roles.solver.prompts, new.roles.solver.resources.num_cpus) == ("reference-v2", 0.5)
    assert new.previous.solver == args.roles.solver
    assert new.roles.decomposer == args.roles.decomposer
    assert demoted(new, "solver").roles == args.roles
    assert demoted(demoted(new, "solver"), "solver") == new


def test_a_models_options_stay_where_its_kind_does() -> None:
    model = {"backend": "openai", "model_name_or_path": "old", "base_url": "http://a/v1", "price": {"prompt": 1.0}, "max_retries": 2}
    args = ServeArgs.model_validate({"roles": {"solver": {"model": model}}})
    new = promoted(args, "solver", "openai:new@http://b/v1").roles.solver.model
    assert (new.model_name_or_path, new.base_url, new.price.prompt, new.max_retries) == ("new", "http://b/v1", 1.0, 2)
    pinned = ServeArgs.model_validate({"roles": {"solver": {"model": {"backend": "hf", "model_name_or_path": "x", "revision": "abc"}}}})
    assert promoted(pinned, "solver", "hf:y").roles.solver.model.revision is None
    assert promoted(args, "solver", "hf:y").roles.solver.model.base_url is None


def test_a_verifier_may_come_and_go() -> None:
    new = promoted(ServeArgs(), "verifier", "hf:judge")
    assert new.roles.verifier is not None
    with pytest.raises(ConfigError, match="never promoted"):
        demoted(new, "verifier")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="is the solver already"):
        promoted(ServeArgs(), "solver", "reference:solver")
    with pytest.raises(ConfigError, match="never promoted"):
        demoted(ServeArgs(), "solver")
    with pytest.raises(ConfigError):
        promoted(ServeArgs(), "solver", "gpt")


# --- on Ray Serve ---


class Endpoint:
    """Completions of several models: all are right, but `worse` is wrong on every third question, and `broken` fails once told to."""

    def __init__(self) -> None:
        app = FastAPI()
        app.post("/v1/completions")(self.complete)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.broken = False

    def break_once_in_use(self, url: str) -> None:
        wait_until(lambda: solver_of(url) == "broken", within_s=200)
        self.broken = True

    async def complete(self, body: dict[str, Any]) -> Any:
        if WHO in body["prompt"]:
            await asyncio.sleep(0.1)
            choice = {"text": f"by {body['model']} = 10\n", "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5]}}
            return {"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 6}}
        if body["model"] == "broken" and self.broken:
            return {"choices": []}
        first = next(i for i, question in enumerate(QUESTIONS, start=1) if question in body["prompt"])
        total = first + 7 + (body["model"] == "worse" and first % 3 == 0)
        text = "1. How many in all?\n" if body["prompt"].endswith("Plan:\n") else f"1. {first} + 7 = {total}\nThe answer is: {total}\n"
        choice = {"text": text, "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5]}}
        return {"choices": [choice] * body.get("n", 1), "usage": {"prompt_tokens": 11, "completion_tokens": 6}}


class Load:
    """Asks again and again, and remembers every reply."""

    def __init__(self, url: str, **body: Any) -> None:
        self.url, self.ends, self.body = url, threading.Event(), {"question": QUESTIONS[2], **body}
        self.replies: list[tuple[int, str | None, str | None]] = []
        self.steps: list[set[str]] = []
        self.thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self.ends.is_set():
            reply = httpx.post(self.url, json=self.body, timeout=60)
            trace = reply.json()
            self.replies.append((reply.status_code, trace.get("answer"), name_of(trace)))
            self.steps.append({step["text"] for solution in trace["solutions"] for step in solution["steps"]})

    def __enter__(self) -> Load:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends.set()
        self.thread.join()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    endpoint.thread.start()
    yield endpoint
    endpoint.server.should_exit = True
    endpoint.thread.join()


@pytest.fixture(scope="module")
def url(ray_session: None, endpoint: Endpoint) -> Iterator[str]:
    from ray import serve as ray_serve

    model = {"backend": "openai", "model_name_or_path": "old", "base_url": endpoint.url, "max_retries": 0}
    role = {"model": model, "prompts": "reference-v1", "resources": {"num_cpus": 0.25}}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"application": NAME, "port": port, "logs": {"encoding": "JSON"}, "ingress": {"num_cpus": 0.1}, "traces": {"max_traces": 100}}
    assert main(ServeConfig.model_validate({"roles": {"decomposer": role, "solver": role}, **options}), blocking=False) == 0
    yield f"http://127.0.0.1:{port}/v1/solve"
    ray_serve.shutdown()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TaskShare:
    file = tmp_path_factory.mktemp("probe") / "test.jsonl"
    rows = [{"id": str(i), "question": question, "answer": str(i + 7)} for i, question in enumerate(QUESTIONS, start=1)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TaskShare.model_validate({"task": f"jsonl:{file}", "problems": None, "split": "all"})


def to(endpoint: Endpoint, model: str, task: TaskShare, **more: Any) -> int:
    limits = Limits(max_nfr=0.02, min_gain=0.0)
    return promote("solver", f"openai:{model}@{endpoint.url}", [task], limits, application=NAME, address="auto", **more)


def solver_of(url: str) -> str:
    return name_of(httpx.post(url, json={"question": QUESTIONS[0]}, timeout=60).json())


def wait_until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def name_of(trace: dict[str, Any]) -> str:
    """The solver's model, without its address."""
    name: str = trace["models"]["solver"]["name"]
    return name.partition("@")[0].removeprefix("openai:")


@pytest.mark.slow
@pytest.mark.ray
def test_a_worse_version_is_refused_with_the_problems_it_loses(
    url: str, endpoint: Endpoint, task: TaskShare, capsys: pytest.CaptureFixture[str]
) -> None:
    assert to(endpoint, "worse", task, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert [lost["question"] for lost in told["lost"]] == [QUESTIONS[2], QUESTIONS[5]]
    assert "33.3 % of the problems are lost" in told["refused"][0]
    assert solver_of(url) == "old"


@pytest.mark.slow
@pytest.mark.ray
def test_a_promotion_and_the_way_back_lose_no_request(url: str, endpoint: Endpoint, task: TaskShare, root: Path) -> None:
    import ray

    assert to(endpoint, "better", task, dry_run=True) == 0
    assert solver_of(url) == "old"
    with Load(url) as load:
        assert to(endpoint, "better", task) == 0
        command = [sys.executable, "-m", "cleave", "serve", "rollback", "solver", "--application", NAME]
        subprocess.run([*command, "--address", ray.get_runtime_context().gcs_address], cwd=root, check=True, timeout=250)
    assert {(code, answer) for code, answer, _ in load.replies} == {(200, "10")}
    wait_until(lambda: solver_of(url) == "old")  # the ingress asks for names every few seconds
    assert status.describe(NAME)["roles"]["solver"]["before"] == f"openai:better@{endpoint.url}"


@pytest.mark.slow
@pytest.mark.ray
def test_no_answer_is_of_two_versions(url: str, endpoint: Endpoint, task: TaskShare) -> None:
    """Requests of six calls each, at any time during a promotion and the way back."""
    loads = [Load(url, question=WHO, strategy="stepwise", plan=STEPS) for _ in range(3)]
    with ExitStack() as stack:
        for load in loads:
            stack.enter_context(load)
        assert to(endpoint, "better", task) == 0
        assert rollback("solver", application=NAME, address="auto") == 0
    replies = [each for load in loads for each in load.replies]
    assert {(code, answer) for code, answer, _ in replies} == {(200, "10")}
    assert {name for _, _, name in replies} == {"old", "better"}
    for load in loads:
        assert load.steps == [{f"by {name} = 10"} for _, _, name in load.replies]


@pytest.mark.slow
@pytest.mark.ray
def test_a_shadow_and_recorded_requests_decide_too(
    url: str, endpoint: Endpoint, task: TaskShare, capsys: pytest.CaptureFixture[str]
) -> None:
    limits, model = Limits(max_nfr=0.02, max_changed=0.0), f"openai:worse@{endpoint.url}"
    for question in QUESTIONS[:2]:
        httpx.post(url, json={"question": question}, timeout=60)
    options: dict[str, Any] = {"application": NAME, "address": "auto", "dry_run": True, "as_json": True}
    assert promote("solver", model, [], limits, wanted=Replay(recorded=2), **options) == 0
    assert json.loads(capsys.readouterr().out)["requests"]["same"] == 2
    with Load(url):
        assert promote("solver", model, [], limits, wanted=Replay(shadow=1.0, seconds=5), **options) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["requests"]["changed"] == told["requests"]["n"] > 0
    assert {pair["new"] for pair in told["requests"]["differing"]} == {"11"}


@pytest.mark.slow
@pytest.mark.ray
def test_failures_after_a_promotion_take_the_way_back(url: str, endpoint: Endpoint, task: TaskShare) -> None:
    """`broken` is right until it is in use."""
    with Load(url) as load:
        threading.Thread(target=endpoint.break_once_in_use, args=(url,), daemon=True).start()
        assert to(endpoint, "broken", task, watch_s=60.0) == 1
    assert {code for code, _, _ in load.replies} == {200, 502}
    wait_until(lambda: solver_of(url) == "old")
    assert httpx.post(url, json={"question": QUESTIONS[0]}, timeout=60).status_code == 200


@pytest.mark.slow
@pytest.mark.ray
def test_a_version_that_does_not_start_changes_nothing(url: str, task: TaskShare) -> None:
    with pytest.raises(ConfigError, match="Solver cannot start"):
        promote("solver", "hf:/no/such/folder", [task], Limits(), application=NAME, address="auto")
    assert solver_of(url) == "old"


@pytest.mark.slow
@pytest.mark.ray
def test_status_shows_deployments_and_roles(url: str, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(application=None, address="auto", as_json=True) == 0
    found = json.loads(capsys.readouterr().out)[NAME]
    assert found["status"] == "RUNNING"
    page = httpx.get(url.removesuffix("v1/solve"), timeout=60)
    assert (page.status_code, "Content-Security-Policy" in page.headers) == (200, True)
    assert {name: part["replicas"] for name, part in found["deployments"].items()} == {
        name: {"RUNNING": 1} for name in ("Ingress", "Decomposer", "Solver", "Ledger")
    }
    assert found["roles"]["decomposer"] == {"model": f"openai:old@{endpoint.url}", "before": None}
    with pytest.raises(ConfigError, match="no application 'other'"):
        status.main(application="other", address="auto")


@pytest.mark.slow
@pytest.mark.ray
def test_the_log_follows_a_request_through_the_roles(url: str) -> None:
    import ray

    reply = httpx.post(url, json={"question": QUESTIONS[0]}, headers={"X-Request-Id": "follow-me"}, timeout=60)
    assert reply.headers["X-Request-Id"] == "follow-me"
    folder = Path(ray._private.worker.global_worker.node.get_session_dir_path()) / "logs" / "serve"
    end, events = time.monotonic() + 30, set[tuple[str, str]]()
    wanted = {("Ingress", "request"), ("Ingress", "problem"), ("Decomposer", "call"), ("Solver", "call")}
    while not wanted <= events:
        assert time.monotonic() < end, events
        time.sleep(0.2)
        lines = [line for file in folder.glob("replica_*.log") for line in file.read_text().splitlines() if "follow-me" in line]
        found = [json.loads(line) for line in lines]
        events = {(line["deployment"].removeprefix(f"{NAME}_"), line["message"]) for line in found if line["request_id"] == "follow-me"}
    (problem,) = [line for line in found if line["message"] == "problem"]
    assert (problem["answered"], problem["tokens"], problem["strategy"]) == (True, 34, "static")
    assert not any(QUESTIONS[0] in line for line in lines)
