"""Clients that others wrote, over real connections: the openai package, curl, lm-eval, schemathesis. What they ask, and what they make of
the replies. (The openai package over Ray Serve: test_serve_app.py; its streams: test_serve_stream.py.)

lm-eval and schemathesis have environments of their own, since their pins are not ours: `make peers`.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from actors.local import LocalHandle
from cleave.config.serve import ServeArgs
from cleave.errors import Overloaded
from cleave.roles import Roles, VerifyReply
from cleave.tasks.scoring import final_answer
from cleave.types import Verdict
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.model_calls import Weigh
from serve.service import Service
from tests.listening import listening, scripted
from tests.serving import PLAN_COST, QUESTION, SOLVE_COST, TEXT, Decomposes, Script, Solves, Speaks, Stage

MESSAGES: Any = [{"role": "user", "content": QUESTION}]
CURL = shutil.which("curl")
needs_curl = pytest.mark.skipif(CURL is None, reason="needs curl")


@dataclass
class Busy(Script):
    """Refuses the first calls."""

    refusals: int = 2

    async def hear(self, request: Any) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise Overloaded("the solver has enough to do; try again later.")
        await super().hear(request)


# --- openai ---


def test_openai_tries_again_after_a_429() -> None:
    script = Busy()
    with scripted(script) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2) as client:
        raw = client.chat.completions.with_raw_response.create(model="cleave", messages=MESSAGES)
    assert (raw.retries_taken, raw.parse().choices[0].message.content) == (2, TEXT)


def test_openai_gives_up_with_the_reason() -> None:
    with (
        scripted(Busy(refusals=9)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=1) as client,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        client.chat.completions.create(model="cleave", messages=MESSAGES, stream=True)
    assert (refused.value.code, refused.value.type) == ("overloaded", "rate_limit_error")
    assert "enough to do" in refused.value.message


async def test_many_openai_clients_get_through_two_places() -> None:
    """Whole replies and streams: who finds no place is told when to come back, and does."""
    with scripted(Script(waits_s=0.02), limits={"max_concurrent_requests": 2}) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=8) as client:

            async def whole() -> str | None:
                return (await client.chat.completions.create(model="cleave", messages=MESSAGES)).choices[0].message.content

            async def streamed() -> str:
                chunks = await client.chat.completions.create(model="cleave", messages=MESSAGES, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

            assert set(await asyncio.gather(*(ask() for ask in (whole, streamed) * 3))) == {TEXT}


def test_openai_legacy_completions_and_models() -> None:
    with scripted(Script()) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        completion = client.completions.create(model="cleave", prompt=QUESTION)
        assert (completion.choices[0].text, completion.usage and completion.usage.total_tokens) == (TEXT, (PLAN_COST + SOLVE_COST).tokens)
        assert client.models.retrieve("cleave").owned_by == "cleave"
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="cleave", messages=MESSAGES, presence_penalty=1)
        assert (refused.value.code, refused.value.param) == ("unsupported_field", "presence_penalty")


# --- curl ---


def curl(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CURL or "", "--silent", "--max-time", "20", *arguments, url], capture_output=True, text=True)


def posting(body: Any) -> tuple[str, ...]:
    return ("-H", "Content-Type: application/json", "-d", json.dumps(body))


@needs_curl
def test_curl_asks_as_the_readme_says() -> None:
    with scripted(Script()) as url:
        assert json.loads(curl(f"{url}/v1/solve", *posting({"question": QUESTION})).stdout)["answer"] == "17"
        refused = curl(f"{url}/v1/solve", "--fail-with-body", *posting({"question": ""}))
        assert (refused.returncode, json.loads(refused.stdout)["error"]["code"]) == (22, "empty_question")


@needs_curl
def test_curl_sees_a_stream_to_its_end() -> None:
    with scripted(Script()) as url:
        body = {"model": "cleave", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
        *lines, last = curl(f"{url}/v1/chat/completions", "-N", *posting(body)).stdout.strip().split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert last == "data: [DONE]"
    assert "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]) == TEXT
    assert chunks[-1]["usage"]["total_tokens"] == (PLAN_COST + SOLVE_COST).tokens


@needs_curl
@pytest.mark.parametrize(
    "how", [(), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue")], ids=["length", "chunks", "expect"]
)
def test_curl_is_refused_a_large_file(how: tuple[str, ...], tmp_path: Path) -> None:
    """However it announces the file."""
    (tmp_path / "large.json").write_text(json.dumps({"question": "a" * 3_000_000}))
    script = Script()
    with scripted(script) as url:
        sent = ("-H", "Content-Type: application/json", "--data-binary", f"@{tmp_path}/large.json", *how)
        assert json.loads(curl(f"{url}/v1/solve", *sent).stdout)["error"]["code"] == "request_too_large"
        assert json.loads(curl(f"{url}/v1/solve", *posting({"question": QUESTION})).stdout)["answer"] == "17"
    assert len(script.asked) == 2


# --- lm-eval ---


def environment(root: Path, name: str) -> Path:
    """The programs of a client's own environment, which `make peers` makes."""
    folder = root / "build/venvs" / name / "bin"
    if not (folder / name).exists():
        pytest.skip(f"needs {name} in build/venvs/{name}; `make peers` makes it")
    return folder


