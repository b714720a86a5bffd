"""What the decomposer and the solver share: prompts to a model in few calls, replies read strictly, repair retries.

A role is a plain class: a model, a prompt set and limits. Requests of one call that have equal sampling options go to the model
together, and a typed error of the model is raised for all of them (the batcher isolates it). `<think>` blocks are removed before a
reply is read; their tokens are counted like any other. Left out: grouping the requests of many callers (batcher.py), hosting (pool.py).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from cleave.config.model import ModelConfig
from cleave.config.roles import RoleConfig
from cleave.decoding.draft import Draft, Drafting
from cleave.errors import ConfigError
from cleave.lm.build import build
from cleave.lm.protocol import LanguageModel, require
from cleave.lm.reference import resolve
from cleave.lm.thinking import strip_thinking
from cleave.prompts import PromptSet, load_prompts
from cleave.seeds import derive_seed
from cleave.templates import Form
from cleave.types import Completion, ModelInfo, Prompt, Sampling, Usage

DEFAULT_PROMPTS = "instruct-v2"
CHECKPOINT_NOTE = "cleave.json"
"""File of a checkpoint folder that names, under `prompts`, the prompt set it was trained with."""

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


@dataclass(frozen=True)
class Ask:
    """One prompt with its options. `form` is the prompt's kind."""

    prompt: Prompt
    sampling: Sampling
    form: Form


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What a reply was read as, and what is wrong with it (None: nothing). `text` is the reply without thinking."""

    value: T
    text: str
    complaint: str | None = None


@dataclass(frozen=True)
class Replies(Generic[T]):
    """The readings of one request's samples, and what they cost with all repairs."""

    readings: tuple[Reading[T], ...]
    usage: Usage


class PromptedRole:
    """A model that is asked by prompts. Safe to call from many coroutines of one event loop."""

    def __init__(self, model: LanguageModel, prompts: PromptSet, repair_retries: int = 0, max_tokens: int = 256) -> None:
        self.model = model
        self.prompts = prompts
        self.repair_retries = repair_retries
        self.max_tokens = max_tokens

    @property
    def info(self) -> ModelInfo:
        return self.model.info

    async def aclose(self) -> None:
        await self.model.aclose()

    def sampling(self, wanted: Sampling, form: Form) -> Sampling:
        """The request's options within the role's limit of tokens, with the prompt set's stop strings."""
        return replace(wanted, max_tokens=min(wanted.max_tokens, self.max_tokens), stop=(*self.prompts.stops(form), *wanted.stop))

    async def ask(self, asks: Sequence[Ask], read: Callable[[int, Completion, str], Reading[T]]) -> list[Replies[T]]:
        """Ask all, in order. `read(i, completion, visible text)` reads one reply to ask i; a complaint leads to repair retries.

        Raises what the model raises: GenerationError, ConfigError.
        """
        drawn = await generate(self.model, asks)
        replies = [self.read_all(i, result, read) for i, result in enumerate(drawn)]
        for attempt in range(self.repair_retries):
            broken = [
                (i, j)
                for i, reply in enumerate(replies)
                for j, reading in enumerate(reply.readings)
                if reading.complaint is not None and self._can_repair(asks[i])
            ]
            if not broken:
                break
            again = await generate(self.model, [self._again(asks[i], replies[i].readings[j], j, attempt) for i, j in broken])
            for (i, j), result in zip(broken, again, strict=True):
                replies[i] = with_repair(replies[i], j, self.read_all(i, result, read))
        return replies

    def read_all(self, i: int, drawn: Sequence[Completion], read: Callable[[int, Completion, str], Reading[T]]) -> Replies[T]:
        """The readings of all completions of ask i."""
        readings = tuple(read(i, completion, strip_thinking(completion.text)[0]) for completion in drawn)
        return Replies(readings, sum((completion.usage for completion in drawn), Usage()))

    def _can_repair(self, ask: Ask) -> bool:
        """A model of plain text cannot hear a complaint, so without randomness it would only repeat itself."""
        return self.prompts.kind == "chat" or ask.sampling.temperature > 0

    def _again(self, ask: Ask, reading: Reading[T], sample: int, attempt: int) -> Ask:
        seed = None if ask.prompt.seed is None else derive_seed(ask.prompt.seed, "repair", sample, attempt)
        prompt = self.prompts.again(ask.prompt, reading.text, reading.complaint or "", seed)
        return Ask(prompt, replace(ask.sampling, n=1), ask.form)


