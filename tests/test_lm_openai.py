"""The OpenAI backend against a real HTTP server on this machine that can limit, fail, hang, break off and talk nonsense."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cleave.decoding.draft import Drafting
from cleave.errors import CleaveError, ConfigError, GenerationError
from cleave.lm.openai import OpenAIModel
from cleave.types import Completion, Message, Prompt, Sampling, Usage

KEY = "sk-secret-123"
Answer = Callable[["Handler", dict[str, Any]], None]


class Server(ThreadingHTTPServer):
    """Answers each request by the next of `script`, then by `answer`; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Answer] = []
        self.answer: Answer = complete
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        self.lock = threading.Lock()
        self.active = self.most_active = 0
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def payloads(self) -> list[dict[str, Any]]:
        return [payload for _, payload, _ in self.requests]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append((self.path, payload, self.headers.get("authorization")))
            answer = self.server.script.pop(0) if self.server.script else self.server.answer
            self.server.active += 1
            self.server.most_active = max(self.server.most_active, self.server.active)
        try:
            answer(self, payload)
        finally:
            with self.server.lock:
                self.server.active -= 1

    def reply(self, data: object, status: int = 200, **headers: str) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


def complete(handler: Handler, payload: dict[str, Any], choices: int | None = None) -> None:
    """A well-behaved reply: the text names the seed and the choice."""
    count = payload.get("n", 1) if choices is None else choices
    handler.reply(
        {
            "choices": [choice(payload, f"{payload.get('seed')}/{i}") for i in range(count)],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3 * count + 1, "total_tokens": 8 + 3 * count},
        }
    )


def choice(payload: dict[str, Any], text: str, finish: str = "stop") -> dict[str, Any]:
    if "messages" in payload:
        logprobs = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.0}]} if payload.get("logprobs") else None
        return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, "logprobs": logprobs}
    logprobs = {"token_logprobs": [-0.25], "tokens": ["a"]} if payload.get("logprobs") else None
    return {"index": 0, "text": text, "finish_reason": finish, "logprobs": logprobs}


def fail(status: int, message: object = "no", **headers: str) -> Answer:
    return lambda handler, _: handler.reply({"error": {"message": message, "code": None}}, status, **headers)


def raw(body: bytes, status: int = 200) -> Answer:
    return lambda handler, _: handler.reply(body, status)


def say(text: str | None, finish: str = "stop", **message: str) -> Answer:
    def answer(handler: Handler, payload: dict[str, Any]) -> None:
        said = choice(payload, "", finish)
        said["message"] = {"role": "assistant", "content": text, **message}
        handler.reply({"choices": [said], "usage": {"prompt_tokens": 1, "completion_tokens": 9}})

    return answer


