"""Spans of requests: their tree and what they tell, from whom they descend, that no text leaks, and that nobody waits for a collector."""

from __future__ import annotations

import asyncio
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from cleave.config.base import validate
from cleave.config.serve import ServeArgs, ServeConfig
from cleave.config.serve_tracing import TracingConfig
from cleave.errors import ConfigError, GenerationError
from cleave.roles import Roles, SolveReply, VerifyReply, VerifyRequest
from cleave.types import ModelInfo, Usage, Verdict
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.handle import ServeHandle
from serve.pins import Answer, Version, pinned
from serve.run import QUESTION as SOLVABLE
from serve.run import _passed_on, main
from serve.service import Service
from serve.spans import Spans
from serve.tracing import CARRIER, carried, spans_of
from tests.conftest import ROOT
from tests.serving import QUESTION, TEXT, Decomposes, Script, Solves, Speaks, Stage
from tests.test_layout import imports_in

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SECRET = "sk-secret-key"
SPAN_MODULES = ("call_spans", "open_span", "problem_spans", "request_span", "span_notes", "spans")
TYPES_ONLY = {"serve/deployments.py", "serve/ingress.py", "serve/service.py", "serve/tracing.py"}
"""Import them under `if TYPE_CHECKING:`."""


class Verifies:
    """A verifier that likes every solution."""

    async def __call__(self, request: VerifyRequest) -> VerifyReply:
        return VerifyReply(tuple(Verdict(0.75) for _ in request.solutions), Usage(1, 30, 1))

    async def info(self) -> ModelInfo:
        return ModelInfo("scripted-verifier")


class Kept:
    """Spans in memory, and a service whose requests make them."""

    def __init__(self) -> None:
        self.memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.spans = Spans(provider)

    def __call__(self, name: str) -> list[ReadableSpan]:
        """Those of one name, in order of their beginning."""
        return sorted((span for span in self.memory.get_finished_spans() if span.name == name), key=lambda span: span.start_time or 0)

    def tree(self) -> dict[str, Any]:
        """Names by parent, from the roots down, siblings in order of their beginning."""
        spans = sorted(self.memory.get_finished_spans(), key=lambda span: span.start_time or 0)
        ids = {span.context.span_id for span in spans if span.context is not None}

        def below(parent: int | None) -> dict[str, Any]:
            inner: dict[str, Any] = {}
            for span in spans:
                above = span.parent.span_id if span.parent is not None and span.parent.span_id in ids else None
                if above == parent:
                    assert span.context is not None
                    name = span.name if span.name not in inner else f"{span.name} {sum(span.name in each for each in inner) + 1}"
                    inner[name] = below(span.context.span_id)
            return inner

        return below(None)


@pytest.fixture
def kept() -> Kept:
    return Kept()