@pytest.fixture(scope="module")
def shipped() -> Iterator[str]:
    """The shipped models over HTTP, without Ray."""
    from actors.decomposer import build_decomposer
    from actors.solver import build_solver
    from serve.token_model import TokenModel

    args = ServeArgs()
    decomposer, solver = build_decomposer(args.roles.decomposer), build_solver(args.roles.solver)
    models: Any = {"decomposer": TokenModel(decomposer), "solver": TokenModel(solver)}
    service = Service(Roles(LocalHandle(decomposer), LocalHandle(solver)), args.limits, models)
    with listening(create_app(service, Catalogue.of(args))) as url:
        yield url


def evaluated(root: Path, folder: Path, model: str, task: str, *arguments: str) -> dict[str, Any]:
    """lm-eval's figures of one task."""
    command = [environment(root, "lm-eval") / "lm-eval", "run", "--model", model, "--tasks", task, "--include_path", "tests/lm_eval"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "OPENAI_API_KEY": "none", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output_path", folder, *arguments], cwd=root, env={**os.environ, **offline}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = folder.rglob("results*.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["results"][task]
    return found


def problems(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "tests/lm_eval/problems.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_lm_eval_scores_a_composed_pipeline_by_what_it_writes(root: Path, tmp_path: Path, shipped: str) -> None:
    arguments = f"base_url={shipped}/v1/chat/completions,model=cleave,num_concurrent=2,max_retries=1"
    found = evaluated(root, tmp_path, "local-chat-completions", "cleave_written", "--model_args", arguments, "--apply_chat_template")
    with openai.OpenAI(base_url=f"{shipped}/v1", api_key="none") as client:

        def right(problem: dict[str, Any]) -> bool:
            messages: Any = [{"role": "user", "content": problem["question"]}]
            text = client.chat.completions.create(model="cleave", messages=messages).choices[0].message.content
            return final_answer(text or "") == problem["answer"]

        rights = [right(problem) for problem in problems(root)]
    assert found["exact_match,final"] == pytest.approx(sum(rights) / len(rights))


@pytest.mark.slow
def test_lm_eval_scores_a_role_by_likelihood(root: Path, tmp_path: Path, shipped: str) -> None:
    """With the tokenizer that the server offers, token ids as prompts, and both answers' log-probabilities."""
    arguments = f"base_url={shipped}/v1/completions,model=solver,num_concurrent=1,max_retries=1,tokenizer_backend=remote"
    found = evaluated(root, tmp_path, "local-completions", "cleave_chosen", "--model_args", arguments)
    with openai.OpenAI(base_url=f"{shipped}/v1", api_key="none") as client:

        def likelihood(prompt: str, choice: str) -> float:
            """Of the choice: that of the whole text less that of its beginning."""
            reply = client.completions.create(model="solver", prompt=prompt + choice, max_tokens=0, echo=True, logprobs=1)
            logprobs = reply.choices[0].logprobs
            assert logprobs is not None
            places = zip(logprobs.text_offset or [], logprobs.token_logprobs or [], strict=True)
            return math.fsum(value for offset, value in places if offset >= len(prompt) and value is not None)

        def right(problem: dict[str, Any]) -> bool:
            scores = [likelihood(f"Question: {problem['question']}\nAnswer:", "\n" + choice) for choice in problem["choices"]]
            return scores.index(max(scores)) == problem["label"]

        rights = [right(problem) for problem in problems(root)]
    assert found["acc,none"] == pytest.approx(sum(rights) / len(rights))


@pytest.mark.slow
def test_lm_eval_is_told_that_a_pipeline_has_no_likelihood(root: Path, tmp_path: Path, shipped: str) -> None:
    """Refused, where any number would be a wrong one."""
    arguments = f"base_url={shipped}/v1/completions,model=cleave,num_concurrent=1,max_retries=1,tokenizer_backend=remote"
    with pytest.raises(AssertionError, match="400 Client Error"):
        evaluated(root, tmp_path, "local-completions", "cleave_chosen", "--model_args", arguments)


# --- schemathesis ---


class Weighs(Speaks):
    """A scripted model that also has an opinion."""

    async def ask(self, call: Any) -> Any:
        if isinstance(call, Weigh):
            return VerifyReply(tuple(Verdict(0.5) for _ in call.request.solutions))
        return await super().ask(call)


def sound_application() -> FastAPI:
    """Roles that never fail, so that whatever does is the server."""
    args, stage = ServeArgs(), Stage()
    stage.script = Script(plan="1. How many in all?")  # within every max_steps
    solver = Solves(stage)
    return create_app(Service(Roles(Decomposes(stage), solver), args.limits, {"solver": Weighs(solver)}), Catalogue.of(args))


@pytest.mark.slow
def test_schemathesis_finds_no_failure_of_the_server(root: Path, tmp_path: Path) -> None:
    program = environment(root, "schemathesis") / "schemathesis"
    with listening(sound_application()) as url:
        assert httpx.get(f"{url}/openapi.json", timeout=60).status_code == 200
        checks = ["--checks", "not_a_server_error,content_type_conformance", "--max-examples", "20", "--seed", "1", "--workers", "1"]
        command = [program, "run", f"{url}/openapi.json", *checks, "--request-timeout", "20", "--phases", "examples,coverage,fuzzing"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
