"""The values that travel between the parts: problems, plans, solutions, verdicts, traces, and what a model is asked and replies.

All are frozen dataclasses with a JSON round trip (`to_json`, `from_json`). A task produces Problem; the decomposer Plan; the
solver Solution; the verifier Verdict; the reasoning loop exactly one Trace per submitted problem, failed or not.
Left out: parsing (plans.py, solutions.py), prompts (prompts.py) and anything that talks to a model (lm/).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from cleave.errors import DataError

Finish = Literal["stop", "length", "error", "budget"]
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One sub-question. `id` counts from 1; `needs` are the ids of the steps whose answers `question` refers to as #j."""

    id: int
    question: str
    needs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Sub-questions in topological order: a step refers only to steps before it. An empty plan means: no decomposition needed."""

    steps: tuple[Step, ...] = ()

    @property
    def text(self) -> str:
        """The written form, one line per step: `k. question`."""
        return "\n".join(f"{step.id}. {step.question}" for step in self.steps)

    @property
    def depth(self) -> int:
        """Length of the longest chain of steps."""
        level: dict[int, int] = {}
        for step in self.steps:
            level[step.id] = 1 + max((level[j] for j in step.needs), default=0)
        return max(level.values(), default=0)


@dataclass(frozen=True)
class SolutionStep:
    """One answered sub-question: what was written for it and the short answer read from it."""

    id: int
    text: str
    answer: str


@dataclass(frozen=True)
class Problem:
    """A question with what is known about it. Produced by tasks; `answer` and the gold fields are None or empty where unknown.

    `context` is a passage or table that belongs to the question. `depth` is the number of reasoning levels, 0 where unknown.
    """

    id: str
    question: str
    context: str = ""
    answer: str | None = None
    task: str = ""
    skills: tuple[str, ...] = ()
    depth: int = 0
    gold_plan: Plan | None = None
    gold_steps: tuple[SolutionStep, ...] = ()

    @property
    def text(self) -> str:
        """Context and question as one text."""
        return f"{self.context}\n{self.question}" if self.context else self.question


@dataclass(frozen=True)
class Usage:
    """What calls to one role cost. `seconds` is time in the model, `flops` those of the forward pass, `price` in the config's currency."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    price: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Solution:
    """A solver's reply. `answer` None: no final answer was found in `text`. `logprob` is the mean log-probability per generated token."""

    steps: tuple[SolutionStep, ...] = ()
    answer: str | None = None
    text: str = ""
    logprob: float | None = None
    usage: Usage = Usage()
    finish: Finish = "stop"


@dataclass(frozen=True)
class Verdict:
    """A verifier's opinion of one solution. `score` lies in [0, 1]; `raw` is the number it came from; `step_scores` may be empty."""

    score: float
    raw: float = 0.0
    step_scores: tuple[float, ...] = ()
    usage: Usage = Usage()


@dataclass(frozen=True)
class ModelInfo:
    """Which weights answered. `parameters` is None where the backend cannot know it (a remote endpoint)."""

    name: str
    revision: str = ""
    dtype: str = ""
    parameters: int | None = None


@dataclass(frozen=True)
class Failure:
    """An error as data: the class name in errors.py, its message, and the role that failed ('' for the loop itself)."""

    type: str
    message: str
    role: str = ""


