"""Requests that no client would send: methods, paths, headers and bytes at random, and the tricks that are known. Whatever comes, the reply
is an answer or an error in a sentence, never a traceback, never what another key has asked.

Bodies at random are in test_serve_input.py.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from cleave.config.serve import ServeArgs
from cleave.roles import Roles
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.gate import OPEN
from serve.keys import KeyRing, entry, new_key
from serve.ledger import LocalLedger
from serve.service import Service
from tests.listening import exchange, head, listening, scripted
from tests.serving import QUESTION, Decomposes, Script, Solves, Speaks, Stage, check_error

KEYS = {name: new_key() for name in ("alice", "bob")}
SECRET = "the colour of the ninth gate"
"""In what alice has asked."""
PATHS = (
    "v1 solve chat completions models traces decompose verify drafts batches files tokenize tokenizer_info health ready docs openapi.json "
    ".. . %2e%2e %2f ..%2f %00 ; ? # // cleave trace-1 chatcmpl-1 %ff é"
).split()
NAMES = (
    "Authorization Content-Type Content-Length Content-Encoding Transfer-Encoding Accept Cookie Expect Host Origin Range If-Match Upgrade "
    "X-Forwarded-For X-Forwarded-Host X-Forwarded-Prefix X-HTTP-Method-Override X-Original-URL X-Rewrite-URL X-Request-Id X-Trace-Id"
).split()
VALUES = (
    "0|-1|gzip|chunked|application/json|text/plain|application/json; charset=utf-16|multipart/form-data|bytes=0-|/health|127.0.0.1"
    "|Bearer |Bearer x|Basic YTpi|"
).split("|")
BYTES = [
    b"",
    b"{",
    b"null",
    b'{"question": "x"}',
    b"\xff\xfe",
    b"\x1f\x8b\x08",
    b"--x\r\n\r\n--x--",
    json.dumps({"model": "cleave"}).encode(),
]
REQUESTS = {
    "method": st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND", "get", "x"]),
    "path": st.lists(st.sampled_from(PATHS), max_size=5).map(lambda parts: "/" + "/".join(parts)),
    "headers": st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([*VALUES, "x" * 5000])), max_size=4),
    "content": st.sampled_from(BYTES) | st.binary(max_size=20),
}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """Two keys, and traces that are kept."""
    config, stage = ServeArgs.model_validate({"keys": {"env": "UNUSED"}, "traces": {"max_traces": 50}}), Stage()
    stage.script = Script()
    ledger, solver = LocalLedger(config), Solves(stage)
    ring = KeyRing({name: entry(name, key).split()[1] for name, key in KEYS.items()})
    service = Service(Roles(Decomposes(stage), solver), config.limits, {"solver": Speaks(solver)}, ledger)
    return create_app(service, Catalogue.of(config), ring, ledger)


def client_for(app: FastAPI, name: str | None) -> httpx.AsyncClient:
    headers = {} if name is None else {"Authorization": f"Bearer {KEYS[name]}"}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://cleave", headers=headers)


@pytest.fixture(scope="module")
def trace_id(app: FastAPI) -> str:
    """Of what alice has asked."""

    async def ask() -> str:
        async with client_for(app, "alice") as alice:
            name: str = (await alice.post("/v1/solve", json={"question": SECRET})).headers["X-Trace-Id"]
            assert SECRET in (await alice.get(f"/v1/traces/{name}")).text
            return name

    return asyncio.run(ask())


def check_sound(reply: httpx.Response) -> None:
    """Not a failure of the server, and nothing of its inside or of alice."""
    assert reply.status_code < 500 or reply.status_code == 502, reply.text
    for word in ("Traceback", 'File "', "internal_error", SECRET):
        assert word not in reply.text
    if reply.status_code >= 400 and reply.request.method != "HEAD":
        error = reply.json()["error"]
        assert isinstance(error["code"], str)
        assert error["message"]


def send(app: FastAPI, method: str, path: str, headers: list[tuple[str, str]], content: bytes) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with client_for(app, "bob") as bob:
            return await bob.send(httpx.Request(method, f"http://cleave{path}", headers=[*bob.headers.items(), *headers], content=content))

    return asyncio.run(ask())


@settings(max_examples=300)
@given(**REQUESTS)
def test_no_request_makes_the_server_fail(app: FastAPI, trace_id: str, **request: Any) -> None:
    check_sound(send(app, **request))


@pytest.mark.slow
@settings(max_examples=10_000)
@given(**REQUESTS)
def test_ten_thousand_requests(app: FastAPI, trace_id: str, **request: Any) -> None:
    check_sound(send(app, **request))


# --- keys ---


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path that the document names, parameters filled in."""
    paths = app.openapi()["paths"]
    return [(method.upper(), path.replace("{", "").replace("}", "")) for path, methods in paths.items() for method in methods]


