"""One HTTP endpoint with JSON replies: concurrency limit, timeouts by phase, retries with backoff, errors as one sentence.

Retried: 408, 409, 429, 5xx and broken connections, with exponential backoff and jitter, or after the server's Retry-After. Not retried: a
reply that does not come within the read timeout (the server may still be working on it, and charge for it), and every other 4xx.
The key is read from the environment at each request and never appears in a message.
"""

import asyncio
import email.utils
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from cleave.errors import CleaveError, ConfigError, GenerationError

MAX_RETRY_AFTER_S = 120.0
_RETRIED = frozenset({408, 409, 429})
_BROKEN = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)
_CONTEXT = ("context_length", "context length", "maximum context", "max_model_len", "too many tokens")


class _Retryable(Exception):
    """A failure that may pass. `after_s` is the server's wish, `final` what to raise when patience ends."""

    def __init__(self, final: CleaveError, after_s: float | None = None) -> None:
        super().__init__(str(final))
        self.final = final
        self.after_s = after_s


class Endpoint:
    """Posts JSON to one OpenAI-compatible root. Belongs to one event loop."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api_key_env: str,
        max_concurrency: int,
        connect_timeout_s: float,
        read_timeout_s: float,
        max_retries: int,
        backoff_s: float,
    ) -> None:
        """Raises ConfigError for a URL that is none."""
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{base_url!r} is no URL; write openai:MODEL@https://HOST/v1.") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"{base_url!r} is no URL; write openai:MODEL@https://HOST/v1.")
        self.url = str(url.copy_with(userinfo=b"")).rstrip("/")
        self._root = str(url).rstrip("/")
        self._model = model
        self._key_env = api_key_env
        self._read_timeout_s = read_timeout_s
        self._attempts = max_retries + 1
        self._backoff = wait_exponential(multiplier=backoff_s, max=30.0) + wait_random(0.0, backoff_s)
        self._slots = asyncio.Semaphore(max_concurrency)
        self._timeout = httpx.Timeout(read_timeout_s, connect=connect_timeout_s, pool=None)
        self._limits = httpx.Limits(max_connections=max_concurrency, max_keepalive_connections=max_concurrency)
        self._client: httpx.AsyncClient | None = None

    async def post(self, route: str, payload: dict[str, Any]) -> dict[str, Any]:
        """The reply's JSON object. Raises ConfigError or GenerationError."""
        async with self._reply(route, payload) as response:
            return self._object(response.content)

    async def events(self, route: str, payload: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The reply's server-sent events, up to [DONE]. Retries end with the first byte. Raises ConfigError or GenerationError."""
        async with self._reply(route, payload, streamed=True) as response:
            try:
                async for line in response.aiter_lines():
                    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                    if data == "[DONE]":
                        return
                    if data:
                        yield self._object(data.encode())
            except httpx.HTTPError as error:
                raise self._failure(error) from error

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    @asynccontextmanager
    async def _reply(self, route: str, payload: dict[str, Any], streamed: bool = False) -> AsyncIterator[httpx.Response]:
        async with self._slots:
            retrying = AsyncRetrying(
                stop=stop_after_attempt(self._attempts), wait=self._wait, retry=retry_if_exception_type(_Retryable), reraise=True
            )
            try:
                response: httpx.Response = await retrying(self._attempt, route, payload, streamed)
            except _Retryable as error:
                raise error.final from error
            try:
                yield response
            finally:
                await response.aclose()

    async def _attempt(self, route: str, payload: dict[str, Any], streamed: bool) -> httpx.Response:
        client = self._client = self._client or httpx.AsyncClient(timeout=self._timeout, limits=self._limits)
        key = os.environ.get(self._key_env, "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            request = client.build_request("POST", f"{self._root}/{route}", json=payload, headers=headers)
            response = await client.send(request, stream=True)
            if response.is_success and streamed:
                return response
            await response.aread()
            await response.aclose()
        except _BROKEN as error:
            raise _Retryable(self._failure(error)) from error
        except httpx.HTTPError as error:
            raise self._failure(error) from error
        if response.is_success:
            return response
        failure = self._refusal(response, key)
        if response.status_code in _RETRIED or response.status_code >= 500:
            after_s = _retry_after(response.headers.get("retry-after", ""))
            if after_s is not None and after_s > MAX_RETRY_AFTER_S:
                raise failure
            raise _Retryable(failure, after_s)
        raise failure

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _Retryable) and error.after_s is not None:
            return error.after_s
        return self._backoff(state)

    def _failure(self, error: httpx.HTTPError) -> GenerationError:
        if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
            return GenerationError(f"cannot reach {self.url}; check that the server runs and that the URL is right.")
        if isinstance(error, httpx.TimeoutException):
            return GenerationError(f"{self.url} sent nothing for {self._read_timeout_s:g} s; raise read_timeout_s or lower max_tokens.")
        return GenerationError(f"the connection to {self.url} broke off ({type(error).__name__}); try again later.")

    def _refusal(self, response: httpx.Response, key: str) -> CleaveError:
        status, said = response.status_code, _message(response, key)
        if status in (401, 403):
            state = "refused the key in" if key else "wants a key and there is none in"
            return ConfigError(f"{self.url} {state} ${self._key_env}; set that variable to a valid key.")
        if status == 404:
            return ConfigError(f"{self.url} has no model {self._model} on this route: {said}; GET {self.url}/models lists its models.")
        if status in (400, 413, 422):
            if status == 413 or any(phrase in said.lower() for phrase in _CONTEXT):
                return ConfigError(f"the prompt is too long for {self._model}: {said}; shorten the question or lower max_tokens.")
            return ConfigError(f"{self.url} refused the request: {said}; change the sampling options or the model.")
        if status == 429:
            return GenerationError(f"{self.url} is over its rate limit: {said}; lower max_concurrency or wait.")
        return GenerationError(f"{self.url} answered {status}: {said}; look at the server's log and try again.")

    def _object(self, content: bytes) -> dict[str, Any]:
        try:
            data = json.loads(content)
        except ValueError as error:
            raise GenerationError(f"{self.url} replied with malformed JSON; check that it is an OpenAI-compatible root.") from error
        if not isinstance(data, dict):
            raise GenerationError(f"{self.url} replied with no JSON object; check that it is an OpenAI-compatible root.")
        if data.get("error"):
            raise GenerationError(f"{self.url} failed: {_short(str(data['error']))}; look at the server's log and try again.")
        return data


def _message(response: httpx.Response, key: str) -> str:
    """What an error reply says, in one line, without the key."""
    try:
        data = response.json()
        error = data.get("error", data) if isinstance(data, dict) else data
        said = (error.get("message") or error.get("detail") or error) if isinstance(error, dict) else error
        text = f"{said} {error.get('code') or ''}" if isinstance(error, dict) else str(said)
    except ValueError:
        text = response.text
    text = text.replace(key, "***") if key else text
    return _short(text) or response.reason_phrase


def _short(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= 240 else text[:240] + "…"


def _retry_after(value: str) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