def events(*chunks: object) -> Answer:
    def answer(handler: Handler, _: dict[str, Any]) -> None:
        lines = [": keep-alive", *(f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}" for chunk in chunks)]
        handler.reply("".join(line + "\n\n" for line in lines).encode(), content_type="text/event-stream")

    return answer


def hang(handler: Handler, payload: dict[str, Any]) -> None:
    handler.server.release.wait(20)


def break_off(handler: Handler, payload: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


def make_model(server: Server, **options: Any) -> OpenAIModel:
    return OpenAIModel(**{"model": "m", "base_url": server.url, "backoff_s": 0.01, "max_retries": 3, **options})


TEXT = Prompt(text="2 + 3 =", seed=5)
CHAT = Prompt(messages=(Message("system", "be brief"), Message("user", "2 + 3?")), seed=6)


async def test_text_and_messages_go_to_their_routes(server: Server) -> None:
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.9, n=2, stop=("\n", "##"))
    replies = await make_model(server, base_url=server.url + "/").generate([TEXT], sampling)
    replies += await make_model(server).generate([CHAT], sampling)
    assert [[reply.text for reply in samples] for samples in replies] == [["5/0", "5/1"], ["6/0", "6/1"]]
    (first, text, key), (second, chat, _) = server.requests
    assert (first, second, key) == ("/v1/completions", "/v1/chat/completions", f"Bearer {KEY}")
    common = {"model": "m", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "n": 2, "stop": ["\n", "##"]}
    assert text == {**common, "prompt": "2 + 3 =", "seed": 5}
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2 + 3?"}]
    assert chat == {**common, "messages": messages, "seed": 6}


async def test_options_at_their_defaults_are_not_sent(server: Server) -> None:
    await make_model(server).generate([Prompt(text="a")], Sampling(max_tokens=4))
    assert server.payloads == [{"model": "m", "max_tokens": 4, "temperature": 0.0, "prompt": "a"}]


async def test_usage_and_price_add_up(server: Server) -> None:
    model = make_model(server, prompt_price=2.0, completion_price=10.0)
    [replies] = await model.generate([CHAT], Sampling(n=3, temperature=1.0))
    total = sum((reply.usage for reply in replies), Usage())
    assert (total.calls, total.prompt_tokens, total.completion_tokens) == (1, 7, 10)
    assert total.price == pytest.approx((7 * 2 + 10 * 10) / 1e6)
    assert total.seconds > 0
    assert [reply.usage.completion_tokens for reply in replies] == [4, 3, 3]


@pytest.mark.parametrize(("prompt", "asked", "logprobs"), [(TEXT, 2, (-0.25,)), (CHAT, True, (-0.5, -1.0))], ids=["text", "chat"])
async def test_logprobs(prompt: Prompt, asked: object, logprobs: tuple[float, ...], server: Server) -> None:
    model = make_model(server)
    [[reply]] = await model.generate([prompt], Sampling(logprobs=2))
    assert reply.logprobs == logprobs
    assert server.payloads[0]["logprobs"] == asked
    [[reply]] = await model.generate([prompt], Sampling())
    assert reply.logprobs == ()
    assert "logprobs" not in server.payloads[1]


@pytest.mark.parametrize(("prompt", "asked"), [(TEXT, 1), (CHAT, True)], ids=["text", "chat"])
async def test_a_model_may_always_ask_for_logprobs(prompt: Prompt, asked: object, server: Server) -> None:
    model = OpenAIModel(model="m", base_url=server.url, logprobs=True)
    [[reply]] = await model.generate([prompt], Sampling())
    assert server.payloads[0]["logprobs"] == asked
    assert reply.mean_logprob is not None


@pytest.mark.parametrize("given", [1, 2])
async def test_missing_choices_are_asked_for_with_other_seeds(given: int, server: Server) -> None:
    server.answer = lambda handler, payload: complete(handler, payload, choices=min(given, payload.get("n", 1)))
    model = make_model(server)
    [replies] = await model.generate([TEXT], Sampling(n=4, temperature=1.0))
    assert len({reply.text for reply in replies}) == 4
    assert len({payload["seed"] for payload in server.payloads}) == len(server.payloads) == 5 - given
    assert sum((reply.usage for reply in replies), Usage()).calls == 5 - given
    [again] = await model.generate([TEXT], Sampling(n=4, temperature=1.0))
    assert [reply.text for reply in again] == [reply.text for reply in replies]


async def test_too_many_choices_are_cut(server: Server) -> None:
    server.answer = lambda handler, payload: complete(handler, payload, choices=5)
    [replies] = await make_model(server).generate([TEXT], Sampling(n=2, temperature=1.0))
    assert len(replies) == 2


async def test_greedy_samples_are_asked_for_once(server: Server) -> None:
    [replies] = await make_model(server).generate([TEXT], Sampling(n=3))
    assert [reply.text for reply in replies] == ["5/0"] * 3
    assert len(server.requests) == 1
    assert sum((reply.usage for reply in replies), Usage()).completion_tokens == 4


async def test_thinking_is_removed_and_counted(server: Server) -> None:
    server.script = [
        say("<think>two and three</think>\n5"),
        say("5", reasoning_content="two and three"),
        say(None, "length", reasoning_content="two and"),
    ]
    model = make_model(server)
    replies = [(await model.generate([CHAT], Sampling()))[0][0] for _ in range(3)]
    assert [(reply.text, reply.finish, reply.usage.completion_tokens) for reply in replies] == [
        ("5", "stop", 9),
        ("5", "stop", 9),
        ("", "length", 9),
    ]


@pytest.mark.parametrize("failure", [fail(408), fail(409), fail(429), fail(500), fail(503), raw(b"<html>", 502), break_off])
async def test_passing_failures_are_retried(failure: Answer, server: Server) -> None:
    server.script = [failure, failure]
    [[reply]] = await make_model(server).generate([TEXT], Sampling())
    assert reply.text == "5/0"
    assert len(server.requests) == 3


async def test_retries_end(server: Server) -> None:
    server.answer = fail(503, "overloaded")
    with pytest.raises(GenerationError, match=r"answered 503: overloaded; look at"):
        await make_model(server, max_retries=2).generate([TEXT], Sampling())
    assert len(server.requests) == 3


@pytest.mark.parametrize("header", ["0.4", "date"])
async def test_retry_after_is_honoured(header: str, server: Server) -> None:
    # A date has whole seconds: two seconds from now is at least one second away.
    value = formatdate(time.time() + 2, usegmt=True) if header == "date" else header
    server.script = [fail(429, retry_after=value)]
    start = time.monotonic()
    await make_model(server).generate([TEXT], Sampling())
    assert time.monotonic() - start >= (0.9 if header == "date" else 0.4)


async def test_an_unreasonable_retry_after_is_an_error(server: Server) -> None:
    server.script = [fail(429, "quota used up", retry_after="86400")]
    with pytest.raises(GenerationError, match="rate limit: quota used up"):
        await make_model(server).generate([TEXT], Sampling())


@pytest.mark.parametrize(
    ("failure", "kind", "sentence"),
    [
        (fail(401), ConfigError, r"refused the key in \$OPENAI_API_KEY; set"),
        (fail(403), ConfigError, r"refused the key"),
        (fail(404, "model m does not exist"), ConfigError, r"has no model m.*does not exist.*models lists"),
        (fail(400, "This model's maximum context length is 10 tokens"), ConfigError, r"too long for m.*10 tokens; shorten"),
        (fail(400, "bad temperature"), ConfigError, r"refused the request: bad temperature"),
        (fail(422, [{"loc": "x"}]), ConfigError, r"refused the request"),
        (raw(b"{nonsense"), GenerationError, "malformed JSON"),
        (raw(b"\xff\xfe"), GenerationError, "malformed JSON"),
        (raw(b"[1]"), GenerationError, "no JSON object"),
        (raw(b"{}"), GenerationError, "another form"),
        (raw(b'{"choices": [{"text": null}]}'), GenerationError, "another form"),
        (raw(b'{"choices": "abc"}'), GenerationError, "another form"),
        (raw(b'{"choices": [1]}'), GenerationError, "another form"),
        (raw(b'{"choices": []}'), GenerationError, "without any choice"),
        (raw(b'{"error": {"message": "oom"}}'), GenerationError, "failed: .*oom"),
    ],
)
async def test_lasting_failures_are_one_sentence(failure: Answer, kind: type[CleaveError], sentence: str, server: Server) -> None:
    server.answer = failure
    with pytest.raises(kind, match=sentence) as caught:
        await make_model(server).generate([TEXT], Sampling())
    assert len(server.requests) == 1
    assert "\n" not in str(caught.value)
    assert type(caught.value) is kind


async def test_the_key_never_shows(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    server.answer = fail(400, f"Incorrect key {KEY} given")
    model = make_model(server, base_url=server.url.replace("//", "//user:pass@"))
    with pytest.raises(ConfigError) as caught:
        await model.generate([TEXT], Sampling())
    for text in (str(caught.value), caplog.text, repr(model.__dict__), model.info.name):
        assert KEY not in text
    assert "pass" not in str(caught.value) + model.info.name


async def test_no_key_at_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    model = make_model(server)
    await model.generate([TEXT], Sampling())
    assert server.requests[0][2] is None
    server.answer = fail(401)
    with pytest.raises(ConfigError, match=r"there is none in \$OPENAI_API_KEY"):
        await model.generate([TEXT], Sampling())


async def test_a_slow_server_times_out_without_retry(server: Server) -> None:
    server.answer = hang
    with pytest.raises(GenerationError, match=r"sent nothing for 0\.2 s; raise read_timeout_s"):
        await make_model(server, read_timeout_s=0.2).generate([TEXT], Sampling())
    assert len(server.requests) == 1


async def test_an_unreachable_server(server: Server) -> None:
    server.server_close()
    with pytest.raises(GenerationError, match=r"cannot reach http://127\.0\.0\.1"):
        await make_model(server, max_retries=1).generate([TEXT], Sampling())


async def test_concurrency_is_limited(server: Server) -> None:
    def slow(handler: Handler, payload: dict[str, Any]) -> None:
        time.sleep(0.03)
        complete(handler, payload)

    server.answer = slow
    prompts = [Prompt(text="a", seed=seed) for seed in range(12)]
    replies = await make_model(server, max_concurrency=3).generate(prompts, Sampling())
    assert [samples[0].text for samples in replies] == [f"{seed}/0" for seed in range(12)]
    assert 2 <= server.most_active <= 3


async def test_a_failure_cancels_its_call_only(server: Server) -> None:
    def picky(handler: Handler, payload: dict[str, Any]) -> None:
        (fail(400, "refused") if payload["prompt"] == "bad" else hang if payload["prompt"] == "slow" else complete)(handler, payload)

    server.answer = picky
    model = make_model(server)
    good = asyncio.create_task(model.generate([TEXT], Sampling()))
    with pytest.raises(ConfigError, match="refused"):
        await asyncio.wait_for(model.generate([Prompt(text="slow"), Prompt(text="bad")], Sampling()), timeout=10)
    assert (await good)[0][0].text == "5/0"


async def test_cancellation(server: Server) -> None:
    server.answer = hang
    model = make_model(server, max_concurrency=1)
    task = asyncio.create_task(model.generate([TEXT], Sampling()))
    while not server.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.answer = complete
    assert len(await asyncio.wait_for(model.generate([TEXT], Sampling()), timeout=10)) == 1
    await model.aclose()
    await model.aclose()


async def test_what_the_protocol_lacks_is_refused(server: Server) -> None:
    for sampling in (Sampling(top_k=3), Sampling(min_p=0.1)):
        with pytest.raises(ConfigError, match="top_k"):
            await make_model(server).generate([TEXT], sampling)
    with pytest.raises(ConfigError, match="cannot score"):
        await make_model(server).score([TEXT], ["5"])
    with pytest.raises(ConfigError, match="cannot draft"):
        await make_model(server).drafts([TEXT], Drafting())
    with pytest.raises(ConfigError, match="is no URL"):
        make_model(server, base_url="ftp://host")
    assert server.requests == []


async def test_stream(server: Server) -> None:
    def delta(text: str | None) -> dict[str, Any]:
        return {"choices": [{"delta": {"content": text}}]}

    thought = [delta(text) for text in ("<thi", "nk>a</think>", "\n4", "2", None)]
    server.script = [
        fail(503),
        events(*thought, {"choices": []}, "[DONE]"),
        events({"choices": [{"text": "4"}]}, {"choices": [{"text": "2"}]}, "[DONE]"),
    ]
    model = make_model(server)
    assert [piece async for piece in model.stream(CHAT, Sampling(n=3, temperature=1.0))] == ["4", "2"]
    assert [piece async for piece in model.stream(TEXT, Sampling())] == ["4", "2"]
    assert server.payloads[-1]["stream"] is True
    assert "n" not in server.payloads[1]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [(events({"error": {"message": "oom"}}), "oom"), (events("{"), "malformed"), (fail(404), "no model"), (break_off, "broke off")],
)
async def test_stream_failures(answer: Answer, sentence: str, server: Server) -> None:
    server.answer = answer
    with pytest.raises((GenerationError, ConfigError), match=sentence):
        [piece async for piece in make_model(server).stream(TEXT, Sampling())]


async def test_completion_is_plain(server: Server) -> None:
    [[reply]] = await make_model(server).generate([TEXT], Sampling())
    assert reply == Completion("5/0", usage=reply.usage)
