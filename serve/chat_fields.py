"""The fields of OpenAI's routes that Cleave knows but cannot act on: accepted where they change nothing, refused elsewhere.

A field is never ignored. Neutral: the value asks for what happens anyway, such as `frequency_penalty: 0`. Labels (`user`,
`metadata`, …) say who asks and never change a reply. Everything else is refused with 400 and the field's name.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from serve.failures import refused

LABELS = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_cache_options": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
REASONS: Mapping[str, str] = {
    "response_format": "replies are plain text; leave it out",
    "suffix": "text is not inserted before other text; leave it out",
    "tools": "tools are not called; leave them out",
    "functions": "functions are not called; leave them out",
    "reasoning_effort": "choose a `strategy`, `samples` or a `budget` instead",
    "modalities": "only text is understood and replied; leave it out",
}


def screen(data: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Drop labels and neutral fields, keep `known` ones. Raises ApiError 400 for the first field that cannot be honoured."""
    kept = {}
    for name, value in data.items():
        if name in known:
            kept[name] = value
        elif value is None or name in LABELS:
            continue
        elif name not in NEUTRAL:
            raise _unknown(str(name), known)
        elif not any(_same(value, neutral) for neutral in NEUTRAL[name]):
            raise refused(f"{name} is not supported: {REASONS.get(name, 'leave it out')}.", name, "unsupported_field")
    return kept


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and not merely because Python takes false for 0."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _unknown(name: str, known: Collection[str]) -> Exception:
    near = difflib.get_close_matches(name, [*known, *NEUTRAL], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "remove it, fields are never ignored."
    return refused(f"unknown field {name[:80]!r}; {hint}", name[:80], "unknown_field")
