"""Any OpenAI-compatible URL as a LanguageModel: vLLM, Ray Serve LLM, a vendor.

    model = OpenAIModel(model="qwen3-8b", base_url="http://host:8000/v1")

Messages go to /chat/completions, text to /completions. Replies to messages lose their `<think>` blocks and `reasoning_content`; their
tokens stay counted. Seeds are passed on and are best effort, as the server allows. Log-probabilities are asked for only if
`Sampling.logprobs` is positive or the model is made with `logprobs`, because some servers refuse them; token ids and alternatives are
not part of the protocol.
Left out: min_p and top_k (not in the protocol), scoring given text.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from cleave.decoding.draft import Draft, Drafting
from cleave.errors import ConfigError, GenerationError
from cleave.lm.endpoint import Endpoint
from cleave.lm.protocol import Capability
from cleave.lm.thinking import ThinkingFilter, strip_thinking
from cleave.types import Completion, Finish, ModelInfo, Prompt, Sampling, Usage

_FINISH: dict[str, Finish] = {"length": "length", "content_filter": "error"}


class OpenAIModel:
    """A remote model. Each prompt is one request, or more where the server sends fewer choices than asked for."""

    capabilities: frozenset[Capability] = frozenset({"text", "chat", "seed", "logprobs", "stream"})

    def __init__(
        self,
        *,
        model: str,
        base_url: str,
        api_key_env: str = "OPENAI_API_KEY",
        max_concurrency: int = 16,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 120.0,
        max_retries: int = 5,
        backoff_s: float = 0.5,
        logprobs: bool = False,
        prompt_price: float = 0.0,
        completion_price: float = 0.0,
    ) -> None:
        """Prices are per million tokens, `backoff_s` is the first wait before a retry. Raises ConfigError for a bad URL."""
        self._endpoint = Endpoint(
            base_url,
            model=model,
            api_key_env=api_key_env,
            max_concurrency=max_concurrency,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
        )
        self._model = model
        self._logprobs = logprobs
        self._prices = prompt_price / 1e6, completion_price / 1e6
        self.info = ModelInfo(f"openai:{model}@{self._endpoint.url}")

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See LanguageModel. The first failure cancels the other requests of this call."""
        _check(sampling)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._samples(prompt, sampling)) for prompt in prompts]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return [task.result() for task in tasks]

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        """Not offered: raises ConfigError."""
        raise ConfigError(f"{self.info.name} cannot score given text; use a local model (hf:PATH) for this role.")

    async def drafts(self, prompts: Sequence[Prompt], drafting: Drafting) -> list[list[Draft]]:
        """Not offered: raises ConfigError."""
        raise ConfigError(f"{self.info.name} cannot draft by superposition; use a local model (hf:PATH) for this role.")

    def reads(self, prompt: Prompt, continuation: str) -> bool:
        """See LanguageModel. The endpoint alone knows its context."""
        return True

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        """See LanguageModel."""
        _check(sampling)
        thinking = ThinkingFilter()
        payload = {**self._payload(prompt, replace(sampling, n=1), prompt.seed), "stream": True}
        payload.pop("logprobs", None)
        async for event in self._endpoint.events(_route(prompt), payload):
            for choice in event.get("choices") or ():
                piece = (choice.get("delta") or {}).get("content") if prompt.messages else choice.get("text")
                piece = thinking.push(piece or "") if prompt.messages else piece
                if piece:
                    yield piece
        if rest := thinking.finish():
            yield rest

    async def aclose(self) -> None:
        """See LanguageModel."""
        await self._endpoint.aclose()

    async def _samples(self, prompt: Prompt, sampling: Sampling) -> list[Completion]:
        """All samples of one prompt. Greedy ones are equal: they are asked for once, the copies cost nothing."""
        if sampling.temperature == 0 and sampling.n > 1:
            [reply] = await self._request(prompt, replace(sampling, n=1), prompt.seed)
            return [reply, *[replace(reply, usage=Usage())] * (sampling.n - 1)]
        replies = await self._request(prompt, sampling, prompt.seed)
        if len(replies) < sampling.n:  # many servers ignore n
            one = replace(sampling, n=1)
            seeds = [_further_seed(prompt.seed, i) for i in range(len(replies), sampling.n)]
            for more in await asyncio.gather(*(self._request(prompt, one, seed) for seed in seeds)):
                replies += more
        return replies

    async def _request(self, prompt: Prompt, sampling: Sampling, seed: int | None) -> list[Completion]:
        """One request: between one and `sampling.n` completions."""
        start = time.perf_counter()
        data = await self._endpoint.post(_route(prompt), self._payload(prompt, sampling, seed))
        seconds = time.perf_counter() - start
        try:
            choices = data["choices"][: sampling.n]
            usages = self._usages(data.get("usage") or {}, len(choices), seconds)
            replies = [_completion(prompt, choice, usage) for choice, usage in zip(choices, usages, strict=True)]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise GenerationError(
                f"{self._endpoint.url} replied in another form than the OpenAI protocol; check that the URL ends in /v1."
            ) from error
        if not replies:
            raise GenerationError(f"{self._endpoint.url} replied without any choice; look at the server's log and try again.")
        return replies

    def _payload(self, prompt: Prompt, sampling: Sampling, seed: int | None) -> dict[str, Any]:
        payload: dict[str, Any] = {"model": self._model, "max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
        if prompt.messages:
            payload["messages"] = [{"role": message.role, "content": message.content} for message in prompt.messages]
        else:
            payload["prompt"] = prompt.text
        if sampling.top_p < 1:
            payload["top_p"] = sampling.top_p
        if sampling.n > 1:
            payload["n"] = sampling.n
        if sampling.stop:
            payload["stop"] = list(sampling.stop)
        if seed is not None:
            payload["seed"] = seed % (1 << 63)
        if sampling.logprobs or self._logprobs:
            payload["logprobs"] = True if prompt.messages else max(sampling.logprobs, 1)
        return payload

    def _usages(self, usage: dict[str, Any], replies: int, seconds: float) -> list[Usage]:
        """The request's usage, spread over its replies so that the sum is exact: prompt, call and time on the first."""
        prompt_tokens, completion_tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        share, rest = divmod(completion_tokens, max(1, replies))
        counts = [share + (i < rest) for i in range(replies)]
        price_in, price_out = self._prices
        further = [Usage(completion_tokens=count, price=count * price_out) for count in counts]
        return [usage + Usage(1, prompt_tokens, 0, seconds, 0.0, prompt_tokens * price_in) for usage in further[:1]] + further[1:]


def _route(prompt: Prompt) -> str:
    return "chat/completions" if prompt.messages else "completions"


def _check(sampling: Sampling) -> None:
    if sampling.top_k or sampling.min_p:
        raise ConfigError("an OpenAI endpoint knows neither top_k nor min_p; use top_p, or a local model (hf:PATH).")


def _further_seed(seed: int | None, sample: int) -> int | None:
    """Another seed for a sample that the server left out; far from the neighbours that callers use."""
    return None if seed is None else (seed + sample * 0x9E3779B1) % (1 << 31)


def _completion(prompt: Prompt, choice: dict[str, Any], usage: Usage) -> Completion:
    if prompt.messages:
        text = strip_thinking(choice["message"].get("content") or "")[0]
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        logprobs = tuple(float(token["logprob"]) for token in tokens)
    else:
        text = choice["text"]
        values = (choice.get("logprobs") or {}).get("token_logprobs") or ()
        logprobs = tuple(float(value) for value in values)
    if not isinstance(text, str):
        raise TypeError("a reply is text")
    # JSON can smuggle in half a surrogate pair, which no file and no reply of ours can carry.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return Completion(text, logprobs=logprobs, finish=_FINISH.get(choice.get("finish_reason") or "", "stop"), usage=usage)
