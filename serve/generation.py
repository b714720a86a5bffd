"""What OpenAI's two routes, for chats and for plain text, do in the same way: options of streams and of single roles, and listening."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from cleave.config.reasoning import ReasoningConfig
from cleave.errors import Abstained
from cleave.events import Event
from cleave.roles import Role
from cleave.types import Problem, Sampling, Trace
from serve.chunks import Writer
from serve.failures import api_error, refused
from serve.schema import Generation
from serve.service import Listener, Service

MAX_STOPS = 4
ROLE_REFUSES = (
    "strategy",
    "samples",
    "plans",
    "plan_temperature",
    "selection",
    "stop_early",
    "samples_per_round",
    "abstain_below",
    "budget",
    "max_steps",
    "events",
)


async def listened(
    service: Service,
    writer: Writer[Any],
    body: Generation,
    problems: Sequence[Problem],
    reasoning: ReasoningConfig,
    max_tokens: int | None,
) -> list[Trace]:
    """The traces of all choices, each with an answer; what happens meanwhile is written, if it is wanted."""

    def on_event(choice: int, event: Event) -> None:
        if body.events:
            writer.event({"choice": choice, **event.to_dict()})

    listener = Listener(on_event, writer.text)
    traces = await service.reason(problems, reasoning, choices=body.n, max_tokens=max_tokens, listener=listener)
    return [answered(trace) for trace in traces]


def refuse_for_role(body: Generation, role: Role) -> None:
    """Raise ApiError 400 for an option that only a composed pipeline has."""
    for name in ROLE_REFUSES:
        if getattr(body, name) not in (None, False):
            raise refused(f"{name} applies to composed pipelines, {role!r} is a single role; leave it out.", name, "unsupported_field")


def sampling_of(body: Generation, max_tokens: int, stop: list[str]) -> tuple[Sampling, int]:
    """How a single role draws, and from which seed; what is drawn without a seed gets a fresh one."""
    temperature = body.temperature or 0.0
    seed = body.seed if body.seed is not None else secrets.randbits(31) if temperature else 0
    top_p, min_p = body.top_p or 1.0, body.min_p or 0.0
    return Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, min_p=min_p, n=body.n, stop=tuple(stop)), seed


def check_stream(body: Generation) -> None:
    """Raise ApiError 400 for options of streams without one."""
    for name in ("stream_options", "events"):
        if getattr(body, name) and not body.stream:
            raise refused(f"{name} is for streams; send `stream: true`, or leave it out.", name)


def wants_usage(body: Generation) -> bool:
    """Whether a stream ends with the usage."""
    return body.stream_options is not None and body.stream_options.include_usage


def answered(trace: Trace) -> Trace:
    """The trace, unless it found nothing. Raises ApiError with what stopped it; to abstain is an answer."""
    if trace.answer is None and trace.error is not None and trace.error.type != Abstained.__name__:
        raise api_error(trace.error)
    return trace


def stops_of(body: Generation) -> list[str]:
    """The stop strings. Raises ApiError 400."""
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MAX_STOPS or not all(stops):
        raise refused(f"stop takes up to {MAX_STOPS} strings, none of them empty.", "stop")
    return stops
