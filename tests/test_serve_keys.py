"""Keys and what they may ask for: reading them, the limiter's arithmetic, and the gate in front of every route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cleave.config.base import validate
from cleave.config.serve import ServeArgs, ServeConfig
from cleave.config.serve_keys import KeysConfig
from cleave.errors import ConfigError, RoleUnavailable
from cleave.roles import Roles
from serve.admission import Admission
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.failures import ApiError
from serve.keys import KeyRing, entry, main, new_key
from serve.ledger import LocalLedger
from serve.limiter import DAY_S, Limiter
from serve.service import Service
from tests.serving import PLAN_COST, QUESTION, SOLVE_COST, Decomposes, Script, Solves, Speaks, Stage, chat, check_error

KEYS = {name: new_key() for name in ("alice", "bob")}
SECRET = "\n".join(entry(name, key) for name, key in KEYS.items())
TOKENS = (PLAN_COST + SOLVE_COST).tokens


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Away(LocalLedger):
    async def acquire(self, key: str, lease: str) -> Any:
        raise RoleUnavailable("the ledger cannot be reached; try again later.")


@contextmanager
def guarded(monkeypatch: pytest.MonkeyPatch, script: Script, ledger: type[LocalLedger] = LocalLedger, **args: Any) -> Iterator[Any]:
    """A function that makes a client for a key (None: without one) of an application that needs keys."""
    monkeypatch.setenv("TEST_KEYS", SECRET)
    config = ServeArgs.model_validate({**args, "keys": {"env": "TEST_KEYS", **args.get("keys", {})}})
    stage = Stage()
    stage.script = script
    shared, solver = ledger(config), Solves(stage)
    service = Service(
        Roles(Decomposes(stage), solver), config.limits, {"solver": Speaks(solver)}, shared if config.traces.max_traces else None
    )
    app = create_app(service, Catalogue.of(config), KeyRing.read(config.keys), shared)

    def client(name: str | None = "alice") -> httpx.AsyncClient:
        headers = {} if name is None else {"Authorization": f"Bearer {KEYS.get(name, name)}"}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://cleave/v1", headers=headers
        )

    yield client


# --- reading keys ---


def test_keys_come_from_the_environment_and_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{entry('alice', KEYS['alice'])}\n\n")
    monkeypatch.setenv("TEST_KEYS", f"{entry('bob', KEYS['bob'])},{entry('carol', 'sk-3')}")
    ring = KeyRing.read(KeysConfig(env="TEST_KEYS", file=str(file)))
    assert [ring.name_of(f"Bearer {key}") for key in (KEYS["alice"], KEYS["bob"], "sk-3")] == ["alice", "bob", "carol"]
    assert ring.name_of(f"bearer  {KEYS['bob']} ") == "bob"
    assert KEYS["alice"] not in file.read_text()


HEADERS = {
    "none": None,
    "empty": "",
    "no key": "Bearer ",
    "another scheme": "Basic abc",
    "unknown": "Bearer x",
    "a hash": f"Bearer {SECRET.split()[1]}",
    "long": "Bearer " + "x" * 10_000,
    "a key and more": f"Bearer {KEYS['alice']} x",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_other_headers_are_refused(header: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEYS", SECRET)
    with pytest.raises(ApiError) as refused:
        KeyRing.read(KeysConfig(env="TEST_KEYS")).name_of(header)
    assert (refused.value.status, refused.value.code) in ((401, "missing_api_key"), (401, "invalid_api_key"))


@pytest.mark.parametrize(
    ("lines", "config", "sentence"),
    [
        ("", {}, "holds no keys"),
        ("# nothing", {}, "holds no keys"),
        ("alice sk-plain-key", {}, "entry 1 .* is not `NAME SHA256`"),
        (f"{SECRET}\n{SECRET}", {}, "two keys named 'alice'"),
        (SECRET, {"limits": {"dave": {}}}, "names 'dave'"),
        (SECRET, {"file": "/nowhere/keys"}, "cannot read the keys"),
    ],
)
def test_bad_keys_are_one_sentence(lines: str, config: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEYS", lines)
    with pytest.raises(ConfigError, match=sentence) as failed:
        KeyRing.read(KeysConfig.model_validate({"env": "TEST_KEYS", **config}))
    assert "sk-plain" not in str(failed.value)


def test_a_new_key_and_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alice"]) == 0
    key, line = capsys.readouterr().out.split("\n")[:2]
    assert line == entry("alice", key)
    assert (main([]), main(["a b"])) == (2, 2)


def test_who_is_reached_by_others_needs_keys() -> None:
    with pytest.raises(ConfigError, match="keys are needed"):
        validate(ServeConfig, {"host": "0.0.0.0"}, "the test")
    assert validate(ServeConfig, {"host": "0.0.0.0", "keys": {"env": "K"}}, "the test").keys.required
    assert not validate(ServeConfig, {}, "the test").needs_ledger


# --- the limiter ---


def limiter_of(**limits: int) -> tuple[Limiter, Clock]:
    clock = Clock()
    return Limiter(KeysConfig.model_validate({"env": "K", "default": limits, "limits": {"free": {}}}), lease_s=10, clock=clock), clock


def test_a_rate_is_a_bucket() -> None:
    limiter, clock = limiter_of(requests_per_minute=6)
    assert [limiter.acquire("a", str(i)) for i in range(6)] == [None] * 6
    refused = limiter.acquire("a", "7")
    assert refused is not None
    assert (refused.code, refused.retry_after_s) == ("rate_limit_exceeded", 10)
    assert limiter.acquire("b", "1") is None
    assert limiter.acquire("free", "1") is None
    clock.now += 10
    assert limiter.acquire("a", "8") is None
    assert limiter.acquire("a", "9") is not None
    clock.now += 3600
    assert sum(limiter.acquire("a", f"late{i}") is None for i in range(20)) == 6


def test_leases_are_given_back_or_run_out() -> None:
    limiter, clock = limiter_of(max_concurrent_requests=2)
    assert [limiter.acquire("a", name) for name in "xy"] == [None, None]
    assert limiter.acquire("a", "z") is not None
    limiter.release("a", "x", 5)
    assert limiter.acquire("a", "z") is None
    assert limiter.acquire("a", "w") is not None
    clock.now += 10
    assert limiter.acquire("a", "w") is None


def test_a_budget_lasts_a_day() -> None:
    limiter, clock = limiter_of(tokens_per_day=100)
    for name in "xy":
        assert limiter.acquire("a", name) is None
        limiter.release("a", name, 60)
    clock.now += 100
    refused = limiter.acquire("a", "z")
    assert refused is not None
    assert (refused.code, refused.retry_after_s) == ("insufficient_quota", int(DAY_S) - 100)
    clock.now += DAY_S - 100
    assert limiter.acquire("a", "z") is None


def test_one_key_cannot_take_all_places() -> None:
    admission = Admission(8)
    with admission.admit("other"):
        pass
    held = [admission.admit("greedy") for _ in range(6)]
    for place in held:
        place.__enter__()
    with pytest.raises(ApiError, match="kept for others"), admission.admit("greedy"):
        pass
    with admission.admit("other"), admission.admit("other"), pytest.raises(ApiError, match="at work on 8"), admission.admit("other"):
        pass
    for place in held:
        place.__exit__(None, None, None)
    assert admission.at_work == 0


def test_a_key_that_is_alone_has_all_places() -> None:
    admission = Admission(4)
    with admission.admit("a"), admission.admit("a"), admission.admit("a"), admission.admit("a"):
        assert admission.at_work == 4


# --- the gate ---


ROUTES = [
    ("GET", "http://cleave/tokenizer_info"),
    ("GET", "/models"),
    ("GET", "/models/cleave"),
    ("GET", "/traces/x"),
    ("GET", "/nothing"),
    ("POST", "http://cleave/tokenize"),
    ("POST", "/chat/completions"),
    ("POST", "/completions"),
    ("POST", "/solve"),
    ("POST", "/decompose"),
    ("POST", "/verify"),
    ("POST", "/drafts"),
    ("GET", "http://cleave/health/"),
    ("GET", "http://cleave//health"),
    ("POST", "http://cleave/docs/../v1/solve"),
]


@pytest.mark.parametrize("name", [None, "sk-wrong"])
async def test_every_route_needs_a_key(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    script = Script()
    with guarded(monkeypatch, script) as client_for:
        async with client_for(name) as http:
            for method, path in ROUTES:
                reply = await http.request(method, path, content=b"x" * 2_000_000 if method == "POST" else None)
                check_error(reply, 401, "missing_api_key" if name is None else "invalid_api_key")
                assert reply.headers["WWW-Authenticate"] == "Bearer"
            for path in ("/health", "/ready", "/docs", "/openapi.json"):
                assert (await http.get(f"http://cleave{path}")).status_code == 200
    assert script.asked == []


async def test_two_authorization_headers_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(monkeypatch, Script()) as client_for:
        async with client_for(None) as http:
            headers = [("Authorization", f"Bearer {KEYS['alice']}"), ("Authorization", "Bearer x")]
            check_error(await http.get("/models", headers=headers), 401, "missing_api_key")


async def test_a_key_lets_in_and_pays_for_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    with guarded(monkeypatch, script, keys={"limits": {"alice": {"tokens_per_day": 3 * TOKENS}}}) as client_for:
        async with client_for("alice") as alice, client_for("bob") as bob:
            assert (await alice.post("/solve", json={"question": QUESTION})).status_code == 200
            assert (await alice.post("/chat/completions", json=chat(stream=True))).status_code == 200
            script.text = lambda request, sample: "I do not know"
            assert (await alice.post("/solve", json={"question": QUESTION})).status_code == 502
            late = await alice.post("/solve", json={"question": QUESTION})
            check_error(late, 429, "insufficient_quota")
            assert int(late.headers["Retry-After"]) > 80_000
            assert (await alice.get("/models")).status_code == 200
            assert (await bob.post("/completions", json={"model": "solver", "prompt": "x"})).status_code == 200


async def test_the_openai_client_waits_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """On its own, as Retry-After says."""
    script = Script(waits_s=0.2)
    with guarded(monkeypatch, script, keys={"default": {"max_concurrent_requests": 1}}) as client_for:
        client = openai.AsyncOpenAI(base_url="http://cleave/v1", api_key=KEYS["bob"], max_retries=3, http_client=client_for(None))
        asks = [client.chat.completions.create(**chat()) for _ in range(2)]
        replies = await asyncio.gather(*asks)
        assert [reply.choices[0].finish_reason for reply in replies] == ["stop", "stop"]
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="sk-wrong").models.list()


async def test_a_request_that_is_cancelled_gives_its_lease_back(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(waits_s=60)
    with guarded(monkeypatch, script, keys={"default": {"max_concurrent_requests": 1}}) as client_for:
        async with client_for() as http:
            task = asyncio.create_task(http.post("/solve", json={"question": QUESTION}))
            while not script.asked:
                await asyncio.sleep(0)
            check_error(await http.post("/solve", json={"question": QUESTION}), 429, "rate_limit_exceeded")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            script.waits_s = 0.0
            assert (await http.post("/solve", json={"question": QUESTION})).status_code == 200


async def test_without_its_ledger_nobody_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(monkeypatch, Script(), Away) as client_for:
        async with client_for() as http:
            check_error(await http.post("/solve", json={"question": QUESTION}), 503, "role_unavailable")


# --- traces ---


async def test_traces_are_their_keys_own_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(monkeypatch, Script(), traces={"max_traces": 3}) as client_for:
        async with client_for("alice") as alice, client_for("bob") as bob:
            solved = (await alice.post("/solve", json={"question": QUESTION})).headers["X-Trace-Id"]
            chatted = (await alice.post("/chat/completions", json=chat(n=2, seed=1, temperature=1))).json()["id"]
            streamed = await alice.post("/chat/completions", json=chat(stream=True))
            name = json.loads(streamed.text.split("\n")[0].removeprefix("data: "))["id"]
            for known, count in ((solved, 1), (chatted, 2), (name, 1)):
                reply = await alice.get(f"/traces/{known}")
                assert (reply.json()["id"], len(reply.json()["traces"])) == (known, count)
                check_error(await bob.get(f"/traces/{known}"), 404, "trace_not_found", "name")
            await bob.post("/solve", json={"question": QUESTION})
            assert (await alice.get(f"/traces/{solved}")).status_code == 404


async def test_traces_are_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(monkeypatch, Script()) as client_for:
        async with client_for() as http:
            reply = await http.post("/solve", json={"question": QUESTION})
            assert "X-Trace-Id" not in reply.headers
            assert "not kept" in check_error(await http.get("/traces/trace-1"), 404, "trace_not_found", "name")
