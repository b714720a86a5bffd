"""What travels over `/v1/completions`, `/tokenize` and `/tokenizer_info`, as strict pydantic models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from serve.logprobs import TextLogprobs
from serve.schema import Body, ChatNote, ChatUsage, Count, Generation, Text

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Prompts = Text | TokenIds | Annotated[list[Text] | list[TokenIds], Field(min_length=1)]


class TextBody(Generation):
    """OpenAI's completion request. A role goes on from the prompt as it stands; for a composed pipeline the prompt is the question."""

    prompt: Prompts
    """A text, token ids of the role's tokenizer, or a list of either: each prompt gets `n` choices."""
    best_of: Count | None = None
    """Only the same as `n`; to choose among more solutions ask a composed pipeline for `samples`."""
    echo: bool = False
    """The choices begin with their prompts; of a single role only."""
    logprobs: int | None = Field(None, ge=0, le=20)
    """Log-probabilities of the tokens, with so many alternatives in each place; of a single role only."""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Most tokens per reply; a role that is not told writes 16. 0, with `echo`, scores the prompt alone."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.best_of is not None and self.best_of != self.n:
            raise ValueError("best_of must be n; ask a composed pipeline for `samples` to choose among more")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens 0 gives nothing without echo; set echo, or more tokens")
        return self

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """One or more, each a text or token ids."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        if isinstance(self.prompt[0], int):
            return (_ids(self.prompt),)
        return tuple(each if isinstance(each, str) else _ids(each) for each in self.prompt)


class TextChoice(BaseModel):
    """One choice."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class TextCompletion(BaseModel):
    """The reply of /v1/completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: ChatUsage
    system_fingerprint: str
    cleave: ChatNote


class TokenizeBody(Body):
    """A text for /tokenize."""

    prompt: Text
    """What to cut into tokens."""
    model: Text | None = None
    """A role of /v1/models; absent: the solver."""
    add_special_tokens: bool = True
    """Also the tokens that the tokenizer puts around every text."""


class TokenizeReply(BaseModel):
    """The reply of /tokenize."""

    tokens: list[int]
    count: int


class TokenizerInfo(BaseModel):
    """The reply of /tokenizer_info."""

    tokenizer_class: str
    model: str
    vocab_size: int
    model_max_length: int
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    chat_template: str | None = None


def _ids(tokens: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(token) for token in tokens)