async def generate(model: LanguageModel, asks: Sequence[Ask]) -> list[list[Completion]]:
    """The completions of each ask, in order, by one call of the model per distinct sampling."""

    def call(sampling: Sampling, members: list[int]) -> Awaitable[list[list[Completion]]]:
        return model.generate([asks[i].prompt for i in members], sampling)

    return await _grouped([ask.sampling for ask in asks], call)


async def draft(model: LanguageModel, prompts: Sequence[Prompt], draftings: Sequence[Drafting]) -> list[list[Draft]]:
    """The drafts of each prompt, in order, by one call of the model per distinct drafting."""

    def call(drafting: Drafting, members: list[int]) -> Awaitable[list[list[Draft]]]:
        return model.drafts([prompts[i] for i in members], drafting)

    return await _grouped(draftings, call)


async def _grouped(options: Sequence[H], call: Callable[[H, list[int]], Awaitable[list[T]]]) -> list[T]:
    """One call for the places of equal options, after the other; the replies in order."""
    groups: dict[H, list[int]] = {}
    for i, option in enumerate(options):
        groups.setdefault(option, []).append(i)
    replies: dict[int, T] = {}
    for option, members in groups.items():
        replies.update(zip(members, await call(option, members), strict=True))
    return [replies[i] for i in range(len(options))]


def with_repair(replies: Replies[T], sample: int, repaired: Replies[T]) -> Replies[T]:
    """Put a repaired reading in the place of the broken one, and add its cost."""
    readings = list(replies.readings)
    readings[sample] = repaired.readings[0]
    return Replies(tuple(readings), replies.usage + repaired.usage)


def open_model(
    config: RoleConfig, model: LanguageModel | None, purpose: str, default_prompts: str = DEFAULT_PROMPTS
) -> tuple[LanguageModel, PromptSet]:
    """The model and the prompts of a role; `model` None: built from the config. Raises ConfigError if they do not fit together."""
    if model is None:
        model = build(config.model)
    prompts = load_prompts(prompts_name(config, model, default_prompts))
    require(model, prompts.kind, purpose=f"{purpose} with the prompts {prompts.name}")
    return model, prompts


def prompts_name(config: RoleConfig, model: LanguageModel | None = None, default: str = DEFAULT_PROMPTS) -> str:
    """The config's prompt set; 'auto' is what the checkpoint (of a recording: the recorded one) was trained with, else `default`, the
    shipped set for instruction models."""
    if config.prompts != "auto":
        return config.prompts
    if config.model.backend == "recorded" and model is not None:
        return _recorded_with(model.info.name) or default
    return checkpoint_note(config.model).get("prompts") or default


def _recorded_with(name: str) -> str | None:
    try:
        recorded = ModelConfig.model_validate(name)
    except ValidationError:  # not a short string, so no folder to look into
        return None
    return checkpoint_note(recorded).get("prompts")


def checkpoint_note(model: ModelConfig) -> dict[str, str]:
    """What a checkpoint says of itself: `prompts`, `role`. Empty for any other model. Raises ConfigError for a note that is no note."""
    folder = checkpoint_folder(model)
    note = folder / CHECKPOINT_NOTE if folder is not None else None
    if note is None or not note.is_file():
        return {}
    try:
        return {str(key): str(value) for key, value in json.loads(note.read_text(encoding="utf-8")).items() if value}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"cannot read {note}: {error}; remove it, or name the prompts in the config.") from error


def checkpoint_folder(model: ModelConfig) -> Path | None:
    """Where a local checkpoint lies; None for endpoints and recordings. A Hub id is a folder that is not there."""
    if model.backend == "reference":
        return resolve(model.model_name_or_path)
    return Path(model.model_name_or_path).expanduser() if model.backend == "hf" else None
