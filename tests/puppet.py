"""A language model that replies what a test says: the one seam that tests of roles and reasoning fake."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from cleave.lm.protocol import Capability
from cleave.types import Completion, ModelInfo, Prompt, Sampling, Usage

Reply = str | Completion | Exception
Script = Callable[[Prompt, int], Reply | Awaitable[Reply]]
"""(prompt, sample index) to what is said; an exception is raised for the whole call, as a backend does."""


class Puppet:
    """Counts one prompt token per word and one completion token per word, each with log-probability `logprob`."""

    def __init__(self, script: Script, *, name: str = "puppet", logprob: float | None = -0.5, price: float = 0.0) -> None:
        self.script = script
        self.info = ModelInfo(name, parameters=10)
        self.capabilities: frozenset[Capability] = frozenset({"text", "chat", "seed", "logprobs", "score"})
        self.logprob = logprob
        self.price = price
        self.calls: list[tuple[tuple[Prompt, ...], Sampling]] = []
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.closed = 0

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        self.calls.append((tuple(prompts), sampling))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return [[await self._complete(prompt, i) for i in range(sampling.n)] for prompt in prompts]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        return [Completion(text, logprobs=(-1.0,) * len(text.split()), usage=Usage(calls=1)) for text in continuations]

    def reads(self, prompt: Prompt, continuation: str) -> bool:
        return True

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        yield (await self.generate([prompt], sampling))[0][0].text

    async def aclose(self) -> None:
        self.closed += 1

    async def _complete(self, prompt: Prompt, sample: int) -> Completion:
        reply = self.script(prompt, sample)
        if not isinstance(reply, str | Completion | Exception):
            reply = await reply
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, Completion):
            return reply
        words = len(reply.split())
        logprobs = () if self.logprob is None else (self.logprob,) * words
        first = sample == 0
        asked = words_of(prompt) if first else 0
        return Completion(reply, logprobs=logprobs, usage=Usage(int(first), asked, words, price=self.price * (asked + words)))


def words_of(prompt: Prompt) -> int:
    """The prompt's length in words."""
    return len(said(prompt).split())


def said(prompt: Prompt) -> str:
    """The prompt as one text."""
    return prompt.text if prompt.text is not None else "\n".join(message.content for message in prompt.messages)
