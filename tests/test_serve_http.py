"""The HTTP application over scripted roles, without Ray: replies, limits, and what bad input gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleave.errors import CleaveError, GenerationError, Overloaded, RoleUnavailable
from cleave.types import ModelInfo, Trace, from_json
from tests.serving import PLAN, PLAN_COST, QUESTION, SOLVE_COST, TEXT, Script, chat, check_error, client_of


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def http(script: Script) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(script) as client:
        yield client


# --- what a good request gets ---


async def test_solve_returns_the_whole_trace(http: httpx.AsyncClient) -> None:
    reply = await http.post("/solve", json={"question": QUESTION})
    assert reply.status_code == 200
    trace = from_json(Trace, reply.text)
    assert (trace.answer, trace.strategy, trace.error) == ("17", "static", None)
    assert trace.plans[0].text == PLAN
    assert trace.usage == {"decomposer": PLAN_COST, "solver": SOLVE_COST}
    assert trace.models["solver"] == ModelInfo("scripted-solver", "7")


async def test_solve_passes_its_options_on(http: httpx.AsyncClient, script: Script) -> None:
    options = {"strategy": "single", "n": 3, "temperature": 0.7, "top_p": 0.9, "selection": "majority", "seed": 5, "max_tokens": 33}
    options["min_p"] = 0.05
    reply = await http.post("/solve", json={"question": QUESTION, "context": "Tom likes apples.", **options})
    trace = from_json(Trace, reply.text)
    assert (trace.strategy, trace.seed, len(trace.solutions), trace.confidence) == ("single", 5, 3, 1.0)
    (asked,) = script.asked
    assert (asked.sampling.n, asked.sampling.temperature, asked.sampling.top_p, asked.sampling.max_tokens) == (3, 0.7, 0.9, 33)
    assert asked.sampling.min_p == 0.05
    assert asked.problem.context == "Tom likes apples."
    await http.post("/chat/completions", json=chat(model="solver", temperature=1, min_p=0.25))
    assert script.solved[-1].sampling.min_p == 0.25
    check_error(await http.post("/solve", json={"question": QUESTION, "min_p": 2}), 400, "invalid_request", "min_p")


async def test_chat_completion_is_complete_and_adds_up(http: httpx.AsyncClient) -> None:
    reply = (await http.post("/chat/completions", json=chat())).json()
    assert reply["object"] == "chat.completion"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["model"] == "cleave"
    (choice,) = reply["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": TEXT, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    total = PLAN_COST + SOLVE_COST
    usage = reply["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (total.prompt_tokens, total.completion_tokens)
    assert usage["total_tokens"] == total.tokens
    assert usage["completion_tokens_details"]["reasoning_tokens"] == PLAN_COST.completion_tokens
    split = reply["cleave"]["usage"]
    assert {role: cost["price"] for role, cost in split.items()} == {"decomposer": 0.5, "solver": 0.25}
    assert reply["cleave"]["choices"][0]["answer"] == "17"
    assert reply["cleave"]["choices"][0]["plans"] == [PLAN]


async def test_each_choice_is_reasoned_out_with_the_next_seed(http: httpx.AsyncClient, script: Script) -> None:
    reply = (await http.post("/chat/completions", json=chat(n=3, seed=40, samples=2, temperature=1))).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert [note["seed"] for note in reply["cleave"]["choices"]] == [40, 41, 42]
    assert len({request.seed for request in script.solved}) == 3
    assert all(request.sampling.n == 2 for request in script.solved)
    assert reply["usage"]["total_tokens"] == 3 * (PLAN_COST + SOLVE_COST).tokens


async def test_a_seed_makes_a_request_repeatable_and_without_one_it_is_fresh(http: httpx.AsyncClient, script: Script) -> None:
    for seed in (7, 7, None, None):
        await http.post("/chat/completions", json=chat(model="cleave-single", temperature=1.0, seed=seed))
    first, second, third, fourth = (request.seed for request in script.solved)
    assert first == second
    assert len({first, third, fourth}) == 3


async def test_greedy_requests_need_no_seed(http: httpx.AsyncClient, script: Script) -> None:
    for _ in range(2):
        await http.post("/solve", json={"question": QUESTION})
    first, second = script.solved
    assert first == second


async def test_stepwise_and_direct_models(http: httpx.AsyncClient, script: Script) -> None:
    stepwise = (await http.post("/chat/completions", json=chat(model="cleave-stepwise"))).json()
    assert stepwise["choices"][0]["message"]["content"] == "1. = 10\n2. = 20\nThe answer is: 20"
    await http.post("/chat/completions", json=chat(model="cleave-direct"))
    assert script.solved[-1].mode == "answer"


async def test_stop_strings_end_the_text(http: httpx.AsyncClient) -> None:
    for stop in ("\nThe", ["nowhere", "\nThe"]):
        reply = (await http.post("/chat/completions", json=chat(stop=stop))).json()
        assert reply["choices"][0]["message"]["content"] == TEXT.partition("\nThe")[0]
        assert reply["cleave"]["choices"][0]["answer"] == "17"


async def test_everything_before_the_question_is_context(http: httpx.AsyncClient, script: Script) -> None:
    messages = [
        {"role": "system", "content": "Count apples only."},
        {"role": "user", "content": [{"type": "text", "text": "Tom has 12."}, {"type": "text", "text": "Ann has 5."}]},
        {"role": "assistant", "content": "Noted.", "refusal": None},
        {"role": "user", "content": QUESTION},
    ]
    await http.post("/chat/completions", json={"model": "cleave", "messages": messages})
    problem = script.solved[0].problem
    assert problem.question == QUESTION
    assert problem.context == "Count apples only.\nUser: Tom has 12.\nAnn has 5.\nAssistant: Noted."


async def test_a_role_is_a_model_too(http: httpx.AsyncClient, script: Script) -> None:
    body = chat(model="decomposer", n=2, temperature=1, seed=-3, max_tokens=9)
    plan = (await http.post("/chat/completions", json=body)).json()
    assert [choice["message"]["content"] for choice in plan["choices"]] == [PLAN, PLAN]
    assert set(plan["cleave"]["usage"]) == {"decomposer"}
    await http.post("/chat/completions", json=body)
    asked, again = script.asked
    assert asked == again
    assert (asked.sampling.n, asked.sampling.temperature, asked.sampling.max_tokens) == (2, 1.0, 9)
    solved = (await http.post("/chat/completions", json=chat(model="solver"))).json()
    assert solved["choices"][0]["message"]["content"] == TEXT
    assert script.solved[0].plan is None


async def test_models_lists_pipelines_and_roles(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/models")).json()
    names = ["cleave", "cleave-direct", "cleave-single", "cleave-static", "cleave-stepwise", "decomposer", "solver"]
    assert [model["id"] for model in listed["data"]] == names
    for model in listed["data"]:
        assert (await http.get(f"/models/{model['id']}")).json() == model
    check_error(await http.get("/models/gpt"), 404, "model_not_found", "model")


async def test_neutral_fields_and_labels_pass(http: httpx.AsyncClient) -> None:
    neutral = {"frequency_penalty": 0, "logit_bias": {}, "stream": False, "response_format": {"type": "text"}, "tools": [], "top_p": None}
    labels = {"user": "u1", "metadata": {"a": "b"}}
    assert (await http.post("/chat/completions", json=chat(**neutral, **labels))).status_code == 200


async def test_openapi_has_examples_that_work(http: httpx.AsyncClient) -> None:
    document = (await http.get("http://cleave/openapi.json")).json()
    for path in ("/chat/completions", "/solve"):
        examples = document["paths"][f"/v1{path}"]["post"]["requestBody"]["content"]["application/json"]["examples"]
        for example in examples.values():
            assert (await http.post(path, json=example["value"])).status_code == 200
    assert (await http.get("http://cleave/docs")).status_code == 200


async def test_the_openai_client_understands_replies_and_errors(http: httpx.AsyncClient) -> None:
    """Through its types: the same bodies over a real connection are tested in test_serve_app.py."""
    from openai.types.chat import ChatCompletion

    completion = ChatCompletion.model_validate((await http.post("/chat/completions", json=chat())).json(), strict=False)
    assert completion.choices[0].message.content == TEXT
    assert completion.usage is not None
    assert completion.usage.total_tokens == (PLAN_COST + SOLVE_COST).tokens
    models = openai.types.Model.model_validate((await http.get("/models/cleave")).json())
    assert models.id == "cleave"


# --- what bad input gets ---


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"logprobs": True}, "unsupported_field", "logprobs"),
        ({"response_format": {"type": "json_object"}}, "unsupported_field", "response_format"),
        ({"tools": [{"type": "function"}]}, "unsupported_field", "tools"),
        ({"frequency_penalty": 0.5}, "unsupported_field", "frequency_penalty"),
        ({"frequency_penalty": False}, "unsupported_field", "frequency_penalty"),
        ({"reasoning_effort": "low"}, "unsupported_field", "reasoning_effort"),
        ({"temprature": 1}, "unknown_field", "temprature"),
        ({"strategy": "guess"}, "invalid_request", "strategy"),
        ({"n": 0}, "invalid_request", "n"),
        ({"n": "2"}, "invalid_request", "n"),
        ({"n": True}, "invalid_request", "n"),
        ({"n": 65}, "invalid_request", "n"),
        ({"n": 9, "samples": 8, "temperature": 1}, "invalid_request", "n"),
        ({"samples": 4}, "invalid_request", "temperature"),
        ({"temperature": -1}, "invalid_request", "temperature"),
        ({"temperature": float("nan")}, "invalid_request", "temperature"),
        ({"top_p": 0}, "invalid_request", "top_p"),
        ({"seed": 2**63}, "invalid_request", "seed"),
        ({"max_tokens": 5000}, "invalid_request", "max_tokens"),
        ({"max_completion_tokens": 5000}, "invalid_request", "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "invalid_request", "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "invalid_request", "stop"),
        ({"stop": ""}, "invalid_request", "stop"),
        ({"budget": {"max_token": 5}}, "unknown_field", "budget.max_token"),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "invalid_request", "messages.0.role"),
        ({"messages": [{"role": "user", "content": " "}]}, "empty_question", "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x", "name": "Tom"}]}, "unknown_field", "messages.0.name"),
        ({"model": "decomposer", "strategy": "single"}, "unsupported_field", "strategy"),
    ],
)
async def test_fields_are_honoured_or_refused(
    http: httpx.AsyncClient, script: Script, fields: dict[str, Any], code: str, param: str
) -> None:
    content = json.dumps(chat(**fields)).encode()
    reply = await http.post("/chat/completions", content=content, headers={"Content-Type": "application/json"})
    check_error(reply, 400, code, param)
    assert script.asked == []


async def test_an_image_is_refused(http: httpx.AsyncClient) -> None:
    reply = await http.post("/chat/completions", json=chat([{"type": "image_url", "image_url": {"url": "http://x"}}]))
    assert reply.status_code == 400


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"null", 400, "invalid_json"),
        (b'"x"', 400, "invalid_json"),
        (b'{"question": "\xff\xfe"}', 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b"{}", 400, "missing_field"),
        (b'{"question": 3}', 400, "invalid_request"),
        (b'{"question": null}', 400, "missing_field"),
        (b'{"question": ""}', 400, "empty_question"),
        (b'{"question": " \\n"}', 400, "empty_question"),
        (b'{"question": "\\ud800"}', 400, "invalid_request"),
        (b'{"question": "x", "\\ud800": 1}', 400, "invalid_request"),
        (b'{"question": "x", "model": "cleave-x"}', 404, "model_not_found"),
        (b'{"question": "' + b"a" * 1_000_000 + b'"}', 413, "request_too_large"),
        (b'{"question": "' + b"a" * 100_001 + b'"}', 413, "question_too_large"),
    ],
)
async def test_bad_bodies(http: httpx.AsyncClient, body: bytes, status: int, code: str) -> None:
    reply = await http.post("/solve", content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert len(reply.text) < 1000


async def test_a_body_that_is_not_sent_as_json_is_refused(http: httpx.AsyncClient) -> None:
    reply = await http.post("/solve", content=b'{"question": "x"}', headers={"Content-Type": "text/plain"})
    assert "Content-Type" in check_error(reply, 400, "invalid_json")


async def test_unknown_paths_and_methods(http: httpx.AsyncClient) -> None:
    check_error(await http.get("/nothing"), 404, "not_found")
    check_error(await http.get("/solve"), 405, "method_not_allowed")


@settings(max_examples=60, deadline=None)
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "messages", "n", "stop", "role"]), inner),
        max_leaves=8,
    )
)
def test_no_body_makes_the_server_fail(body: Any) -> None:
    async def send() -> httpx.Response:
        async with client_of(Script()) as client:
            content = json.dumps(body).encode()
            return await client.post("/chat/completions", content=content, headers={"Content-Type": "application/json"})

    reply = asyncio.run(send())
    assert reply.status_code in (400, 404)
    assert isinstance(reply.json()["error"]["code"], str)


# --- what failures of the roles get ---


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (GenerationError("the model said nothing; look at its log."), 502, "generation_failed"),
        (RoleUnavailable("the solver went away; try again later."), 503, "role_unavailable"),
        (Overloaded("the solver has enough to do; try again later."), 429, "overloaded"),
    ],
)
async def test_typed_errors_have_their_status(error: CleaveError, status: int, code: str) -> None:
    async with client_of(Script(fails=error)) as http:
        reply = await http.post("/chat/completions", json=chat())
        assert str(error) in check_error(reply, status, code)
        assert ("Retry-After" in reply.headers) == (status in (429, 503))
        solved = await http.post("/solve", json={"question": QUESTION})
    assert solved.status_code == status
    trace = from_json(Trace, solved.text)
    assert trace.error is not None
    assert trace.error.message == str(error)
    assert ("Retry-After" in solved.headers) == (status in (429, 503))


async def test_ready_names_the_role_that_is_missing() -> None:
    async with client_of(Script(fails=RoleUnavailable("the solver failed to start; see its log."))) as http:
        reply = await http.get("http://cleave/ready")
        assert "the solver failed to start" in check_error(reply, 503, "role_unavailable")
        assert reply.headers["Retry-After"] == "1"
        assert (await http.get("http://cleave/health")).status_code == 200


async def test_a_bug_says_nothing_about_the_inside() -> None:
    async with client_of(Script(fails=ZeroDivisionError("secret detail"))) as http:
        reply = await http.post("/chat/completions", json=chat())
    assert "secret" not in check_error(reply, 500, "internal_error")


async def test_a_reply_without_an_answer_is_an_error(http: httpx.AsyncClient, script: Script) -> None:
    script.text = lambda request, sample: "I do not know"
    check_error(await http.post("/chat/completions", json=chat()), 502, "unparsable_reply")


async def test_a_budget_that_runs_out_without_an_answer(http: httpx.AsyncClient) -> None:
    reply = await http.post("/chat/completions", json=chat(budget={"max_calls": 1}))
    check_error(reply, 422, "budget_exceeded")
    solved = await http.post("/solve", json={"question": QUESTION, "budget": {"max_calls": 1}})
    assert solved.status_code == 422
    trace = from_json(Trace, solved.text)
    assert trace.plans[0].text == PLAN
    assert trace.usage["decomposer"] == PLAN_COST


async def test_an_answer_found_before_the_budget_ran_out_counts(http: httpx.AsyncClient) -> None:
    reply = await http.post("/chat/completions", json=chat(budget={"max_tokens": (PLAN_COST + SOLVE_COST).tokens - 1}))
    assert reply.status_code == 200
    (note,) = reply.json()["cleave"]["choices"]
    assert note["answer"] == "17"
    assert note["error"]["type"] == "BudgetExceeded"


async def test_a_request_cannot_raise_the_servers_budget(script: Script) -> None:
    async with client_of(script, reasoning={"budget": {"max_calls": 1}}) as http:
        check_error(await http.post("/chat/completions", json=chat(budget={"max_calls": 50})), 422, "budget_exceeded")


async def test_a_slow_role_is_given_up(script: Script) -> None:
    script.waits_s = 60
    async with client_of(script, limits={"request_timeout_s": 0.05}) as http:
        check_error(await http.post("/chat/completions", json=chat()), 504, "timeout")
    assert script.cancelled == 1


async def test_more_requests_than_places_get_429(script: Script) -> None:
    script.waits_s = 0.05
    async with client_of(script, limits={"max_concurrent_requests": 2, "retry_after_s": 3}) as http:
        replies = await asyncio.gather(*(http.post("/solve", json={"question": QUESTION}) for _ in range(5)))
        assert sorted(reply.status_code for reply in replies) == [200, 200, 429, 429, 429]
        late = next(reply for reply in replies if reply.status_code == 429)
        check_error(late, 429, "overloaded")
        assert late.headers["Retry-After"] == "3"
        assert (await http.post("/solve", json={"question": QUESTION})).status_code == 200


async def test_cancelling_a_request_cancels_its_calls(script: Script) -> None:
    script.waits_s = 60
    async with client_of(script) as http:
        task = asyncio.create_task(http.post("/chat/completions", json=chat(model="cleave-single", n=3, temperature=1)))
        while len(script.asked) < 3:
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert script.cancelled == 3


# --- the client's own plan ---


async def test_a_given_plan_is_followed_and_the_decomposer_is_not_asked(http: httpx.AsyncClient, script: Script) -> None:
    plan = "1. How many at first?\n2. How many is #1 less 2?"
    for strategy, calls in (("static", 1), ("stepwise", 2)):
        script.asked.clear()
        trace = (await http.post("/solve", json={"question": QUESTION, "strategy": strategy, "plan": plan})).json()
        assert len(script.asked) == len(script.solved) == calls
        assert [step["question"] for step in trace["plans"][0]["steps"]] == ["How many at first?", "How many is #1 less 2?"]
        assert (trace["models"]["decomposer"]["name"], trace["usage"]["decomposer"]["calls"]) == ("given", 0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"plan": "1. #1?"}, "plan"),
        ({"plan": "no numbers"}, "plan"),
        ({"plan": "\n".join(f"{i}. How?" for i in range(1, 1001))}, "plan"),
        ({"plan": "1. How?\n2. And?", "max_steps": 1}, "plan"),
        ({"plan": "1. How?", "strategy": "single"}, "plan"),
        ({"plan": "1. How?", "plans": 2, "n": 2, "plan_temperature": 1}, "plans"),
    ],
)
async def test_a_plan_that_cannot_be_followed_is_refused(
    http: httpx.AsyncClient, script: Script, fields: dict[str, Any], param: str
) -> None:
    check_error(await http.post("/solve", json={"question": QUESTION, **fields}), 400, "invalid_request", param)
    assert script.asked == []
