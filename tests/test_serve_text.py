"""Plain text completions, tokens and likelihoods of a role's model: the shipped solver in this process, and scripted roles."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from actors.decomposer import build_decomposer
from actors.local import LocalHandle
from actors.solver import Solver, build_solver
from cleave.config.roles import RoleConfig
from cleave.config.serve import ServeArgs
from cleave.lm.huggingface import HuggingFaceModel
from cleave.roles import Roles
from cleave.types import Prompt
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.model_calls import RoleModel
from serve.service import Service
from serve.token_model import TokenModel
from tests.serving import PLAN_COST, QUESTION, SOLVE_COST, TEXT, Script, chat, check_error, client_of

STORY = "Tovan has 24 pens. Mirel has 3 times as many pens as Tovan. How many pens does Mirel have?"
TEXT_OF_ROLE = "1. 24 * 3 = 72\nThe answer is: 72"


@pytest.fixture(scope="module")
def solver() -> Solver:
    return build_solver(RoleConfig.model_validate("reference:solver"))


@pytest.fixture(scope="module")
def app(solver: Solver) -> FastAPI:
    decomposer = build_decomposer(RoleConfig.model_validate("reference:decomposer"))
    models: dict[Any, RoleModel] = {"decomposer": TokenModel(decomposer), "solver": TokenModel(solver)}
    args = ServeArgs()
    return create_app(Service(Roles(LocalHandle(decomposer), LocalHandle(solver)), args.limits, models), Catalogue.of(args))


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cleave/v1", timeout=60) as client:
        yield client


@pytest.fixture
async def client(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://cleave/v1", api_key="none", max_retries=0, http_client=http)


# --- a role ---


async def test_a_likelihood_is_the_models_own(client: openai.AsyncOpenAI, solver: Solver) -> None:
    """Against `score`, which reads prompt and continuation in another way."""
    reply = await client.completions.create(model="solver", prompt=TEXT_OF_ROLE, max_tokens=0, echo=True, logprobs=1)
    (choice,) = reply.choices
    assert choice.text == TEXT_OF_ROLE
    assert choice.logprobs is not None
    tokens, values = choice.logprobs.tokens or [], choice.logprobs.token_logprobs or []
    assert "".join(tokens) == TEXT_OF_ROLE
    assert [TEXT_OF_ROLE[at:].startswith(token) for at, token in zip(choice.logprobs.text_offset or [], tokens, strict=True)]
    assert values[0] is None
    (scored,) = await solver.model.score([Prompt(text="")], [TEXT_OF_ROLE])
    assert values[1:] == pytest.approx(list(scored.logprobs), abs=1e-4)
    tops = (choice.logprobs.top_logprobs or [])[1:]
    assert all(max(top.values()) >= value for top, value in zip(tops, values[1:], strict=True))
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(tokens), 0)


async def test_what_an_evaluation_harness_asks_for(http: httpx.AsyncClient) -> None:
    """lm-eval's local-completions: token ids cut by the remote tokenizer, one token more, greedy; choices in the order of prompts."""
    info = (await http.get("http://cleave/tokenizer_info")).json()
    assert info["eos_token"]
    ids = [
        (await http.post("http://cleave/tokenize", json={"prompt": text, "add_special_tokens": False})).json()["tokens"]
        for text in (TEXT_OF_ROLE, "1. 24 *")
    ]
    body = {"model": "solver", "prompt": ids, "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "seed": 1234}
    reply = await http.post("/completions", json=body)
    assert reply.status_code == 200, reply.text
    for index, choice in enumerate(reply.json()["choices"]):
        assert choice["index"] == index
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(ids[index]) + 1
        assert all(math.isfinite(value) for value in logprobs["token_logprobs"][1:])
        for value, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True):
            assert value <= max(top.values())


async def test_ids_and_text_give_the_same_and_a_stream_too(client: openai.AsyncOpenAI, http: httpx.AsyncClient, solver: Solver) -> None:
    ids = (await http.post("http://cleave/tokenize", json={"prompt": STORY})).json()["tokens"]
    ask: dict[str, Any] = {"model": "solver", "temperature": 1, "seed": 5, "n": 2, "max_tokens": 12}
    by_text, by_ids = [await client.completions.create(prompt=prompt, **ask) for prompt in (STORY, ids)]
    texts = [choice.text for choice in by_text.choices]
    assert texts == [choice.text for choice in by_ids.choices]
    assert isinstance(solver.model, HuggingFaceModel)
    again = ["", ""]
    async for chunk in await client.completions.create(prompt=STORY, stream=True, **ask):
        again[chunk.choices[0].index] += chunk.choices[0].text
    assert again == texts