@dataclass(frozen=True)
class Trace:
    """Everything that happened to one problem. Produced by the reasoning loop, once per submitted problem, failed or not.

    `chosen` is the index into `solutions` whose answer was selected, None when there is none. `confidence` lies in [0, 1].
    `usage` and `models` are keyed by role. `timings` are wall seconds by phase. `plans[i]` belongs to `solutions[i]` when
    there are as many plans as solutions; a single plan belongs to all. `stages`: how many of the solutions each stage brought that was
    entered (adaptive), in order; empty: there are no stages.
    """

    problem: Problem
    strategy: str
    seed: int = 0
    plans: tuple[Plan, ...] = ()
    solutions: tuple[Solution, ...] = ()
    verdicts: tuple[Verdict | None, ...] = ()
    answer: str | None = None
    chosen: int | None = None
    confidence: float | None = None
    usage: Mapping[str, Usage] = field(default_factory=dict)
    models: Mapping[str, ModelInfo] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    error: Failure | None = None
    stages: tuple[int, ...] = ()

    @property
    def total_usage(self) -> Usage:
        return sum(self.usage.values(), Usage())

    def plan_of(self, i: int) -> Plan | None:
        """The plan that solution i followed."""
        return self.plans[i if len(self.plans) == len(self.solutions) else 0] if self.plans else None

    def stage_of(self, i: int) -> range:
        """The places of all solutions that are of the same stage as solution i."""
        start = 0
        for size in self.stages:
            if i < start + size:
                return range(start, start + size)
            start += size
        return range(len(self.solutions))


@dataclass(frozen=True)
class Message:
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt:
    """What a language model is asked: plain `text` or chat `messages`, exactly one of them.

    `seed` makes the reply a function of (prompt, sampling options); sample i of a prompt draws from (seed, i). None: unseeded.
    """

    text: str | None = None
    messages: tuple[Message, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (not self.messages):
            raise ValueError("a Prompt has either text or messages")


@dataclass(frozen=True)
class Sampling:
    """How to draw replies. `temperature` 0 is greedy. `n` replies per prompt. `stop` strings end a reply and are not part of it.

    Filters apply at the temperature and in this order: the `top_k` most likely tokens; of these the fewest of total probability `top_p`;
    of these the ones with at least `min_p` times the probability of the most likely (arXiv 2407.01082). `top_k` 0, `top_p` 1 and `min_p` 0
    switch the filter off. `logprobs` is the number of alternatives reported per token.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    n: int = 1
    stop: tuple[str, ...] = ()
    logprobs: int = 0

    @property
    def is_greedy(self) -> bool:
        """Whether every draw is the most likely token, so that no noise is needed and all samples of a prompt are equal."""
        return self.temperature == 0 or self.top_k == 1


@dataclass(frozen=True)
class Completion:
    """One reply. `logprobs` are of the drawn tokens under the model at temperature 1; empty where a backend gives none.

    `top_logprobs` holds, per token, (token id, log-probability) of the best alternatives, best first.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    finish: Finish = "stop"
    usage: Usage = Usage()

    @property
    def mean_logprob(self) -> float | None:
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else None


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _validated(cls: type[T], data: Mapping[str, Any]) -> T:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    value: T = _ADAPTERS[cls].validate_python(data)
    return value


def to_dict(value: Any) -> dict[str, Any]:
    """Return a dataclass of this module as plain JSON types (tuples become lists on `json.dumps`)."""
    return {name: _plain(getattr(value, name)) for name in type(value).__dataclass_fields__}


def _plain(value: Any) -> Any:
    """What `dataclasses.asdict` makes of a part, in less than half the time: values that cannot change need no copies."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list):
        return type(value)([_plain(part) for part in value])
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return to_dict(value) if is_dataclass(value) else value


def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
    """Build a dataclass of this module from `to_dict`'s result. Raises DataError naming the first field that does not fit."""
    unknown = set(data) - {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if unknown:
        raise DataError(f"{cls.__name__} has no field {sorted(unknown)[0]!r}; was it written by another version of Cleave?")
    try:
        return _validated(cls, data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{cls.__name__}.{where}: {first['msg']}") from error


def to_json(value: Any) -> str:
    """Return one line of JSON."""
    return json.dumps(to_dict(value), ensure_ascii=False)


def from_json(cls: type[T], text: str | bytes) -> T:
    """Inverse of `to_json`. Raises DataError."""
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not a JSON {cls.__name__}: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"not a JSON {cls.__name__}: expected an object")
    return from_dict(cls, data)


def answers(solutions: Sequence[Solution]) -> list[str | None]:
    """The final answers of some solutions, in their order."""
    return [solution.answer for solution in solutions]
