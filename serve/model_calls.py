"""What the model behind a role is asked beside the role's own requests, and what it replies: plain values that travel to a replica.

`Say` has the role speak and reports tokens; `Continue` is plain text completion, past the role's prompts; the others are about tokens.
Answered by serve/token_model.py, in the replica that hosts the role.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cleave.decoding.draft import Draft, Drafting
from cleave.roles import DecomposeReply, DecomposeRequest, SolveReply, SolveRequest, VerifyRequest
from cleave.types import Finish, ModelInfo, Sampling, Usage


@dataclass(frozen=True)
class Token:
    """One token as text. `logprob` None: nothing comes before it. `top`: likely tokens in its place, best first."""

    text: str
    logprob: float | None
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Spoken:
    """One text of a model. `tokens` are empty where they were not asked for, or where the backend has none."""

    text: str
    finish: Finish = "stop"
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Say:
    """A role's request. `logprobs`: alternatives reported per token, None: no tokens are wanted."""

    request: DecomposeRequest | SolveRequest
    logprobs: int | None = None


@dataclass(frozen=True)
class Said:
    """The texts of a role's samples, and the role's own reply."""

    texts: tuple[Spoken, ...]
    reply: DecomposeReply | SolveReply
    usage: Usage
    model: ModelInfo


@dataclass(frozen=True)
class Continue:
    """Text, or token ids, to go on from, `sampling.n` times each. `logprobs` as in Say; `echo`: the prompt's tokens too.

    `sampling.max_tokens` 0 asks for the prompts alone.
    """

    prompts: tuple[str | tuple[int, ...], ...]
    sampling: Sampling
    seed: int | None = None
    logprobs: int | None = None
    echo: bool = False


@dataclass(frozen=True)
class Continued:
    """`sampling.n` texts per prompt, in order. With `echo` each begins with its prompt."""

    texts: tuple[Spoken, ...]
    usage: Usage
    model: ModelInfo


@dataclass(frozen=True)
class Tokenize:
    """A text to be cut into tokens; the reply is a tuple of ids."""

    text: str
    add_special_tokens: bool = True


@dataclass(frozen=True)
class DescribeTokenizer:
    """Asks for a TokenizerNote."""


@dataclass(frozen=True)
class TokenizerNote:
    """What clients need to know: names of the model and of the tokenizer's class, the context in tokens, and special tokens such as
    eos_token as text, None where there is none."""

    name: str
    kind: str
    vocab_size: int
    max_len: int
    special: Mapping[str, str | None] = field(default_factory=dict)
    chat_template: str | None = None


@dataclass(frozen=True)
class AskDrafts:
    """k continuations of a text from one superposed pass; the reply is Drafted."""

    prefix: str
    drafting: Drafting
    seed: int = 0


@dataclass(frozen=True)
class Drafted:
    """Drafts, best first."""

    drafts: tuple[Draft, ...]
    usage: Usage
    model: ModelInfo


@dataclass(frozen=True)
class Weigh:
    """Solutions to be scored by how likely the model finds them; the reply is a VerifyReply."""

    request: VerifyRequest


ModelCall = Say | Continue | Tokenize | DescribeTokenizer | AskDrafts | Weigh


@dataclass(frozen=True)
class Piece:
    """More of the text number `index`."""

    index: int
    text: str


class RoleModel(Protocol):
    """The model behind a role, wherever it is hosted. Raises the errors of cleave/errors.py; ConfigError for what its backend cannot do."""

    async def ask(self, call: ModelCall) -> Any:
        """The reply that belongs to the call."""
        ...

    def stream(self, call: Say | Continue) -> AsyncIterator[Piece | Said | Continued]:
        """Pieces of the texts as they grow, where the backend can, and the whole reply at the end."""
        ...
