"""From what a request says to how it is reasoned about: options laid over the model's own, limits checked, seeds drawn.

Every mistake is an ApiError 400 or 413 that names the field. Used by the routes; left out: doing the work (serve/service.py).
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from pydantic import ValidationError

from cleave.config.reasoning import PLANNED, BudgetConfig, ReasoningConfig
from cleave.config.serve import LimitsConfig
from cleave.errors import ParseError
from cleave.plans import parse_plan
from cleave.types import Plan, Problem
from serve.failures import ApiError, refused
from serve.schema import Budget, Options

STAGED = (
    "plans",
    "plan_temperature",
    "max_steps",
    "temperature",
    "top_p",
    "min_p",
    "selection",
    "stop_early",
    "samples_per_round",
)
"""Options that each stage of `adaptive` has for itself."""
OVERRIDES = ("strategy", *STAGED, "abstain_below", "seed")


def problem_of(question: str, context: str, limits: LimitsConfig) -> Problem:
    """The problem; its id is a function of its text, so that a seed gives the same reply again. Raises ApiError 400 or 413."""
    question, context = question.strip(), context.strip()
    if not question:
        raise refused("the question is empty; ask something.", "question", "empty_question")
    size = len(question.encode()) + len(context.encode())
    if size > limits.max_question_bytes:
        message = f"question and context have {size} bytes, more than {limits.max_question_bytes}; ask something shorter."
        raise ApiError(413, message, "question_too_large", "question")
    digest = hashlib.sha256(f"{context}\0{question}".encode()).hexdigest()
    return Problem(f"http-{digest[:16]}", question, context, task="http")


def reasoning_of(
    base: ReasoningConfig, options: Options, samples: int | None, limits: LimitsConfig, *, choices: int = 1
) -> ReasoningConfig:
    """The model's way of reasoning with the request's options over it. Raises ApiError 400."""
    data = base.model_dump() | _given(options)
    if options.budget is not None:
        data["budget"] = tighter(base.budget, options.budget).model_dump()
    if data["strategy"] == "adaptive":
        _check_staged(base, options, samples)
    else:
        data |= _unstaged(data, options, samples)
        if data["n"] > data["plans"] and data["temperature"] == 0:
            raise refused(f"{data['n']} solutions at temperature 0 are all the same; set temperature, for example to 0.7.", "temperature")
    reasoning = _validated(data)
    check_fan_out(reasoning.most_samples * choices, limits)
    if options.seed is None and reasoning.is_random:
        return reasoning.model_copy(update={"seed": secrets.randbits(31)})
    return reasoning


def plan_of(text: str | None) -> Plan | None:
    """The plan that a client wrote, if any. Raises ApiError 400."""
    if text is None:
        return None
    try:
        return parse_plan(text)
    except ParseError as error:
        raise refused(f"plan: {error}", "plan") from error


def following(reasoning: ReasoningConfig, plan: Plan) -> ReasoningConfig:
    """The same way of reasoning along a given plan. Raises ApiError 400 where it cannot."""
    if reasoning.strategy not in PLANNED:
        raise refused(f"the strategy {reasoning.strategy} follows no given plan; name static or stepwise, or leave plan out.", "plan")
    if reasoning.plans > 1:
        raise refused(f"a given plan is one plan, not {reasoning.plans}; set plans to 1, or leave plan out.", "plans")
    if reasoning.max_steps is not None and len(plan.steps) > reasoning.max_steps:
        raise refused(f"the plan has {len(plan.steps)} steps, more than max_steps={reasoning.max_steps}; shorten it.", "plan")
    return reasoning


def _check_staged(base: ReasoningConfig, options: Options, samples: int | None) -> None:
    """The server has stages, and the request leaves them as they are. Raises ApiError 400."""
    if not base.stages:
        raise refused("this server's pipeline has no stages; name another strategy, or start it with reasoning.stages.", "strategy")
    given = [name for name in STAGED if getattr(options, name) is not None]
    if samples is not None:
        given.append("samples" if "samples" in type(options).model_fields else "n")
    if given:
        raise refused(f"each stage of adaptive has its own {given[0]}; leave it out, or name another strategy.", given[0])


def _unstaged(data: dict[str, Any], options: Options, samples: int | None) -> dict[str, Any]:
    """What the number of solutions and the strategy change: a strategy that makes no plans takes the one that it has."""
    changed = {} if samples is None else {"n": samples}
    return changed | ({"plans": 1} if options.plans is None and data["strategy"] not in PLANNED else {})


def _validated(data: dict[str, Any]) -> ReasoningConfig:
    try:
        return ReasoningConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise refused(str(first["msg"]).removeprefix("Value error, ").rstrip(".") + ".", param) from error


def tighter(server: BudgetConfig, asked: Budget) -> BudgetConfig:
    """The smaller of two limits, each."""
    limits: dict[str, Any] = {}
    for name in BudgetConfig.model_fields:
        given = [value for value in (getattr(server, name), getattr(asked, name)) if value is not None]
        limits[name] = min(given, default=None)
    return BudgetConfig.model_validate(limits)


def check_fan_out(solutions: int, limits: LimitsConfig) -> None:
    """Raise ApiError 400 for more solutions than one request may have sampled."""
    if solutions > limits.max_n:
        raise refused(f"{solutions} solutions are more than this server samples per request; ask for at most {limits.max_n}.", "n")


def reply_limit(asked: int | None, limits: LimitsConfig, param: str = "max_tokens") -> int | None:
    """The tokens per reply that the request allows; None: the roles' own. Raises ApiError 400."""
    if asked is not None and asked > limits.max_tokens:
        raise refused(f"{param} is {asked}, this server allows {limits.max_tokens}; ask for less.", param)
    return asked


def _given(options: Options) -> dict[str, Any]:
    return {name: value for name in OVERRIDES if (value := getattr(options, name)) is not None}
