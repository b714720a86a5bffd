"""What travels over the routes of single roles: `/v1/decompose`, `/v1/verify`, `/v1/drafts`, as strict pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from serve.schema import Body, Count, Int64, RoleUsage, Text

Stops = Annotated[list[Annotated[Text, Field(min_length=1)]], Field(max_length=4)]


class DecomposeBody(Body):
    """A problem for /v1/decompose."""

    question: Text
    """What is asked."""
    context: Text = ""
    """A passage or table that belongs to the question."""
    n: Count = 1
    """Plans."""
    temperature: float = Field(0.0, ge=0, le=5)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of the sampling."""
    max_steps: Count | None = None
    """Most sub-questions of a plan; a longer plan is refused."""
    max_tokens: Count | None = None
    """Most tokens per plan; the role's own limit holds as well."""
    seed: Int64 | None = None
    """The same seed gives the same plans. Absent: as in /v1/solve."""


class StepReply(BaseModel):
    """One sub-question; `needs` are the ids of those whose answers it refers to as #j."""

    id: int
    question: str
    needs: list[int]


class FailureReply(BaseModel):
    """Something that failed, while others did not."""

    type: str
    message: str
    role: str


class PlansReply(BaseModel):
    """The reply of /v1/decompose. A plan is null where its text, which is in `texts`, could not be read; `failures` say why."""

    plans: list[list[StepReply] | None]
    texts: list[str]
    failures: list[FailureReply]
    seed: int
    usage: RoleUsage
    model: dict[str, Any]


class VerifyBody(Body):
    """Solutions of one problem for /v1/verify."""

    question: Text
    """What is asked."""
    context: Text = ""
    """A passage or table that belongs to the question."""
    solutions: list[Text] = Field(min_length=1)
    """Solutions as text: one line per step, the last line `The answer is: X`."""
    plan: Text | None = None
    """The plan that they followed: one line per sub-question, `k. question`."""


class VerdictReply(BaseModel):
    """What the verifier thinks of one solution. `score` lies in [0, 1], `raw` is what it came from; `answer` was read from the text."""

    score: float
    raw: float
    step_scores: list[float]
    answer: str | None


class VerdictsReply(BaseModel):
    """The reply of /v1/verify, in the order of the solutions. A verdict is null where the verifier failed; `failures` say why."""

    verdicts: list[VerdictReply | None]
    failures: list[FailureReply]
    usage: RoleUsage
    model: dict[str, Any]


class DraftsBody(Body):
    """A text for /v1/drafts."""

    prefix: Text = Field(min_length=1)
    """What to go on from."""
    model: Text = "solver"
    """A role of /v1/models."""
    k: Annotated[int, Field(ge=1, le=32)] = 3
    """Drafts."""
    max_tokens: Count = 10
    """Most tokens of a draft; superposition holds for about the first ten."""
    temperature: float = Field(0.06, gt=0, le=5)
    """What logits are divided by; near 0 is greedy."""
    alpha: float = Field(0.54, ge=0, le=1)
    """Weight of the model's n-gram tables, if it has any."""
    reset_every: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Every so many tokens one draft is drawn and all go on from it; 0: never."""
    stop: Stops = Field(default_factory=list)
    """Strings that end a draft and are not part of it."""
    seed: Int64 = 0
    """The same seed gives the same drafts (it matters with reset_every only)."""


class DraftReply(BaseModel):
    """One continuation. `logprob` is what drafts are ranked by, not its log-probability under the model; `perplexity` is null beyond all
    floats."""

    text: str
    logprob: float
    perplexity: float | None
    tokens: int
    finish_reason: Literal["stop", "length"]


class DraftsReply(BaseModel):
    """The reply of /v1/drafts, best first."""

    drafts: list[DraftReply]
    usage: RoleUsage
    model: dict[str, Any]