@pytest.mark.parametrize("authorization", [None, "Bearer x", f"Bearer {KEYS['alice'][:-1]}", f"Basic {KEYS['alice']}", KEYS["alice"]])
async def test_every_route_of_the_document_needs_a_key(app: FastAPI, authorization: str | None) -> None:
    routes = routes_of(app)
    assert ("POST", "/v1/solve") in routes
    async with client_for(app, None) as client:
        for method, path in routes:
            headers = {} if authorization is None else {"Authorization": authorization}
            reply = await client.request(method, path, headers=headers, content=b"{}")
            assert (reply.status_code == 401) == (path not in OPEN), (method, path, reply.status_code)


TRICKS = (
    "/health/../v1/traces/{}",
    "/health/%2e%2e/v1/traces/{}",
    "/health;/v1/traces/{}",
    "/health%2f..%2fv1/traces/{}",
    "//v1/traces/{}",
    "/v1//traces/{}",
    "/v1/traces/{}/",
    "/v1/traces/x/../{}",
    "/V1/TRACES/{}",
    "/docs?/v1/traces/{}",
    "/openapi.json%00/v1/traces/{}",
)


@pytest.mark.parametrize("trick", TRICKS)
def test_no_path_leads_around_the_gate_or_to_anothers_trace(app: FastAPI, trace_id: str, trick: str) -> None:
    """Over a real connection: clients tidy paths up."""
    with listening(app) as url:
        for key in (None, KEYS["bob"]):
            lines = ["Connection: close", *([] if key is None else [f"Authorization: Bearer {key}"])]
            status, received = exchange(url, head("GET", trick.format(trace_id), *lines))
            assert SECRET.encode() not in received
            assert status in ((200, 401, 404) if key is None else (200, 404)), received
            if status == 200:  # a documentation page, with the rest as its query
                assert trick.startswith(("/docs", "/openapi.json"))


async def test_no_reply_sends_a_client_to_the_host_that_it_has_named(app: FastAPI) -> None:
    async with client_for(app, "bob") as bob:
        for path in ("/v1/solve/", "/tokenize/?", "/docs/"):
            reply = await bob.get(path, headers={"Host": "elsewhere.example"})
            check_error(reply, 404, "not_found")
            assert "elsewhere" not in reply.text + str(reply.headers)


async def test_a_prefix_without_its_slash_leads_to_the_page() -> None:
    stage = Stage()
    stage.script = Script()
    app = create_app(Service(Roles(Decomposes(stage), Solves(stage)), ServeArgs().limits), Catalogue.of(ServeArgs()))
    transport = httpx.ASGITransport(app, root_path="/team")
    async with httpx.AsyncClient(transport=transport, base_url="http://cleave") as http:
        reply = await http.get("/team", headers={"Host": "elsewhere.example"})
        assert (reply.status_code, reply.headers["Location"]) == (307, "/team/")
        assert (await http.get("/team/")).headers["Content-Type"].startswith("text/html")
        check_error(await http.get("/team/nothing"), 404, "not_found")


@pytest.mark.parametrize("header", ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "X-Forwarded-For", "X-Trace-Id", "Cookie"])
async def test_no_header_takes_the_place_of_a_key(app: FastAPI, trace_id: str, header: str) -> None:
    async with client_for(app, None) as client:
        for value in ("/health", "127.0.0.1", trace_id, f"Bearer {KEYS['alice']}"):
            check_error(await client.get(f"/v1/traces/{trace_id}", headers={header: value}), 401, "missing_api_key")


# --- framing, over a real connection ---

BODY = json.dumps({"question": QUESTION}).encode()
JSON = "Content-Type: application/json"
BROKEN: dict[str, bytes] = {
    "no request": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32 + b"\r\n\r\n",
    "a space in a name": head("GET", "/health", "X Y: 1"),
    "a line without a colon": head("GET", "/health", "nothing"),
    "a zero byte": head("GET", "/health", "X-Y: a\0b"),
    "a negative length": head("POST", "/v1/solve", JSON, "Content-Length: -1") + BODY,
    "two lengths": head("POST", "/v1/solve", JSON, "Content-Length: 5", "Content-Length: 50") + BODY,
    "a bad chunk": head("POST", "/v1/solve", JSON, "Transfer-Encoding: chunked") + b"zz\r\n" + BODY,
    "an unknown encoding": head("POST", "/v1/solve", JSON, "Transfer-Encoding: zip") + BODY,
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_not_http_is_refused_and_forgotten(sent: bytes) -> None:
    """A 4xx or the end of the connection, at once; the next request is served."""
    with scripted(Script()) as url:
        status, received = exchange(url, sent)
        assert status in (0, 400, 401, 404, 411, 413, 431, 501), received
        assert b"Traceback" not in received
        assert httpx.post(f"{url}/v1/solve", json={"question": QUESTION}).json()["answer"] == "17"


def test_a_second_request_hidden_in_the_first_is_none(app: FastAPI) -> None:
    """Length and chunks at once: whichever the server believes, what follows has no key."""
    hidden = head("GET", "/v1/models")
    lines = [JSON, f"Authorization: Bearer {KEYS['bob']}", "Content-Length: 4", "Transfer-Encoding: chunked"]
    with listening(app) as url:
        _, received = exchange(url, head("POST", "/v1/solve", *lines) + b"0\r\n\r\n" + hidden + head("GET", "/health", "Connection: close"))
    assert b'"object":"list"' not in received
