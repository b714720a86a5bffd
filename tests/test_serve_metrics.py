"""What is told of requests: to an observer, to Prometheus through Ray's exporter, to the dashboard's queries, to the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from typing import Any

import httpx
import pytest

from cleave.config.serve import ServeArgs
from cleave.deferral import DELAY_S
from cleave.errors import GenerationError
from cleave.roles import Roles, SolveReply
from cleave.types import Failure, ModelInfo, Problem, Trace, Usage, Verdict
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.event_log import EventLog, log_call
from serve.observer import Later, Observer, Observers
from serve.service import Service
from tests.conftest import ROOT
from tests.serving import QUESTION, Decomposes, Script, Solves, Speaks, Stage

DASHBOARD = ROOT / "cluster" / "grafana" / "serve.json"


class Notes(Observer):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, int]] = []
        self.work: list[int] = []
        self.first: list[float] = []
        self.traces: list[tuple[Trace, int]] = []

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((method, route, status))

    def at_work(self, requests: int) -> None:
        self.work.append(requests)

    def first_text(self, seconds: float) -> None:
        self.first.append(seconds)

    def answered(self, trace: Trace, rejected_plans: int) -> None:
        self.traces.append((trace, rejected_plans))


@pytest.fixture
def notes() -> Notes:
    return Notes()


async def test_a_reply_does_not_wait_for_who_is_told_later(notes: Notes) -> None:
    later, trace = Later(notes), Trace(Problem("p", "How many?"), "static", answer="1")
    later.at_work(1)
    later.first_text(0.5)
    later.answered(trace, 2)
    later.at_work(0)
    later.request("POST", "/v1/solve", 200, 0.1)
    assert (notes.work, notes.first, notes.traces, notes.requests) == ([], [], [], [])
    await asyncio.sleep(2 * DELAY_S)
    assert (notes.work, notes.first, notes.traces, notes.requests) == ([1, 0], [0.5], [(trace, 2)], [("POST", "/v1/solve", 200)])


def client(notes: Notes, script: Script) -> httpx.AsyncClient:
    config, stage = ServeArgs(), Stage()
    stage.script = script
    solver = Solves(stage)
    service = Service(Roles(Decomposes(stage), solver), config.limits, {"solver": Speaks(solver)}, observer=Observers((notes, Observer())))
    app = create_app(service, Catalogue.of(config))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://cleave")


async def test_every_request_is_told_once_by_its_template(notes: Notes) -> None:
    async with client(notes, Script()) as http:
        await http.get("/health")
        await http.post("/v1/solve", json={"question": QUESTION})
        await http.post("/v1/solve", json={"question": ""})
        await http.get("/v1/traces/some-id")
        await http.get("/nothing/here")
    assert notes.requests == [
        ("GET", "/health", 200),
        ("POST", "/v1/solve", 200),
        ("POST", "/v1/solve", 400),
        ("GET", "/v1/traces/{name}", 404),
        ("GET", "none", 404),
    ]
    assert notes.work == [1, 0]


async def test_a_bug_is_told_as_500(notes: Notes) -> None:
    async with client(notes, Script(fails=ZeroDivisionError())) as http:
        await http.post("/v1/solve", json={"question": QUESTION})
    assert notes.requests == [("POST", "/v1/solve", 500)]
    assert notes.work == [1, 0]


async def test_traces_are_told_with_refused_plans(notes: Notes) -> None:
    async with client(notes, Script()) as http:
        await http.post("/v1/solve", json={"question": QUESTION})
    async with client(notes, Script(plan="1. One?\n2. Two?")) as http:
        await http.post("/v1/solve", json={"question": QUESTION, "max_steps": 1})
    (good, none), (bad, one) = notes.traces
    assert (good.answer, none) == ("17", 0)
    assert bad.error is not None
    assert (bad.error.type, one) == ("ParseError", 1)


async def test_the_first_text_is_told_of_streams_only(notes: Notes) -> None:
    body = {"question": QUESTION}
    async with client(notes, Script()) as http:
        await http.post("/v1/solve", json=body)
        assert notes.first == []
        await http.post("/v1/solve", json=body | {"stream": True})
        await http.post("/v1/solve", json=body | {"stream": True, "strategy": "stepwise"})
        assert len(notes.first) == 2
        chat = {"model": "solver", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
        await http.post("/v1/chat/completions", json=chat)
        assert len(notes.first) == 3
    async with client(notes, Script(fails=GenerationError("nothing; look."))) as http:
        await http.post("/v1/solve", json=body | {"stream": True})
    assert len(notes.first) == 3


# --- the log ---


def test_log_lines_have_figures_and_no_texts(caplog: pytest.LogCaptureFixture) -> None:
    trace = a_trace()
    with caplog.at_level(logging.INFO, "ray.serve.cleave"):
        EventLog().request("POST", "/v1/solve", 200, 0.25)
        EventLog().answered(trace, 1)
        log_call("solver", SolveReply((), Usage(1, 20, 7)), 0.5)
        log_call("solver", GenerationError("the model said nothing; look."), 0.5)
    request, problem, call, failed = caplog.records
    assert (request.msg, request.template, request.status) == ("request", "/v1/solve", 200)  # type: ignore[attr-defined]
    told = vars(problem)
    assert (told["tokens"], told["price"], told["error"], told["rejected_plans"]) == (62, 0.5, "BudgetExceeded", 1)
    assert (vars(call)["tokens"], vars(failed)["error"]) == (27, "GenerationError")
    assert QUESTION not in repr([vars(record) for record in caplog.records])


def a_trace() -> Trace:
    return Trace(
        Problem("p", QUESTION),
        "static",
        verdicts=(Verdict(0.8, 1.0), None),
        answer="17",
        confidence=0.9,
        usage={"solver": Usage(1, 50, 12, price=0.5)},
        models={"solver": ModelInfo("m")},
        timings={"solve": 0.2, "total": 0.3},
        error=Failure("BudgetExceeded", "stopped; ask for less."),
    )


# --- Prometheus ---


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_is_well_formed() -> None:
    board = json.loads(DASHBOARD.read_text("utf-8"))
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) >= 12
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == len(ids)
    for query in queries():
        assert all(query.count(a) == query.count(b) for a, b in ("()", "[]", "{}")), query


@pytest.mark.ray
def test_every_metric_is_exported_and_the_dashboard_asks_for_no_other(ray_session: None) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Replica:
        def work(self, trace: Trace) -> None:
            from actors.host import HostMetrics
            from serve.metrics import Metrics

            self.metrics, self.host = Metrics(), HostMetrics("solver", "m")
            self.metrics.request("POST", "/v1/solve", 200, 0.1)
            self.metrics.at_work(2)
            self.metrics.first_text(0.1)
            self.metrics.answered(trace, 1)
            self.metrics.answered(abstained(), 0)
            self.host.call("ok", 0.1)
            self.host.batch(1, 2)
            self.host.tokens(1, 1)
            self.host.waiting(0)

    replica: Any = Replica.remote()
    ray.get(replica.work.remote(a_trace()))
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    asked = {name for query in queries() for name in re.findall(r"ray_cleave_\w+", query)}
    end, exported = time.monotonic() + 60, set[str]()
    while not asked <= exported:
        assert time.monotonic() < end, f"not exported: {asked - exported}"
        time.sleep(0.2)
        exported = set(re.findall(r"^(ray_cleave_\w+)\{", httpx.get(url, trust_env=False).text, re.MULTILINE))
    text = httpx.get(url, trust_env=False).text
    assert 50 in values(text, "ray_cleave_serve_tokens_total", role="solver", kind="prompt")
    assert 1 in values(text, "ray_cleave_serve_budget_stops_total")
    assert 1 in values(text, "ray_cleave_serve_abstentions_total")
    assert 1 in values(text, "ray_cleave_serve_problems_total", outcome="ok", strategy="static")
    assert 1 in values(text, "ray_cleave_serve_verifier_score_count")
    families = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in exported if name.startswith("ray_cleave_serve_")}
    shown = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in asked}
    assert families <= shown


def abstained() -> Trace:
    return Trace(Problem("q", QUESTION), "single", error=Failure("Abstained", "too unsure; lower it."))


def values(text: str, name: str, **labels: str) -> list[float]:
    """The samples of this name with these labels, of all processes: other tests share the cluster."""
    lines = re.findall(rf"^{name}\{{(.*?)\}} (\S+)$", text, re.MULTILINE)
    return [float(number) for inside, number in lines if all(f'{key}="{word}"' in inside for key, word in labels.items())]