def client(spans: Spans | None, script: Script, **args: Any) -> httpx.AsyncClient:
    config, stage = ServeArgs.model_validate(args), Stage()
    stage.script = script
    solver = Solves(stage)
    service = Service(Roles(Decomposes(stage), solver, Verifies()), config.limits, {"solver": Speaks(solver)}, spans=spans)
    app = create_app(service, Catalogue.of(config))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://cleave/v1")


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def events(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    return [(event.name, dict(event.attributes or {})) for event in span.events]


# --- the tree ---


async def test_a_static_request_has_a_span_per_stage_and_call(kept: Kept) -> None:
    async with client(kept.spans, Script()) as http:
        await http.post("/solve", json={"question": QUESTION, "n": 2, "temperature": 0.5}, headers={"X-Request-Id": "r-1"})
    stages = {"plan": {"ask decomposer": {}}, "solve": {"ask solver": {}}, "verify": {"ask verifier": {}}, "vote": {}}
    assert kept.tree() == {"POST /v1/solve": {"reason static": stages}}
    (root,) = kept("POST /v1/solve")
    assert (root.kind, root.parent, root.status.is_ok) == (SpanKind.SERVER, None, True)
    assert told(root) == {
        "http.request.method": "POST",
        "http.route": "/v1/solve",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "cleave.request_id": "r-1",
    }
    (problem,) = kept("reason static")
    figures = {"cleave.answered": True, "cleave.solutions": 2, "cleave.rejected_plans": 0, "cleave.confidence": 1.0}
    assert told(problem) == {"cleave.strategy": "static", **figures}
    (call,) = kept("ask solver")
    assert (call.kind, told(call)) == (
        SpanKind.CLIENT,
        {
            "cleave.role": "solver",
            "cleave.call": "SolveRequest",
            "gen_ai.provider.name": "cleave",
            "gen_ai.operation.name": "text_completion",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.choice.count": 2,
            "gen_ai.usage.input_tokens": 20,
            "gen_ai.usage.output_tokens": 7,
        },
    )
    assert events(kept("plan")[0]) == [("plan", {"cleave.plan.steps": 2})]
    solution = {"cleave.solution.steps": 2, "cleave.solution.answered": True, "cleave.solution.finish": "stop"}
    assert events(kept("solve")[0]) == [("solution", {"cleave.sample": i, **solution}) for i in range(2)]
    assert events(kept("verify")[0]) == [("verdicts", {"cleave.verdicts": 2})]
    assert told(kept("vote")[0]) == {"cleave.sample": 0, "cleave.confidence": 1.0}


async def test_children_lie_within_their_parents(kept: Kept) -> None:
    async with client(kept.spans, Script()) as http:
        await http.post("/solve", json={"question": QUESTION, "strategy": "stepwise"})
    spans = {span.context.span_id: span for span in kept.memory.get_finished_spans() if span.context is not None}
    children = [span for span in spans.values() if span.parent is not None]
    assert len(children) == len(spans) - 1
    for span in children:
        assert span.parent is not None
        above = spans[span.parent.span_id]
        assert above.start_time is not None
        assert above.end_time is not None
        assert span.start_time is not None
        assert span.end_time is not None
        assert above.start_time <= span.start_time <= span.end_time <= above.end_time, (span.name, above.name)


async def test_sub_questions_are_spans_of_their_own(kept: Kept) -> None:
    async with client(kept.spans, Script()) as http:
        await http.post("/solve", json={"question": QUESTION, "strategy": "stepwise"})
    steps = {"sub-question": {"ask solver": {}}, "sub-question 2": {"ask solver": {}}}
    assert kept.tree()["POST /v1/solve"]["reason stepwise"]["solve"] == steps
    assert [told(span) for span in kept("sub-question")] == [{"cleave.sample": 0, "cleave.step": step} for step in (1, 2)]
    assert all(span.status.is_ok for span in kept("sub-question"))


async def test_a_step_that_fails_ends_unanswered(kept: Kept) -> None:
    async with client(kept.spans, Script(fails=GenerationError("nothing came; look."))) as http:
        plan = "1. How many in all?\n2. How many is #1 less 2?"
        await http.post("/solve", json={"question": QUESTION, "strategy": "stepwise", "plan": plan})
    (step,) = kept("sub-question")
    assert (step.status.is_ok, told(step)["error.type"]) == (False, "unanswered")
    assert told(kept("ask solver")[0])["error.type"] == "GenerationError"
    assert events(kept("solve")[0]) == [("failed", {"error.type": "GenerationError", "cleave.role": "solver"})]
    (problem,) = kept("reason stepwise")
    assert (problem.status.is_ok, told(problem)["error.type"], told(problem)["cleave.answered"]) == (False, "GenerationError", False)
    (root,) = kept("POST /v1/solve")
    assert (root.status.is_ok, told(root)["http.response.status_code"]) == (False, 502)


async def test_stages_of_adaptive_are_told_apart(kept: Kept) -> None:
    stages = [{"strategy": "single", "n": 2}, {"strategy": "static", "n": 1, "selection": "first"}]
    reasoning = {"strategy": "adaptive", "temperature": 0.5, "selection": "majority", "stages": stages}
    texts = iter(["The answer is: 1", "The answer is: 2", TEXT])
    async with client(kept.spans, Script(text=lambda request, sample: next(texts)), reasoning=reasoning) as http:
        reply = await http.post("/solve", json={"question": QUESTION})
    assert reply.json()["answer"] == "17"
    found = [(span.name, told(span).get("cleave.stage"), told(span).get("cleave.strategy")) for span in (*kept("solve"), *kept("plan"))]
    assert found == [("solve", 0, "single"), ("solve", 1, "static"), ("plan", 1, "static")]


async def test_choices_of_a_chat_have_spans_beside_each_other(kept: Kept) -> None:
    async with client(kept.spans, Script()) as http:
        message = {"role": "user", "content": QUESTION}
        await http.post("/chat/completions", json={"model": "cleave", "messages": [message], "n": 2})
    inner = kept.tree()["POST /v1/chat/completions"]
    assert list(inner) == ["reason static", "reason static 2"]
    assert all(list(stages) == ["plan", "solve", "verify", "vote"] for stages in inner.values())


async def test_a_stream_is_one_trace_until_its_end(kept: Kept) -> None:
    async with client(kept.spans, Script()) as http:
        reply = await http.post("/solve", json={"question": QUESTION, "stream": True})
    assert "event: trace" in reply.text
    stages = kept.tree()["POST /v1/solve"]["reason static"]
    assert stages["solve"] == {"ask solver": {}}
    (call,) = kept("ask solver")
    assert (told(call)["cleave.call"], told(call)["gen_ai.usage.output_tokens"]) == ("Say", 7)
    assert told(kept("reason static")[0])["gen_ai.response.time_to_first_chunk"] >= 0


async def test_single_roles_have_spans_below_the_request(kept: Kept) -> None:
    async with client(kept.spans, Script()) as http:
        await http.post("/decompose", json={"question": QUESTION})
        await http.post("http://cleave/tokenize", json={"model": "solver", "prompt": QUESTION})
    assert kept.tree() == {"POST /v1/decompose": {"ask decomposer": {}}, "POST /tokenize": {"ask solver": {}}}


async def test_refusals_and_bugs_are_told_by_status(kept: Kept) -> None:
    async with client(kept.spans, Script(fails=ZeroDivisionError(QUESTION))) as http:
        await http.post("/solve", json={"question": ""})
        await http.request("EVIL-METHOD", "/solve?question=leak")
        await http.get("/nothing/here")
        await http.post("/solve", json={"question": QUESTION})
    spans = [span for span in kept.memory.get_finished_spans() if span.kind == SpanKind.SERVER]
    assert [(span.name, told(span)["http.response.status_code"]) for span in spans] == [
        ("POST /v1/solve", 400),
        ("HTTP /v1/solve", 405),
        ("GET", 404),
        ("POST /v1/solve", 500),
    ]
    assert [span.status.is_ok for span in spans] == [True, True, True, False]
    assert told(spans[1])["http.request.method"] == "_OTHER"
    assert told(kept("ask decomposer")[0])["error.type"] == "ZeroDivisionError"


# --- contexts ---


async def test_spans_join_the_callers_trace(kept: Kept) -> None:
    async with client(kept.spans, Script()) as http:
        await http.post("/solve", json={"question": QUESTION}, headers=SAMPLED)
    (root,) = kept("POST /v1/solve")
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == PARENT
    traces = {f"{span.context.trace_id:032x}" for span in kept.memory.get_finished_spans() if span.context is not None}
    assert traces == {TRACE}


@pytest.mark.parametrize(("header", "spans"), [(f"00-{TRACE}-{PARENT}-00", 0), ("nonsense", 9), (f"00-{'0' * 32}-{PARENT}-01", 9)])
async def test_the_callers_sampling_holds_and_a_bad_header_is_none(kept: Kept, header: str, spans: int) -> None:
    async with client(kept.spans, Script()) as http:
        reply = await http.post("/solve", json={"question": QUESTION}, headers={"traceparent": header})
    assert (reply.status_code, len(kept.memory.get_finished_spans())) == (200, spans)


async def test_a_call_takes_its_span_along_and_the_replica_continues_it(kept: Kept) -> None:
    carriers: list[tuple[Any, ...]] = []

    def text(request: Any, sample: int) -> str:
        carriers.append(carried())
        return TEXT

    async with client(kept.spans, Script(text=text)) as http:
        await http.post("/solve", json={"question": QUESTION}, headers=SAMPLED)
    assert CARRIER.get() is None
    (call,) = kept("ask solver")
    ((carrier,),) = carriers
    assert call.context is not None
    assert carrier["traceparent"] == f"00-{TRACE}-{call.context.span_id:016x}-01"
    with kept.spans.call("solver", "m", carrier) as replica:
        replica.batch(3, 6)
        replica.reply(SolveReply((), Usage(1, 20, 7, seconds=0.5)))
    (span,) = kept("solver")
    assert span.parent is not None
    assert (span.kind, span.parent.span_id) == (SpanKind.SERVER, call.context.span_id)
    figures = told(span)
    assert figures.pop("cleave.queue.seconds") >= 0
    assert figures == {
        "cleave.role": "solver",
        "gen_ai.provider.name": "cleave",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m",
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 7,
        "cleave.model.seconds": 0.5,
        "cleave.batch.requests": 3,
        "cleave.batch.sequences": 6,
    }


@pytest.mark.parametrize("carrier", [None, {}, {"traceparent": "x"}])
async def test_a_handle_passes_on_what_is_carried_and_nothing_else(carrier: dict[str, str] | None) -> None:
    """Without spans a deployment is called as ever, so that it may be of a version that knows none."""
    asked: list[tuple[Any, ...]] = []

    class Method:
        def remote(self, *arguments: Any) -> Any:
            asked.append(arguments)
            return asyncio.sleep(0, Answer(Version(ModelInfo("m")), "reply"))

    class Deployment:
        answer = ask_model = __call__ = Method()

    before = CARRIER.set(carrier)
    handle: Any = ServeHandle("solver", Deployment())  # type: ignore[arg-type]
    with pinned():
        assert await handle("request") == "reply"
    await handle.ask("call")
    CARRIER.reset(before)
    assert asked == [("request", None, *([carrier] if carrier else [])), ("call", *([carrier] if carrier else []))]


# --- no text ---


@pytest.mark.parametrize("strategy", ["static", "stepwise", "dynamic"])
async def test_no_text_key_or_header_is_told(kept: Kept, strategy: str) -> None:
    body = {"question": f"{QUESTION} {SECRET}", "context": f"A passage of {SECRET}.", "strategy": strategy}
    headers = {"Authorization": f"Bearer {SECRET}", "X-Request-Id": f"{SECRET} with spaces", "baggage": f"who={SECRET}"}
    for script in (Script(), Script(fails=GenerationError(f"cannot read {SECRET}; look.")), Script(fails=ValueError(SECRET))):
        async with client(kept.spans, script) as http:
            await http.post(f"/solve?q={SECRET}", json=body, headers=headers)
            await http.post("/solve", json=body | {"stream": True}, headers=headers)
            await http.get(f"/traces/{SECRET}", headers=headers)
    everything = " ".join(span.to_json() for span in kept.memory.get_finished_spans())
    assert "ask solver" in everything or strategy == "dynamic"
    for text in (SECRET, "Tom", "How many", "12 + 7", "The answer", "with spaces", "Traceback"):
        assert text not in everything, text


# --- off ---


def test_only_what_is_loaded_for_spans_imports_opentelemetry() -> None:
    found = {one.file for one in imports_in("serve") if one.top == "opentelemetry"}
    assert found == {f"serve/{name}.py" for name in SPAN_MODULES}
    loaders = {one.file for one in imports_in("serve") if one.module in {f"serve.{name}" for name in SPAN_MODULES} and not one.lazy}
    assert loaders - found == TYPES_ONLY


def test_off_loads_nothing_for_spans() -> None:
    """FastAPI and Ray load OpenTelemetry's API for themselves; its SDK, its exporter and our spans stay unloaded."""
    code = f"""
import asyncio, sys
ours = {{"serve." + name for name in {SPAN_MODULES!r}}}
from tests.serving import QUESTION, Script, client_of

async def ask():
    async with client_of(Script()) as http:
        return (await http.post("/solve", json={{"question": QUESTION}}, headers={{"traceparent": "nonsense"}})).status_code

assert asyncio.run(ask()) == 200
from serve.tracing import carried, spans_of
from cleave.config.serve_tracing import TracingConfig
assert spans_of(TracingConfig()) is None and carried() == ()
assert not {{"opentelemetry.sdk", "opentelemetry.exporter", *ours}} & set(sys.modules)
import serve.app
assert not {{"opentelemetry.exporter.otlp", *ours}} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr


# --- the config ---


@pytest.fixture
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def test_an_exporter_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "serve.spans")
    with pytest.raises(ConfigError, match=r"not installed here; run `pip install -c constraints.txt -e '.\[otel\]'`\.$"):
        spans_of(TracingConfig(endpoint="http://localhost:4318"))


@pytest.mark.usefixtures("_clean")
def test_variables_that_cannot_be_followed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TracingConfig(endpoint_env="OTEL_EXPORTER_OTLP_ENDPOINT")
    with pytest.raises(ConfigError, match=r"\$OTEL_EXPORTER_OTLP_ENDPOINT holds no URL"):
        spans_of(config)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="sent as http/protobuf, not as grpc"):
        spans_of(config)


def test_one_endpoint_is_enough() -> None:
    with pytest.raises(ConfigError, match="keep one of them"):
        validate(ServeArgs, {"tracing": {"endpoint": "http://localhost:4318", "endpoint_env": "X"}}, "the test")
    assert not ServeArgs().tracing.on


@pytest.mark.usefixtures("_clean")
def test_variables_travel_to_the_replicas_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={SECRET}")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert _passed_on(ServeConfig()) == set()
    config = ServeConfig.model_validate({"tracing": {"endpoint_env": "COLLECTOR"}})
    assert _passed_on(config) == {"COLLECTOR", "OTEL_TRACES_SAMPLER"}


# --- a receiver ---


class Receiver:
    """An OTLP receiver in a thread."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                receiver.requests.append(ExportTraceServiceRequest.FromString(body))
                receiver.headers.append(dict(self.headers))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def spans(self) -> list[Any]:
        return [span for each in self.requests for batch in each.resource_spans for scope in batch.scope_spans for span in scope.spans]

    def resources(self) -> list[dict[str, str]]:
        batches = [batch for each in self.requests for batch in each.resource_spans]
        return [{each.key: each.value.string_value for each in batch.resource.attributes} for batch in batches]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.mark.usefixtures("_clean")
async def test_spans_arrive_at_a_receiver_as_the_environment_says(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=tests")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
    spans = spans_of(TracingConfig(endpoint_env="OTEL_EXPORTER_OTLP_ENDPOINT"))
    assert spans is not None
    async with client(spans, Script()) as http:
        await http.post("/solve", json={"question": QUESTION}, headers=SAMPLED)
    spans.close()
    assert {span.trace_id.hex() for span in receiver.spans()} == {TRACE}
    assert {"POST /v1/solve", "plan", "solve", "verify", "vote", "ask solver"} <= {span.name for span in receiver.spans()}
    (resource,) = receiver.resources()
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("cleave", "tests")
    assert receiver.headers[0]["x-tenant"] == "tests"


@pytest.mark.usefixtures("_clean")
@pytest.mark.parametrize(
    ("service_name", "variable", "name"), [("mine", "theirs", "mine"), (None, "theirs", "theirs"), (None, None, "cleave")]
)
def test_whose_spans_they_are(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, service_name: str | None, variable: str | None, name: str
) -> None:
    if variable is not None:
        monkeypatch.setenv("OTEL_SERVICE_NAME", variable)
    spans = spans_of(TracingConfig(endpoint=f"{receiver.url}/", service_name=service_name))
    assert spans is not None
    with spans.problem("static"):
        pass
    spans.close()
    assert [resource["service.name"] for resource in receiver.resources()] == [name]


@pytest.mark.usefixtures("_clean")
async def test_a_disabled_sdk_makes_no_spans(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    spans = spans_of(TracingConfig(endpoint=receiver.url))
    assert spans is not None
    async with client(spans, Script()) as http:
        assert (await http.post("/solve", json={"question": QUESTION})).json()["answer"] == "17"
    spans.close()
    assert receiver.requests == []


@pytest.mark.usefixtures("_clean")
@pytest.mark.parametrize("kind", ["closed", "silent"])
async def test_a_receiver_that_is_not_there_disturbs_nobody(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """`silent`: it takes connections and never replies. The queue is tiny, so that most spans find it full."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    monkeypatch.setattr("serve.spans.CLOSE_S", 0.1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        if kind == "silent":
            closed.listen()
        spans = spans_of(TracingConfig(endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}"))
        assert spans is not None
        async with client(spans, Script()) as http:
            for _ in range(5):
                assert (await http.post("/solve", json={"question": QUESTION})).json()["answer"] == "17"
        spans.close()


# --- a cluster ---


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("_clean")
def test_replicas_continue_the_trace_and_send_what_is_left_when_they_stop(ray_session: None, receiver: Receiver) -> None:
    from ray import serve as ray_serve

    role = {"resources": {"num_cpus": 0.5}}
    roles = {"decomposer": role | {"model": "reference:decomposer"}, "solver": role | {"model": "reference:solver"}}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = ServeConfig.model_validate({"roles": roles, "port": port, "tracing": {"endpoint": receiver.url}})
    try:
        assert main(config, blocking=False) == 0
        headers = SAMPLED | {"X-Request-Id": "follow-me"}
        for more in ({}, {"stream": True}):
            reply = httpx.post(f"http://127.0.0.1:{port}/v1/solve", json={"question": SOLVABLE} | more, headers=headers, timeout=60)
            assert reply.status_code == 200
    finally:
        ray_serve.shutdown()
    end = time.monotonic() + 30
    while {"POST /v1/solve", "decomposer", "solver"} - {span.name for span in receiver.spans()} and time.monotonic() < end:
        time.sleep(0.1)
    spans = {span.span_id: span for span in receiver.spans()}
    for name, above in (("decomposer", "ask decomposer"), ("solver", "ask solver")):
        found = [span for span in spans.values() if span.name == name and span.trace_id.hex() == TRACE]
        assert [spans[span.parent_span_id].name for span in found] == [above] * 2
        figures = [{each.key: each.value for each in span.attributes} for span in found]
        assert all(each["gen_ai.usage.output_tokens"].int_value > 0 for each in figures)
        assert figures[0]["cleave.batch.sequences"].int_value == 1
        assert figures[0]["gen_ai.request.model"].string_value
    roots = [span for span in spans.values() if span.name == "POST /v1/solve" and span.trace_id.hex() == TRACE]
    assert len(roots) == 2
    ids = [each.value.string_value for span in roots for each in span.attributes if each.key == "cleave.request_id"]
    assert ids == ["follow-me"] * 2
    assert not any("Tom" in str(span) for span in spans.values())
