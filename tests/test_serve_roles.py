"""The routes of single roles: scripted ones, and the shipped models in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from actors.decomposer import build_decomposer
from actors.local import LocalHandle
from actors.solver import build_solver
from actors.verifier import build_likelihood
from cleave.config.roles import RoleConfig
from cleave.config.serve import ServeArgs
from cleave.errors import GenerationError
from cleave.roles import Roles, VerifyReply, VerifyRequest
from cleave.types import Failure, ModelInfo, Usage, Verdict
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.model_calls import RoleModel
from serve.service import Service
from serve.token_model import TokenModel
from tests.serving import PLAN, PLAN_COST, QUESTION, Decomposes, Script, Solves, Stage, check_error, client_of

STORY = "Tovan has 24 pens. Mirel has 3 times as many pens as Tovan. How many pens does Mirel have?"
SOLUTIONS = ["1. 24 * 3 = 72\nThe answer is: 72", "no idea"]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def http(script: Script) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(script) as client:
        yield client


class Verifies:
    """Scores the first solution and fails on the others."""

    async def __call__(self, request: VerifyRequest) -> VerifyReply:
        rest = len(request.solutions) - 1
        failure = Failure("GenerationError", "too long; shorten it.", "verifier")
        return VerifyReply((Verdict(0.75, 1.1, (0.9,)), *(None,) * rest), Usage(1, 9), (failure,) * rest)

    async def info(self) -> ModelInfo:
        return ModelInfo("scripted-verifier", "3", parameters=5)


async def test_plans(http: httpx.AsyncClient, script: Script) -> None:
    body = {"question": QUESTION, "n": 2, "temperature": 0.5, "seed": 4, "max_steps": 3, "max_tokens": 50}
    reply = (await http.post("/decompose", json=body)).json()
    assert reply["texts"] == [PLAN, PLAN]
    assert reply["plans"][0] == [
        {"id": 1, "question": "How many in all?", "needs": []},
        {"id": 2, "question": "How many is #1 less 2?", "needs": [1]},
    ]
    assert (reply["seed"], reply["usage"]["completion_tokens"]) == (4, PLAN_COST.completion_tokens)
    (asked,) = script.asked
    assert (asked.sampling.n, asked.sampling.temperature, asked.sampling.max_tokens, asked.max_steps) == (2, 0.5, 50, 3)


async def test_the_same_seed_plans_as_the_chat_with_the_decomposer_does(http: httpx.AsyncClient, script: Script) -> None:
    await http.post("/decompose", json={"question": QUESTION, "temperature": 1, "seed": 4})
    messages = [{"role": "user", "content": QUESTION}]
    await http.post("/chat/completions", json={"model": "decomposer", "messages": messages, "temperature": 1, "seed": 4})
    first, second = script.asked
    assert first == second


async def test_no_plan_at_all_is_an_error(script: Script) -> None:
    script.fails = GenerationError("the model said nothing; look at its log.")
    async with client_of(script) as http:
        check_error(await http.post("/decompose", json={"question": QUESTION}), 502, "generation_failed")


async def test_verdicts_with_what_failed_beside_them(script: Script) -> None:
    stage = Stage()
    stage.script = script
    args = ServeArgs()
    app = create_app(Service(Roles(Decomposes(stage), Solves(stage), Verifies()), args.limits), Catalogue.of(args))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cleave/v1") as http:
        reply = (await http.post("/verify", json={"question": QUESTION, "solutions": SOLUTIONS, "plan": PLAN})).json()
        check_error(
            await http.post("/verify", json={"question": QUESTION, "solutions": SOLUTIONS, "plan": "1. #2?"}),
            400,
            "invalid_request",
            "plan",
        )
    assert reply["verdicts"] == [{"score": 0.75, "raw": 1.1, "step_scores": [0.9], "answer": "72"}, None]
    assert [failure["message"] for failure in reply["failures"]] == ["too long; shorten it."]
    assert reply["model"]["name"] == "scripted-verifier"


async def test_no_opinion_at_all_is_an_error(http: httpx.AsyncClient) -> None:
    check_error(await http.post("/verify", json={"question": QUESTION, "solutions": SOLUTIONS}), 502, "generation_failed")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/decompose", {"question": QUESTION, "n": 65}, "n"),
        ("/decompose", {"question": QUESTION, "max_tokens": 5000}, "max_tokens"),
        ("/verify", {"question": QUESTION, "solutions": []}, "solutions"),
        ("/verify", {"question": QUESTION, "solutions": ["x"] * 65}, "n"),
        ("/drafts", {"prefix": ""}, "prefix"),
        ("/drafts", {"prefix": "x", "k": 33}, "k"),
        ("/drafts", {"prefix": "x", "temperature": 0}, "temperature"),
        ("/drafts", {"prefix": "x", "model": "cleave"}, "model"),
    ],
)
async def test_what_role_routes_refuse(http: httpx.AsyncClient, script: Script, path: str, body: dict[str, Any], param: str) -> None:
    reply = await http.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert script.asked == []


async def test_the_shipped_models() -> None:
    """Plans, likelihoods and drafts; each example of the documentation is answered."""
    roles = {"decomposer": RoleConfig.model_validate("reference:decomposer"), "solver": RoleConfig.model_validate("reference:solver")}
    decomposer, solver = build_decomposer(roles["decomposer"]), build_solver(roles["solver"])
    models: dict[Any, RoleModel] = {"decomposer": TokenModel(decomposer), "solver": TokenModel(solver)}
    cast = Roles(LocalHandle(decomposer), LocalHandle(solver), LocalHandle(build_likelihood(roles["solver"])))
    app = create_app(Service(cast, ServeArgs().limits, models), Catalogue.of(ServeArgs()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cleave/v1", timeout=60) as http:
        (plan,) = (await http.post("/decompose", json={"question": STORY})).json()["plans"]
        assert plan
        reply = (await http.post("/verify", json={"question": STORY, "solutions": [*SOLUTIONS, "1. 24 - 3 = 5\nThe answer is: 5"]})).json()
        scores = [verdict["score"] for verdict in reply["verdicts"]]
        assert all(0 < score < 1 for score in scores)
        assert len(set(scores)) == 3
        assert reply["model"]["name"].startswith("likelihood of")
        drafts = (await http.post("/drafts", json={"prefix": "1. 24 * 3 =", "k": 3, "max_tokens": 4})).json()["drafts"]
        perplexities = [draft["perplexity"] for draft in drafts]
        assert perplexities == sorted(perplexities)
        document = (await http.get("http://cleave/openapi.json")).json()
        for path, methods in document["paths"].items():
            if path.startswith("/v1/batches"):  # off here; tests/test_serve_batches.py
                continue
            for example in examples_of(methods.get("post", {})):
                answered = await http.post(f"http://cleave{path}", json=example)
                assert answered.status_code in (200, 502), f"{path}: {answered.text}"


def examples_of(operation: dict[str, Any]) -> list[Any]:
    """The bodies that the documentation shows; every route with a body in JSON has one."""
    if "application/json" not in (content := operation.get("requestBody", {}).get("content", {})):
        return []
    return [example["value"] for example in content["application/json"]["examples"].values()]
