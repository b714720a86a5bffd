"""Local weights as a LanguageModel: a transformers causal model, our sampler, one executor thread.

    model = HuggingFaceModel(load_checkpoint("runs/solver/checkpoint"), name="hf:runs/solver/checkpoint")
    [[reply]] = await model.generate([Prompt(text="2 + 2 =")], Sampling(max_tokens=8))

Text prompts are read as they are, messages through the checkpoint's chat template; `<think>` blocks are removed from replies to
messages. Threads of torch are the host's business. Left out: GPUs larger than one batch loop fills; use an endpoint (openai:) there.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import torch

from cleave.decoding.draft import Draft, Drafting
from cleave.decoding.ngrams import NgramTables
from cleave.decoding.sample import Row, Sampler, SamplingCancelled
from cleave.decoding.score import score_batch
from cleave.decoding.stopping import TextStream
from cleave.decoding.superposed import Drafter, why_not_superposable
from cleave.errors import ConfigError, GenerationError
from cleave.lm.checkpoint import Checkpoint
from cleave.lm.flops import forward_cost
from cleave.lm.protocol import Capability
from cleave.lm.thinking import ThinkingFilter, strip_thinking
from cleave.lm.tokens import encode, encode_pair, prompt_text
from cleave.types import Completion, ModelInfo, Prompt, Sampling, Usage

T = TypeVar("T")


class HuggingFaceModel:
    """A checkpoint in this process. Calls queue for its one thread; a cancelled call stops at its next token."""

    capabilities: frozenset[Capability]

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        name: str,
        max_batch_size: int = 64,
        prompt_price: float = 0.0,
        completion_price: float = 0.0,
        ngrams: NgramTables | None = None,
    ) -> None:
        """Prices are per million tokens; `ngrams` smooth drafts. Raises ConfigError for tables of another tokenizer."""
        model = checkpoint.model
        self.tokenizer = checkpoint.tokenizer
        self.max_len = checkpoint.max_len
        parameters = sum(parameter.numel() for parameter in model.parameters())
        self.info = ModelInfo(name, checkpoint.revision, str(model.dtype).removeprefix("torch."), parameters)
        chat: set[Capability] = {"chat"} if self.tokenizer.chat_template else set()
        drafts: set[Capability] = {"drafts"} if why_not_superposable(model) is None else set()
        self.capabilities = frozenset({"text", "seed", "logprobs", "top_logprobs", "score", "stream", *chat, *drafts})
        self._sampler = Sampler(
            model, self.tokenizer, eos_ids=checkpoint.eos_ids, max_len=checkpoint.max_len, max_batch_size=max_batch_size
        )
        if ngrams is not None:
            ngrams.require(self.tokenizer.get_vocab(), name)
        self._drafter = Drafter(
            model, self.tokenizer, eos_ids=checkpoint.eos_ids, max_len=checkpoint.max_len, max_batch_size=max_batch_size, ngrams=ngrams
        )
        self._cost = forward_cost(model)
        self._prices = prompt_price / 1e6, completion_price / 1e6
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lm")
        self._closed = threading.Event()

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See LanguageModel. The usage of a prompt is on its first completion; greedy repeats beyond the first cost nothing."""
        return await self._run(lambda cancelled: self._generate(prompts, sampling, cancelled))

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        """See LanguageModel. Prompt and continuation are tokenised as one text; what the texts share is read, and counted, once."""
        return await self._run(lambda cancelled: self._score(prompts, continuations, cancelled))

    async def drafts(self, prompts: Sequence[Prompt], drafting: Drafting) -> list[list[Draft]]:
        """See LanguageModel. The usage of a prompt is on its first draft: all share the passes, which count as its generated tokens."""
        return await self._run(lambda cancelled: self._draft(prompts, drafting, cancelled))

    def reads(self, prompt: Prompt, continuation: str) -> bool:
        """See LanguageModel."""
        return len(encode_pair(self.tokenizer, prompt, continuation)[0]) <= self.max_len

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        """See LanguageModel. Text is held back while it may be the beginning of a stop string or half a character."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        text, thinking = TextStream(self.tokenizer, sampling.stop), ThinkingFilter()

        def put(piece: str | None) -> None:
            if piece != "":
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def work(cancelled: Callable[[], bool]) -> None:
            try:
                ids = self._encode([prompt])
                [[row]] = self._sampler.sample(
                    ids, [prompt.seed], replace(sampling, n=1), on_token=lambda row: put(text.push(row.tokens)), cancelled=cancelled
                )
                put(text.finish(row.text))
            finally:
                put(None)

        job = asyncio.ensure_future(self._run(work))
        try:
            while (piece := await pieces.get()) is not None:
                if visible := thinking.push(piece) if prompt.messages else piece:
                    yield visible
            await job
            if rest := thinking.finish():
                yield rest
        finally:
            job.cancel()

    async def aclose(self) -> None:
        """Stop what runs, refuse what waits. The weights go with this object."""
        self._closed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Run `work` in the model's thread; when the caller is cancelled, tell it to stop."""
        stop = threading.Event()
        closed = GenerationError(f"{self.info.name} was closed; build the model again.")
        if self._closed.is_set():
            raise closed
        future = self._thread.submit(work, lambda: stop.is_set() or self._closed.is_set())
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # `aclose` dropped the waiting job, nobody cancelled this task
                raise closed from None
            raise
        except torch.OutOfMemoryError as error:
            raise GenerationError(f"{self.info.name} ran out of GPU memory; lower max_batch_size or max_model_len.") from error
        except SamplingCancelled as error:
            raise closed from error
        finally:
            stop.set()

    def _generate(self, prompts: Sequence[Prompt], sampling: Sampling, cancelled: Callable[[], bool]) -> list[list[Completion]]:
        start = time.perf_counter()
        ids = self._encode(prompts)
        drawn = self._sampler.sample(ids, [prompt.seed for prompt in prompts], sampling, cancelled=cancelled)
        distinct = {id(row): row for rows in drawn for row in rows}
        tokens = sum(map(len, ids)) + sum(len(row.tokens) for row in distinct.values())
        seconds_per_token = (time.perf_counter() - start) / max(1, tokens)
        replies: list[list[Completion]] = []
        for prompt, prompt_ids, rows in zip(prompts, ids, drawn, strict=True):
            usages = [
                Usage() if rows.index(row) < i else self._usage(len(prompt_ids), len(row.tokens), seconds_per_token, further=i > 0)
                for i, row in enumerate(rows)
            ]
            replies.append([_completion(prompt, row, usage) for row, usage in zip(rows, usages, strict=True)])
        return replies

    def _score(self, prompts: Sequence[Prompt], continuations: Sequence[str], cancelled: Callable[[], bool]) -> list[Completion]:
        start = time.perf_counter()
        pairs = [encode_pair(self.tokenizer, prompt, text) for prompt, text in zip(prompts, continuations, strict=True)]
        for ids, _ in pairs:
            if len(ids) > self.max_len:
                raise ConfigError(
                    f"prompt and continuation have {len(ids)} tokens and the model's limit is {self.max_len}; shorten the text."
                )
        scored = score_batch(self._sampler.model, pairs, self._sampler.max_batch_size, cancelled)
        seconds_per_token = (time.perf_counter() - start) / max(1, sum(each.read for each in scored))
        return [
            Completion(
                text,
                tuple(ids[len(ids) - len(each.logprobs) :]),
                tuple(each.logprobs),
                usage=self._usage(each.read, 0, seconds_per_token, before=each.shared),
            )
            for text, (ids, _), each in zip(continuations, pairs, scored, strict=True)
        ]

    def _draft(self, prompts: Sequence[Prompt], drafting: Drafting, cancelled: Callable[[], bool]) -> list[list[Draft]]:
        start = time.perf_counter()
        ids = self._encode(prompts)
        drafted = self._drafter.draft(ids, [prompt.seed for prompt in prompts], drafting, cancelled=cancelled)
        tokens = sum(len(prompt_ids) + each.decoded for prompt_ids, each in zip(ids, drafted, strict=True))
        seconds_per_token = (time.perf_counter() - start) / max(1, tokens)
        replies = []
        for prompt, prompt_ids, each in zip(prompts, ids, drafted, strict=True):
            usage = self._usage(len(prompt_ids), each.decoded, seconds_per_token)
            replies.append(
                [
                    replace(draft, text=_visible(prompt, draft.text), usage=Usage() if place else usage)
                    for place, draft in enumerate(each.drafts)
                ]
            )
        return replies

    def _encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [encode(self.tokenizer, prompt, prompt_text(self.tokenizer, prompt)) for prompt in prompts]

    def _usage(self, prompt: int, completion: int, seconds_per_token: float, *, further: bool = False, before: int = 0) -> Usage:
        """Usage of one reply by tokens; `further`: another sample of a call whose prompt is counted already; `before`: tokens of its text
        that are counted elsewhere."""
        asked = 0 if further else prompt
        return Usage(
            calls=0 if further else 1,
            prompt_tokens=asked,
            completion_tokens=completion,
            seconds=seconds_per_token * (asked + completion),
            flops=self._cost.of(asked + completion, context=prompt - asked + before),
            price=asked * self._prices[0] + completion * self._prices[1],
        )


def _completion(prompt: Prompt, row: Row, usage: Usage) -> Completion:
    text = _visible(prompt, row.text)
    return Completion(text, tuple(row.tokens), tuple(row.logprobs), tuple(row.top_logprobs), row.finish or "length", usage)


def _visible(prompt: Prompt, text: str) -> str:
    return strip_thinking(text)[0] if prompt.messages else text