async def test_stop_ends_a_text_and_its_tokens(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(model="solver", prompt="1. 24 * 3 = ", max_tokens=24, logprobs=2)
    text = whole.choices[0].text
    stop = text[1:2]
    cut = await client.completions.create(model="solver", prompt="1. 24 * 3 = ", max_tokens=24, logprobs=2, stop=stop)
    assert cut.choices[0].text == text.partition(stop)[0]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].logprobs is not None
    tokens = cut.choices[0].logprobs.tokens or []
    assert stop in "".join(tokens)
    assert stop not in "".join(tokens[:-1])


async def test_a_chat_with_a_role_reports_tokens(client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": STORY}]
    for model in ("solver", "decomposer"):
        plain = await client.chat.completions.create(model=model, messages=messages)
        reply = await client.chat.completions.create(model=model, messages=messages, logprobs=True, top_logprobs=3)
        (choice,) = reply.choices
        assert choice.message.content == plain.choices[0].message.content
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert "".join(token.token for token in tokens) == choice.message.content
        assert all(len(token.top_logprobs) == 3 and token.top_logprobs[0].logprob >= token.logprob for token in tokens)
        streamed = [chunk async for chunk in await client.chat.completions.create(model=model, messages=messages, stream=True)]
        contents = [chunk.choices[0].delta.content for chunk in streamed if chunk.choices[0].delta.content]
        assert len(contents) > 3
        assert "".join(contents) == choice.message.content
        assert reply.usage == plain.usage


async def test_a_composed_answer_streams_as_it_is_written(client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": STORY}]
    whole = await client.chat.completions.create(model="cleave", messages=messages)
    pieces = [chunk async for chunk in await client.chat.completions.create(model="cleave", messages=messages, stream=True)]
    contents = [piece.choices[0].delta.content for piece in pieces if piece.choices[0].delta.content]
    assert "".join(contents) == whole.choices[0].message.content
    assert len(contents) > 5


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "solver", "prompt": "x", "strategy": "single"}, "strategy"),
        ({"model": "solver", "prompt": "x", "samples": 2}, "samples"),
        ({"model": "solver", "prompt": "x", "suffix": "y"}, "suffix"),
        ({"model": "solver", "prompt": "x", "max_tokens": 0}, None),
        ({"model": "solver", "prompt": "x", "best_of": 3}, None),
        ({"model": "solver", "prompt": [9_999_999]}, None),
        ({"model": "solver", "prompt": "x " * 5000}, None),
        ({"model": "solver", "prompt": ["x"] * 65}, "n"),
        ({"model": "cleave", "prompt": "x", "echo": True}, "echo"),
        ({"model": "cleave", "prompt": "x", "logprobs": 1}, "logprobs"),
        ({"model": "cleave", "prompt": [1, 2]}, "prompt"),
    ],
)
async def test_what_completions_refuse(http: httpx.AsyncClient, body: dict[str, Any], param: str | None) -> None:
    reply = await http.post("/completions", json=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


async def test_only_roles_have_tokenizers(http: httpx.AsyncClient) -> None:
    check_error(await http.post("http://cleave/tokenize", json={"prompt": "x", "model": "cleave"}), 400, "unsupported_model", "model")
    check_error(await http.get("http://cleave/tokenizer_info?model=gpt"), 404, "model_not_found", "model")


# --- a composed pipeline ---


async def test_a_prompt_is_a_question() -> None:
    async with client_of(Script()) as http:
        reply = (await http.post("/completions", json={"model": "cleave", "prompt": [QUESTION, "And?"], "n": 2})).json()
    assert (reply["object"], [choice["index"] for choice in reply["choices"]]) == ("text_completion", [0, 1, 2, 3])
    assert {choice["text"] for choice in reply["choices"]} == {TEXT}
    assert reply["usage"]["total_tokens"] == 4 * (PLAN_COST + SOLVE_COST).tokens


async def test_a_composed_answer_has_no_log_probabilities() -> None:
    async with client_of(Script()) as http:
        for fields in ({"logprobs": True}, {"top_logprobs": 2}):
            check_error(await http.post("/chat/completions", json=chat(**fields)), 400, "unsupported_field", "logprobs")
        check_error(await http.post("/chat/completions", json=chat(model="solver", top_logprobs=2)), 400, "invalid_request", "top_logprobs")
