"""What travels over HTTP, as strict pydantic models: unknown fields and wrong types are errors, null means absent.

The same models make the OpenAPI document. Left out: fields of OpenAI's that are only accepted at their neutral value
(serve/chat_fields.py), plain text completions (serve/text_schema.py), the single roles' routes (serve/role_schema.py), and what the
values mean for a pipeline (serve/request.py, serve/conversation.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cleave.config.reasoning import SelectionName, StrategyName
from cleave.types import Trace
from serve.chat_fields import screen
from serve.logprobs import ChatLogprobs


def _unicode(text: str) -> str:
    """JSON can write half a surrogate pair, which no encoding can carry. Raises ValueError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text holds half a surrogate pair; send valid Unicode") from error
    return text


Text = Annotated[str, AfterValidator(_unicode)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(gt=0, lt=2**31)]


class Body(BaseModel):
    """Base of what clients send."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class Budget(Body):
    """Limits of one request; the server's own limits hold as well."""

    max_tokens: Count | None = None
    """Prompt plus generated tokens over all roles."""
    max_calls: Count | None = None
    """Model calls over all roles."""
    max_seconds: float | None = Field(None, gt=0)
    """Wall seconds."""
    max_price: float | None = Field(None, gt=0)
    """Price over all roles, in the currency of the models' prices."""
    max_samples: Count | None = None
    """Solutions drawn, over all rounds and stages."""


class Options(Body):
    """How to reason; what is absent is taken from the model that is asked."""

    strategy: StrategyName | None = None
    """direct, single, static, stepwise, dynamic, or adaptive if the server's pipeline has stages."""
    plans: Count | None = None
    """Plans sampled; the solutions are shared among them."""
    plan_temperature: float | None = Field(None, ge=0, le=5)
    """Sampling temperature of the decomposer."""
    max_steps: Count | None = None
    """Most sub-questions of a plan; a longer plan is refused."""
    temperature: float | None = Field(None, ge=0, le=5)
    """Sampling temperature of the solver; 0 is greedy."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Nucleus of the solver's sampling."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Least probability of a token that the solver draws, as a share of the most likely one's; not where its model is an endpoint."""
    selection: SelectionName | None = None
    """How the answer is chosen among the solutions: first or majority; by the verifier's scores rr_all, rr_topk, weighted, weighted_topk or
    maj_topn."""
    stop_early: float | None = Field(None, gt=0.5, le=1)
    """Draw the solutions in rounds and stop once the leading answer is ahead with this probability; absent: the pipeline's own rule."""
    samples_per_round: Count | None = None
    """Solutions per round (stop_early only)."""
    abstain_below: float | None = Field(None, gt=0, le=1)
    """Give no answer whose confidence is below this; absent: the pipeline's own rule."""
    seed: Int64 | None = None
    """The same seed gives the same reply. Absent: greedy replies need none, sampled ones draw a fresh one, which the reply names."""
    max_tokens: Count | None = None
    """Most tokens per reply of the solver; the roles' own limits hold as well."""
    budget: Budget | None = None
    """Limits of this request."""


class SolveBody(Options):
    """A problem for /v1/solve."""

    question: Text
    """What is asked."""
    context: Text = ""
    """A passage or table that belongs to the question."""
    model: Text | None = None
    """A composed pipeline of /v1/models; absent: the default one."""
    n: Count | None = None
    """Solutions sampled."""
    plan: Text | None = None
    """The plan to follow, one line `k. question` per sub-question, #j for the answer of sub-question j; the decomposer is not asked. Only
    with static or stepwise."""
    stream: bool = False
    """Send what happens as named server-sent events, the last of them `trace`."""


class TextPart(Body):
    """A piece of a message; other kinds of content are refused."""

    type: Literal["text"]
    text: Text


class ChatMessage(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]


class StreamOptions(Body):
    """What a stream holds beside the text."""

    include_usage: bool = False
    """A last chunk without choices has the usage."""
    include_obfuscation: Literal[False] = False
    """Padding is not added."""


class Generation(Options):
    """What OpenAI's two routes have in common. Fields of theirs that are not listed are accepted at their neutral value only."""

    model: Text
    """A composed pipeline or a role of /v1/models."""
    n: Count = 1
    """Choices to return, each reasoned out on its own with the next seed. Solutions per choice are `samples`."""
    stop: Text | list[Text] | None = None
    """The text of a choice ends before the first of these strings."""
    samples: Count | None = None
    """Solutions sampled per choice, to select from."""
    stream: bool = False
    """Send the reply as server-sent events while it comes about."""
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    events: bool = False
    """Also stream what happens meanwhile (plans, sub-questions, solutions, verdicts, the vote), as chunks without choices that have it in
    the field `cleave`."""

    @model_validator(mode="before")
    @classmethod
    def _screen(cls, data: Any) -> Any:
        return screen(data, frozenset(cls.model_fields)) if isinstance(data, dict) else data


class ChatBody(Generation):
    """OpenAI's chat completion request."""

    messages: list[ChatMessage] = Field(min_length=1)
    """The last one, from the user, is the question; what comes before it is its context."""
    max_completion_tokens: Count | None = None
    """Another name of max_tokens."""
    logprobs: bool = False
    """Log-probabilities of the reply's tokens; of a single role only."""
    top_logprobs: int = Field(0, ge=0, le=20)
    """Most likely tokens to report in each place (with logprobs only)."""


class ModelNote(BaseModel):
    """What kind of model an entry of /v1/models is."""

    kind: Literal["pipeline", "role"]
    strategy: str | None = None
    samples: int | None = None


class Model(BaseModel):
    """One entry of /v1/models."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "cleave"
    cleave: ModelNote


class ModelList(BaseModel):
    """The reply of /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model]


class ReplyMessage(BaseModel):
    """The text of a choice."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    """None: no answer was given, `refusal` says why."""
    refusal: str | None = None


class ChatChoice(BaseModel):
    """One choice."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class TokenDetails(BaseModel):
    """Of the generated tokens, those that are not part of the choices' texts."""

    reasoning_tokens: int


class ChatUsage(BaseModel):
    """Tokens over every call to every role."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: TokenDetails


class RoleUsage(BaseModel):
    """What the calls to one role cost."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    flops: float
    price: float


class ChoiceNote(BaseModel):
    """How one choice came about. `error` names what stopped the work after the answer was found."""

    index: int
    answer: str | None
    confidence: float | None
    seed: int
    plans: list[str]
    error: dict[str, str] | None = None


class ChatNote(BaseModel):
    """The vendor field of a chat completion. `strategy` None: a single role replied."""

    strategy: str | None
    usage: dict[str, RoleUsage]
    models: dict[str, dict[str, Any]]
    choices: list[ChoiceNote]


class ChatCompletion(BaseModel):
    """The reply of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    system_fingerprint: str
    cleave: ChatNote


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(BaseModel):
    """The body of every reply that is an error, but for failed traces of /v1/solve."""

    error: ErrorDetail


TraceReply = Trace
"""The reply of /v1/solve."""
