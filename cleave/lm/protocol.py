"""What every language model backend offers: one asynchronous protocol over plain values.

Backends: huggingface.py (local weights), openai.py (any OpenAI-compatible URL), recorded.py (replays recorded calls).
Blocking work runs in one executor thread per model. A backend says in `capabilities` what it can do; a job checks that
before it starts (`require`) and refuses with the remedy.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol, runtime_checkable

from cleave.decoding.draft import Draft, Drafting
from cleave.errors import ConfigError
from cleave.types import Completion, ModelInfo, Prompt, Sampling

Capability = Literal["text", "chat", "seed", "logprobs", "top_logprobs", "score", "values", "stream", "hidden_states", "drafts"]


@runtime_checkable
class LanguageModel(Protocol):
    """A hosted or remote model. Safe to call from many coroutines of one event loop."""

    info: ModelInfo
    capabilities: frozenset[Capability]

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Return `sampling.n` completions for each prompt, in order.

        Raises GenerationError when the model or endpoint fails, ConfigError when an option is not supported.
        """
        ...

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        """Return, per pair, the continuation as a Completion whose `logprobs` are those of its tokens after the prompt.

        A model that gives one number instead of text has `values` in place of `score`: asked with empty continuations, that number is
        the one entry of `logprobs`.
        """
        ...

    async def drafts(self, prompts: Sequence[Prompt], drafting: Drafting) -> list[list[Draft]]:
        """Return up to `drafting.k` drafts for each prompt, best first, for about the passes of one reply (superposed decoding).

        Raises ConfigError for a backend that cannot, GenerationError when the model fails.
        """
        ...

    def reads(self, prompt: Prompt, continuation: str) -> bool:
        """Whether both fit into the model's context, as far as the backend can know it; `score` refuses what does not."""
        ...

    def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        """Yield pieces of one reply as they are produced; their concatenation is the reply."""
        ...

    async def aclose(self) -> None:
        """Release weights, threads and connections. Idempotent."""
        ...


def require(model: LanguageModel, *needed: Capability, purpose: str) -> None:
    """Raise ConfigError, naming the remedy, unless `model` has every capability in `needed`."""
    missing = [name for name in needed if name not in model.capabilities]
    if missing == ["chat"]:
        raise ConfigError(
            f"{purpose} sends chat messages, {model.info.name} has no chat template; choose prompts of plain text, such as reference-v1."
        )
    if missing:
        raise ConfigError(
            f"{purpose} needs {', '.join(missing)}, which {model.info.name} does not offer; use a local model (hf:PATH) for this role."
        )
