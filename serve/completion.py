"""From traces, or from what one role said, to an OpenAI completion: of a chat, or of plain text.

A choice's text is the chosen solution's, steps and answer line; the bare answer is in the vendor field `cleave`, with the split of
the cost per role. `usage` adds up every call to every role, samples that were not chosen included.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from typing import Literal

from cleave.roles import Role
from cleave.types import Finish, ModelInfo, Trace, Usage
from serve import logprobs
from serve.model_calls import Continued, Said, Spoken
from serve.schema import (
    ChatChoice,
    ChatCompletion,
    ChatNote,
    ChatUsage,
    ChoiceNote,
    ReplyMessage,
    RoleUsage,
    TokenDetails,
)
from serve.service import Texts
from serve.shown import cut
from serve.text_schema import TextChoice, TextCompletion

FINISH: Mapping[Finish, Literal["stop", "length"]] = {"stop": "stop", "length": "length", "error": "stop", "budget": "length"}


def of_traces(model: str, traces: Sequence[Trace], stop: Sequence[str]) -> ChatCompletion:
    """One choice per trace; each trace has an answer or abstained."""
    first = traces[0]
    usage = reduce(_merge, (trace.usage for trace in traces))
    return ChatCompletion(
        id=new_id("chatcmpl"),
        created=int(time.time()),
        model=model,
        choices=[_withheld(i, trace) or _choice(i, text_of(trace), _finish(trace), stop) for i, trace in enumerate(traces)],
        usage=_usage(usage, shown=sum(_shown(trace) for trace in traces)),
        system_fingerprint=fingerprint(first.models),
        cleave=ChatNote(
            strategy=first.strategy,
            usage=_split(usage),
            models={role: asdict(info) for role, info in first.models.items()},
            choices=[_note(i, trace) for i, trace in enumerate(traces)],
        ),
    )


def of_texts(role: Role, replies: Texts, seed: int, stop: Sequence[str]) -> ChatCompletion:
    """One choice per text of a single role."""
    usage: dict[str, Usage] = {role: replies.usage}
    choices = [_choice(i, text, FINISH[finish], stop) for i, (text, finish) in enumerate(zip(replies.texts, replies.finishes, strict=True))]
    return ChatCompletion(
        id=new_id("chatcmpl"),
        created=int(time.time()),
        model=role,
        choices=choices,
        usage=_usage(usage, shown=replies.usage.completion_tokens),
        system_fingerprint=fingerprint({role: replies.model}),
        cleave=role_note(role, replies.usage, replies.model, seed, len(choices)),
    )


def of_said(role: Role, said: Said, seed: int, stop: Sequence[str]) -> ChatCompletion:
    """The same with the tokens of each text."""
    texts = Texts(tuple(each.text for each in said.texts), tuple(each.finish for each in said.texts), said.usage, said.model)
    completion = of_texts(role, texts, seed, stop)
    for choice, spoken in zip(completion.choices, said.texts, strict=True):
        choice.logprobs = logprobs.of_chat(spoken) if spoken.tokens else None
    return completion


def of_continued(role: Role, continued: Continued, seed: int, alternatives: int | None) -> TextCompletion:
    """One choice per text that a role's model went on with. `alternatives` None: no tokens are wanted."""
    usage = _usage({role: continued.usage}, shown=continued.usage.completion_tokens)
    return TextCompletion(
        id=new_id("cmpl"),
        created=int(time.time()),
        model=role,
        choices=[text_choice(i, spoken, alternatives) for i, spoken in enumerate(continued.texts)],
        usage=usage,
        system_fingerprint=fingerprint({role: continued.model}),
        cleave=role_note(role, continued.usage, continued.model, seed, len(continued.texts)),
    )


def text_choice(index: int, spoken: Spoken, alternatives: int | None) -> TextChoice:
    """One choice of a text completion."""
    tokens = None if alternatives is None else logprobs.of_text(spoken, with_top=alternatives > 0)
    return TextChoice(index=index, text=spoken.text, logprobs=tokens, finish_reason=FINISH[spoken.finish])


def as_text(chat: ChatCompletion) -> TextCompletion:
    """A chat completion in the form of a text completion. A choice that was withheld has no text."""
    choices = [TextChoice(index=c.index, text=c.message.content or "", finish_reason=c.finish_reason) for c in chat.choices]
    return TextCompletion(
        id=new_id("cmpl"),
        created=chat.created,
        model=chat.model,
        choices=choices,
        usage=chat.usage,
        system_fingerprint=chat.system_fingerprint,
        cleave=chat.cleave,
    )


def role_note(role: Role, usage: Usage, model: ModelInfo, seed: int, choices: int) -> ChatNote:
    """The vendor field where a single role replied."""
    return ChatNote(
        strategy=None,
        usage=_split({role: usage}),
        models={role: asdict(model)},
        choices=[ChoiceNote(index=i, answer=None, confidence=None, seed=seed, plans=[]) for i in range(choices)],
    )


def text_of(trace: Trace) -> str:
    """The chosen solution as it was written, without white space around it; its bare answer where there is no text."""
    text = trace.solutions[trace.chosen].text.strip() if trace.chosen is not None else ""
    return text or trace.answer or ""


def fingerprint(models: Mapping[str, ModelInfo]) -> str:
    """Changes when other weights answer."""
    named = json.dumps({role: asdict(info) for role, info in models.items()}, sort_keys=True)
    return f"fp_{hashlib.sha256(named.encode()).hexdigest()[:12]}"


def _choice(index: int, text: str, finish: Literal["stop", "length"], stop: Sequence[str]) -> ChatChoice:
    kept = cut(text, stop)
    return ChatChoice(index=index, message=ReplyMessage(content=kept), finish_reason=finish if kept == text else "stop")


def _withheld(index: int, trace: Trace) -> ChatChoice | None:
    """The choice of a trace that abstained: no text, and why as OpenAI's `refusal`."""
    if trace.answer is not None or trace.error is None:
        return None
    return ChatChoice(index=index, message=ReplyMessage(content=None, refusal=trace.error.message), finish_reason="stop")


def _finish(trace: Trace) -> Literal["stop", "length"]:
    return FINISH[trace.solutions[trace.chosen].finish] if trace.chosen is not None else "stop"


def _shown(trace: Trace) -> int:
    return trace.solutions[trace.chosen].usage.completion_tokens if trace.chosen is not None else 0


def _usage(usage: Mapping[str, Usage], shown: int) -> ChatUsage:
    total = sum(usage.values(), Usage())
    return ChatUsage(
        prompt_tokens=total.prompt_tokens,
        completion_tokens=total.completion_tokens,
        total_tokens=total.tokens,
        completion_tokens_details=TokenDetails(reasoning_tokens=max(0, total.completion_tokens - shown)),
    )


def _note(index: int, trace: Trace) -> ChoiceNote:
    return ChoiceNote(
        index=index,
        answer=trace.answer,
        confidence=trace.confidence,
        seed=trace.seed,
        plans=[plan.text for plan in trace.plans],
        error=asdict(trace.error) if trace.error else None,
    )


def _merge(a: Mapping[str, Usage], b: Mapping[str, Usage]) -> dict[str, Usage]:
    return {role: a.get(role, Usage()) + b.get(role, Usage()) for role in {**a, **b}}


def _split(usage: Mapping[str, Usage]) -> dict[str, RoleUsage]:
    return {role: RoleUsage(**asdict(cost)) for role, cost in usage.items()}


def new_id(kind: str) -> str:
    """A name for a reply."""
    return f"{kind}-{uuid.uuid4().hex}"
