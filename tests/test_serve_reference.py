"""The shipped models on real Ray Serve, as a user starts them: tokens arrive one by one, likelihoods and drafts come from the replicas."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cleave.config.serve import load_serve
from serve.run import main

STORY = "Tovan has 24 pens. Mirel has 3 times as many pens as Tovan. How many pens does Mirel have?"
MESSAGES: Any = [{"role": "user", "content": STORY}]

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def url(ray_session: None, root: Path) -> Iterator[str]:
    from ray import serve as ray_serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert main(load_serve(root / "configs/serve/local.yaml", [f"port={port}"]), blocking=False) == 0
    yield f"http://127.0.0.1:{port}"
    ray_serve.shutdown()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", ["cleave", "cleave-single", "solver", "decomposer"])
def test_tokens_arrive_while_they_are_drawn(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=MESSAGES)
    arrived: list[tuple[float, str]] = []
    for chunk in client.chat.completions.create(model=model, messages=MESSAGES, stream=True):
        arrived.append((time.monotonic(), chunk.choices[0].delta.content or ""))
    assert "".join(text for _, text in arrived) == whole.choices[0].message.content
    assert len({moment for moment, text in arrived if text}) > 5


def test_likelihoods_and_tokens(client: openai.OpenAI, url: str) -> None:
    ids = httpx.post(f"{url}/tokenize", json={"prompt": STORY}, timeout=60).json()["tokens"]
    ask: dict[str, Any] = {"model": "solver", "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
    by_text, by_ids = [client.completions.create(prompt=prompt, **ask) for prompt in (STORY, ids)]
    first, second = by_text.choices[0].logprobs, by_ids.choices[0].logprobs
    assert first is not None
    assert first == second
    assert len(first.token_logprobs or []) == len(ids) + 1
    assert httpx.get(f"{url}/tokenizer_info", timeout=60).json()["eos_token"]


def test_roles(url: str) -> None:
    plans = httpx.post(f"{url}/v1/decompose", json={"question": STORY}, timeout=60).json()["plans"]
    assert len(plans[0]) >= 1
    body = {"question": STORY, "solutions": ["1. 24 * 3 = 72\nThe answer is: 72"]}
    (verdict,) = httpx.post(f"{url}/v1/verify", json=body, timeout=60).json()["verdicts"]
    assert (0 < verdict["score"] < 1, verdict["answer"]) == (True, "72")
    assert len(httpx.post(f"{url}/v1/drafts", json={"prefix": "1. 24 * 3 =", "k": 3}, timeout=60).json()["drafts"]) == 3


def test_what_the_replicas_refuse_is_a_400(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="the text has"):
        client.completions.create(model="solver", prompt="x " * 5000, max_tokens=0, echo=True, logprobs=0)
    with pytest.raises(openai.BadRequestError, match="no token 99999"):
        client.completions.create(model="solver", prompt=[99999], stream=True)
