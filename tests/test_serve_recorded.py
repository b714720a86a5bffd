"""What a promotion is judged by beside problems with known answers: recorded requests, a shadow of live ones, failures afterwards."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import httpx
import pytest

from cleave.agreement import Agreement
from cleave.comparison import Limits
from cleave.config.serve import ServeArgs
from cleave.errors import ConfigError, RoleUnavailable
from cleave.roles import Roles
from cleave.types import Failure, ModelInfo, Problem, Trace
from serve import promote as promoting
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.ledger import LocalLedger
from serve.promote import demoted, promote, promoted, watch, watching
from serve.recorded import Replay, replay
from serve.service import Service
from serve.tally import Tally, label, share_failed
from tests.serving import TEXT, Decomposes, Script, Solves, Speaks, Stage, chat

OLD = ModelInfo("scripted-solver", "7")
OTHER_TEXT = TEXT.replace("17", "18")


def trace_of(answer: str | None, seconds: float = 1.0, **fields: Any) -> Trace:
    return Trace(Problem("p", "How many?"), "static", answer=answer, timings={"total": seconds}, **fields)


# --- agreement ---


def test_agreement_counts_answers_and_costs() -> None:
    agreement = Agreement()
    for old, new in (("1", "1.0"), ("1", "2"), ("1", None), (None, "1"), (None, None)):
        agreement.add(trace_of(old, 1.0), trace_of(new, 3.0))
    assert (agreement.n, agreement.same, agreement.changed, agreement.lost, agreement.won, agreement.neither) == (5, 1, 1, 1, 1, 1)
    assert (agreement.lost_share, agreement.changed_share) == (0.2, 0.4)
    assert (agreement.seconds("old"), agreement.seconds("new")) == (1.0, 3.0)
    assert [(pair["old"], pair["new"]) for pair in agreement.as_dict()["differing"]] == [("1", "2"), ("1", None)]
    agreement.show()
    assert math.isnan(Agreement().changed_share)
    Agreement().show()


def test_limits_on_requests() -> None:
    agreement = Agreement()
    for new in ("1", "1", "2", None):
        agreement.add(trace_of("1"), trace_of(new))
    assert Limits(max_changed=0.5, max_nfr=0.25).broken_by_agreement(agreement) == []
    changed, lost = Limits(max_changed=0.4).broken_by_agreement(agreement), Limits(max_nfr=0.2).broken_by_agreement(agreement)
    assert ("50.0 % of the requests have another answer" in changed[0], "25.0 %" in lost[0]) == (True, True)
    assert Limits(max_changed=0.0, max_nfr=0.0).broken_by_agreement(Agreement()) == []


# --- recorded requests and the shadow ---


class Application:
    """One that remembers its requests, over scripted roles."""

    def __init__(self, script: Script) -> None:
        args = ServeArgs.model_validate({"traces": {"max_traces": 100}})
        self.ledger = LocalLedger(args)
        service = Service(cast_of(script), args.limits, {"solver": Speaks(Solves(stage_of(script)))}, self.ledger)
        app = create_app(service, Catalogue.of(args))
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cleave/v1")


def stage_of(script: Script) -> Stage:
    stage = Stage()
    stage.script = script
    return stage


def cast_of(script: Script) -> Roles:
    stage = stage_of(script)
    return Roles(Decomposes(stage), Solves(stage))


async def test_recorded_requests_are_asked_again_as_they_were() -> None:
    live, candidate = Script(), Script()
    application = Application(live)
    await application.http.post("/solve", json={"question": "Long ago?"})
    await application.http.post("/chat/completions", json=chat("A?", n=2, samples=3, temperature=0.5, seed=4, max_tokens=9, min_p=0.1))
    await application.http.post("/solve", json={"question": "B?", "strategy": "stepwise", "plan": "1. Given?"})
    await application.http.post("/completions", json={"model": "cleave-single", "prompt": "C?"})
    before = live.solved[1:]
    candidate.text = lambda request, sample: OTHER_TEXT if request.problem.question == "C?" else TEXT
    agreement = await replay(application.ledger, Replay(recorded=3), "solver", OLD, cast_of(candidate))
    assert (agreement.same, agreement.changed, agreement.n) == (3, 1, 4)
    assert sorted(map(repr, candidate.solved)) == sorted(map(repr, before))
    assert len([each for each in candidate.asked if each not in candidate.solved]) == 2  # no plan for the given plan's request


async def test_what_another_version_answered_is_left_out() -> None:
    application, candidate = Application(Script()), Script()
    await application.http.post("/solve", json={"question": "A?"})
    agreement = await replay(application.ledger, Replay(recorded=9), "solver", replace(OLD, revision="8"), cast_of(candidate))
    assert (agreement.n, candidate.asked) == (0, [])


async def test_a_shadow_copies_a_share_of_what_comes_and_nobody_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.recorded.POLL_S", 0.02)
    live, candidate = Script(), Script(text=lambda *_: "I do not know")
    application = Application(live)
    await application.http.post("/solve", json={"question": "Before?"})
    shadow = asyncio.create_task(replay(application.ledger, Replay(shadow=0.5, seconds=1.0), "solver", OLD, cast_of(candidate)))
    await asyncio.sleep(0.05)
    replies = [await application.http.post("/solve", json={"question": f"{i}?"}) for i in range(40)]
    agreement = await shadow
    assert {reply.json()["answer"] for reply in replies} == {"17"}
    assert 10 <= agreement.lost == agreement.n <= 30
    assert len(live.solved) == 41
    assert "Before?" not in {request.problem.question for request in candidate.solved}


async def test_requests_that_come_too_fast_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.recorded.POLL_S", 0.02)
    monkeypatch.setattr("serve.recorded.MOST_WAITING", 2)
    application = Application(Script())
    shadow = asyncio.create_task(replay(application.ledger, Replay(shadow=1, seconds=0.5), "solver", OLD, cast_of(Script(waits_s=0.3))))
    await asyncio.sleep(0.1)
    for i in range(10):
        await application.http.post("/solve", json={"question": f"{i}?"})
    assert 2 <= (await shadow).n < 10


# --- failures by version, and the way back ---


def failed(kind: str) -> Trace:
    return trace_of(None, models={"solver": OLD}, error=Failure(kind, "no", "solver"))


async def test_failures_of_the_server_are_counted_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.tally.FLUSH_S", 0.01)
    ledger = LocalLedger(ServeArgs())
    tally = Tally(ledger)
    for trace in (trace_of("1", models={"solver": OLD}), failed("GenerationError"), failed("BudgetExceeded"), failed("Abstained")):
        tally.answered(trace, 0)
    tally.answered(trace_of(None, error=Failure("RoleUnavailable", "away")), 0)  # nobody could say which version
    tally.answered(trace_of(None, models={"solver": replace(OLD, revision="8")}, error=Failure("ParseError", "?")), 0)
    task = asyncio.create_task(tally.run())
    while not await ledger.tallies():
        await asyncio.sleep(0.01)
    task.cancel()
    assert share_failed(await ledger.tallies(), "solver", label(OLD)) == (5, 0.4)
    assert share_failed({}, "solver", label(OLD)) == (0, 0.0)


async def test_counts_wait_for_a_ledger_that_is_away() -> None:
    class Away(LocalLedger):
        async def tally(self, counts: Any) -> None:
            raise RoleUnavailable("away; try again later.")

    args = ServeArgs()
    tally = Tally(Away(args))
    tally.answered(failed("GenerationError"), 0)
    await tally._flush()
    tally._ledger = LocalLedger(args)
    await tally._flush()
    assert share_failed(await tally._ledger.tallies(), "solver", label(OLD)) == (1, 1.0)


class Runs:
    """An application that runs: what it is replaced with, and how its problems fare."""

    def __init__(self, args: ServeArgs, failures: int, problems: int) -> None:
        self.args, self.replaced = args, list[ServeArgs]()
        self.counts = {("solver", label(OLD), True): failures, ("solver", label(OLD), False): problems - failures}

    def ledger(self) -> Any:
        ledger = LocalLedger(self.args)
        ledger._counts.update(self.counts)
        return ledger

    def replace(self, args: ServeArgs) -> None:
        self.replaced.append(args)
        self.args = args


@pytest.mark.parametrize(("failures", "problems", "goes_back"), [(3, 20, True), (1, 20, False), (19, 19, False), (0, 0, False)])
def test_too_many_failures_take_the_way_back(monkeypatch: pytest.MonkeyPatch, failures: int, problems: int, goes_back: bool) -> None:
    monkeypatch.setattr("serve.promote.LOOK_S", 0.01)
    before = ServeArgs()
    args = watching(promoted(before, "solver", "hf:new"), 0.05)
    runs: Any = Runs(args, failures, problems)
    assert watch(runs, "solver", OLD) == int(goes_back)
    assert runs.replaced == ([demoted(args, "solver")] if goes_back else [])
    assert (runs.args.roles.solver == before.roles.solver) == goes_back


def test_an_application_that_is_watched_has_a_ledger() -> None:
    assert not ServeArgs().needs_ledger
    assert watching(ServeArgs(), 60).needs_ledger
    assert watching(ServeArgs.model_validate({"upgrades": {"watch_s": 5}}), None).upgrades.watch_s == 5


@pytest.mark.parametrize(
    ("limits", "wanted", "sentence"),
    [
        (Limits(), Replay(), "nothing is compared"),
        (Limits(max_nfr=0.02, min_gain=0.0), Replay(recorded=5), "--max-changed"),
        (Limits(max_changed=0.1), Replay(shadow=0.1), "--minutes"),
    ],
)
def test_a_promotion_without_a_judgement_is_refused(limits: Limits, wanted: Replay, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promoting, "join", lambda *_: pytest.fail("nothing is reached"))
    with pytest.raises(ConfigError, match=sentence):
        promote("solver", "hf:new", [], limits, application="a", address="auto", wanted=wanted)
