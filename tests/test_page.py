"""The page in a real browser, over scripted roles. `python -m tests.test_page` makes docs/page.png anew."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from cleave.config.serve import ServeArgs
from cleave.roles import Roles, SolveRequest, VerifyReply, VerifyRequest
from cleave.types import ModelInfo, Usage, Verdict
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.keys import KeyRing, entry, parse
from serve.ledger import LocalLedger
from serve.page_routes import FILE, policy
from serve.service import Service
from tests.browser import Page, browsing, installed
from tests.serving import PLAN, Decomposes, Script, Solves, Speaks, Stage, application, client_of

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "page.png"
QUESTION = (
    "Ann packs 3 boxes of 24 pens, Tovan packs 2 boxes of 10 pens. 4 friends share all of them equally. How many pens does each friend get?"
)
LONG_PLAN = "1. How many pens does Ann pack?\n2. How many pens does Tovan pack?\n3. How much is #1 + #2?\n4. How much is #3 / 4?"
WORK = {1: ("3 * 24 = 72", "72"), 2: ("2 * 10 = 20", "20"), 3: ("72 + 20 = 92", "92"), 4: ("92 / 4 = 23", "23")}
EVIL = "<img src=x onerror=\"document.title='owned'\"><b>9</b>"


class Verifies:
    """Scores that fall from one solution to the next."""

    async def __call__(self, request: VerifyRequest) -> VerifyReply:
        scores = [0.93 - 0.2 * i for i, _ in enumerate(request.solutions)]
        return VerifyReply(tuple(Verdict(score, score, (0.99, 0.97, 0.96, score)) for score in scores), Usage(1, 60, 4, price=0.0001))

    async def info(self) -> ModelInfo:
        return ModelInfo("scripted-verifier", "3", parameters=5)


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The application under uvicorn in a thread; its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def scripted(script: Script, keys: bool = False, **args: Any) -> FastAPI:
    """An application of its own, with a verifier."""
    config, stage = ServeArgs.model_validate(args), Stage()
    stage.script = script
    solver = Solves(stage)
    service = Service(Roles(Decomposes(stage), solver, Verifies()), config.limits, {"solver": Speaks(solver)})
    if not keys:
        return create_app(service, Catalogue.of(config))
    return create_app(service, Catalogue.of(config), KeyRing(parse(entry("alice", "sk-good"), "test")), LocalLedger(config))


def pens(request: SolveRequest, sample: int) -> str:
    """Right, but for every third sample, and for answers without work."""
    if request.mode == "answer":
        return "The answer is: 18"
    last = WORK[4] if sample % 3 != 2 else ("20 / 4 = 5", "5")
    steps = [*(WORK[i] for i in (1, 2, 3)), last]
    return "\n".join(f"{i}. {text}" for i, (text, _) in enumerate(steps, start=1)) + f"\nThe answer is: {last[1]}"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    browser.size(1200, 900)
    browser.errors.clear()
    yield browser
    assert browser.errors == []


def set_value(page: Page, element: str, value: str) -> None:
    events = "e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change'))"
    page.run(f"((e) => {{ e.value = {json.dumps(value)}; {events}; }})({element})")


def ask(page: Page, question: str = QUESTION) -> None:
    set_value(page, "$('question')", question)
    page.run("$('ask').click()")


def shown(page: Page, name: str, pane: int = 0) -> str | None:
    """What a pane shows under a name."""
    found: str | None = page.run(f"panes[{pane}].card.querySelector('[data-name={name}]')?.textContent ?? null")
    return found


def wait_for_answer(page: Page, pane: int = 0) -> None:
    page.wait_for(f"!panes[{pane}].running && panes[{pane}].card.querySelector('[data-name=answer]')")


# --- what is sent ---


async def test_the_page_allows_itself_nothing_but_its_own_script_and_server() -> None:
    async with client_of(Script()) as http:
        reply = await http.get("http://cleave/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    rules = dict(rule.split(" ", 1) for rule in reply.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["connect-src"] == "'self'"
    (script,) = re.findall("<script>(.*?)</script>", reply.text, re.DOTALL)
    assert rules["script-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    assert "unsafe" not in reply.headers["content-security-policy"]


def test_the_page_is_one_file_and_parses_nothing_that_a_model_wrote() -> None:
    text = FILE.read_text("utf-8")
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"'](?!data:)", text)
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|localStorage|sessionStorage|cookie", text
    )
    assert not re.findall(r"\son\w+=", text)
    assert policy(text).count("sha256-") == 2


async def test_the_page_needs_no_key_and_its_requests_do() -> None:
    app = scripted(Script(), keys=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cleave") as http:
        assert (await http.get("/")).status_code == 200
        assert (await http.get("/v1/models")).status_code == 401


# --- in a browser ---


@pytest.mark.browser
@pytest.mark.skipif(installed() is None, reason="Chromium is not installed; apt-get install chromium")
class TestInChromium:
    def test_a_plan_grows_and_is_answered(self, page: Page) -> None:
        script = Script(text=pens, plan=LONG_PLAN, pauses_s=0.005)
        with running(scripted(script)) as url:
            page.open(url)
            page.wait_for("ways[0].model.options.length > 1")
            ask(page)
            page.wait_for("panes[0].card.querySelectorAll('.tree > li').length === 4")
            page.wait_for("panes[0].running && panes[0].text.length > 10")
            wait_for_answer(page)
            assert shown(page, "answer") == "23"
            assert page.run("[...panes[0].card.querySelectorAll('.done .got')].map((e) => e.textContent)") == ["72", "20", "92", "23"]
            assert page.run("[...panes[0].card.querySelectorAll('.ref')].map((e) => e.textContent)") == ["#1 = 72", "#2 = 20", "#3 = 92"]
            assert page.run("panes[0].card.querySelector('.answer').textContent").endswith("confidence 93 %")
            assert (shown(page, "tokens"), shown(page, "price"), shown(page, "calls")) == ("106", "0.75", "3")
            assert page.run("$('status').textContent") == "The answer is 23, confidence 93 %."

    def test_steps_show_when_they_are_asked(self, page: Page) -> None:
        with running(scripted(Script(waits_s=0.15))) as url:
            page.open(url)
            page.wait_for("ways[0].model.options.length > 1")
            set_value(page, "ways[0].model", "cleave-stepwise")
            ask(page)
            page.wait_for("panes[0].card.querySelector('.asked .dot')?.textContent === '1'")
            page.wait_for("panes[0].card.querySelector('.done .dot')?.textContent === '1'")
            wait_for_answer(page)
            assert page.run("[...panes[0].card.querySelectorAll('.got')].map((e) => e.textContent)") == ["10", "20"]

    def test_samples_are_chosen_among_and_looked_at(self, page: Page) -> None:
        with running(scripted(Script(text=pens, plan=LONG_PLAN))) as url:
            page.open(url)
            page.wait_for("ways[0].model.options.length > 1")
            set_value(page, "ways[0].samples", "3")
            assert page.run("[ways[0].temperature.value, ways[0].selection.value]") == ["0.7", "majority"]
            ask(page)
            wait_for_answer(page)
            chips = "[...panes[0].card.querySelectorAll('.samples button')]"
            assert page.run(f"{chips}.map((e) => e.textContent)") == ["23 0.93", "23 0.73", "5 0.53"]
            page.run(f"{chips}[2].click()")
            page.wait_for("panes[0].card.querySelector('.tree > li:last-child .got').textContent === '5'")
            assert shown(page, "answer") == "23"

    def test_an_edited_plan_is_solved_again(self, page: Page) -> None:
        script = Script(plan=PLAN)
        with running(scripted(script)) as url:
            page.open(url)
            ask(page)
            wait_for_answer(page)
            page.run("panes[0].card.querySelector('[data-name=edit]').click()")
            page.wait_for("document.activeElement.dataset.name === 'line-0'")
            set_value(page, "panes[0].card.querySelector('[data-name=line-1]')", "How many is #1 less\n3?")
            page.run("panes[0].card.querySelector('[data-name=again]').click()")
            page.wait_for("panes[0].trace && panes[0].body.plan")
            wait_for_answer(page)
            asked = script.solved[-1].plan
            assert asked is not None
            assert asked.text == "1. How many in all?\n2. How many is #1 less 3?"
            assert "before: 17 (106 tokens)" in page.run("panes[0].card.innerText")
            assert page.run("panes[0].trace.models.decomposer.name") == "given"

    def test_two_ways_side_by_side(self, page: Page) -> None:
        with running(scripted(Script())) as url:
            page.open(url)
            page.wait_for("ways[0].model.options.length > 1")
            page.run("$('compare').click()")
            set_value(page, "ways[1].model", "cleave-stepwise")
            ask(page)
            page.wait_for("!$('verdict').hidden")
            assert (shown(page, "answer", 0), shown(page, "answer", 1)) == ("17", "20")
            assert page.run("$('verdict').textContent").startswith("A says 17, B says 20. B took 1.3 times the tokens")
            left, right = (page.run(f"panes[{i}].card.getBoundingClientRect().left") for i in (0, 1))
            assert right > left + 300
            page.size(390, 800, phone=True)
            left, right = (page.run(f"panes[{i}].card.getBoundingClientRect().left") for i in (0, 1))
            assert right == left
            assert page.run("document.documentElement.scrollWidth") <= 390

    def test_the_keyboard_is_enough(self, page: Page) -> None:
        script = Script(waits_s=30)
        with running(scripted(script)) as url:
            page.open(url)
            page.run("$('question').focus()")
            page.write(QUESTION)
            page.press("Enter", control=True)
            page.wait_for("panes[0].running")
            page.press("Escape")
            page.wait_for("panes[0].stopped && !panes[0].running")
            end = time.monotonic() + 30
            while not script.cancelled:
                assert time.monotonic() < end, "stopping does not reach the roles"
                time.sleep(0.02)

    def test_what_models_write_is_text(self, page: Page) -> None:
        text = f"1. {EVIL} = 9\n2. 9\nThe answer is: {EVIL}"
        with running(scripted(Script(text=lambda request, sample: text, plan=f"1. How many {EVIL}?\n2. And #1?"))) as url:
            page.open(url)
            ask(page)
            wait_for_answer(page)
            assert EVIL in (shown(page, "answer") or "")
            assert EVIL in page.run("panes[0].card.querySelector('.tree').innerText")
            assert page.run("document.title") == "Cleave"
            assert page.run("panes[0].card.querySelectorAll('img, b').length") == 0

    def test_keys_are_asked_for_kept_in_memory_and_not_copied(self, page: Page) -> None:
        with running(scripted(Script(), keys=True)) as url:
            page.open(url)
            ask(page)
            page.wait_for("panes[0].problem?.startsWith('this server needs a key')")
            assert page.run("document.activeElement.id") == "key"
            set_value(page, "$('key')", "sk-good")
            page.wait_for("ways[0].model.options.length > 1")
            ask(page, "Tom's 3 pens?")
            wait_for_answer(page)
            command = page.run("curl(panes[0].body)")
            assert command.startswith(f"curl -s '{url}v1/solve' -H \"Authorization: Bearer $CLEAVE_API_KEY\"")
            assert r"Tom'\''s 3 pens?" in command
            assert "sk-good" not in command
            page.open(url)
            assert page.run("$('key').value") == ""
            assert page.run("document.cookie + localStorage.length + sessionStorage.length") == "00"

    def test_failures_are_told(self, page: Page) -> None:
        with running(scripted(Script(text=lambda request, sample: "I do not know"))) as url:
            page.open(url)
            ask(page)
            page.wait_for("panes[0].card.querySelector('.problem')?.textContent.includes('final answer')")
            set_value(page, "ways[0].samples", "999")
            ask(page)
            page.wait_for("panes[0].card.querySelector('.problem')?.textContent.includes('ask for at most 64')")

    def test_light_and_dark(self, page: Page) -> None:
        app, stage = application("{}")
        stage.script = Script()
        with running(app) as url:
            page.open(url)
            for scheme, dark in (("light", False), ("dark", True)):
                page.colours(scheme)
                colour = page.run("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, re.findall(r"\d+", colour))) < 3 * 128) is dark


def photograph(path: Path) -> None:
    """The page as the documentation shows it."""
    script = Script(text=pens, plan=LONG_PLAN)
    with tempfile.TemporaryDirectory() as profile, browsing(Path(profile)) as page, running(scripted(script)) as url:
        page.size(1200, 860, scale=1.25)
        page.colours("light")
        page.open(url)
        page.wait_for("ways[0].model.options.length > 1")
        page.run("$('compare').click()")
        set_value(page, "ways[0].model", "cleave-static")
        set_value(page, "ways[0].samples", "3")
        set_value(page, "ways[1].model", "cleave-direct")
        ask(page)
        page.wait_for("!$('verdict').hidden")
        page.photograph(path)


if __name__ == "__main__":
    photograph(PICTURE)
