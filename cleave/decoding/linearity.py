"""How far a model is linear in its input embeddings: the premise of superposed decoding, measured step by step.

    steps = measure(model, prompts, Drafting(k=3, max_tokens=20), eos_ids={1})

At each step the model reads the superposition x̃ of k drafts, after the superpositions before it; beside it, it reads each draft i as it
is. With f the hidden state that the output layer reads, the paper (arXiv 2405.18400) asks how like f(x̃) is to Σ γ_i f(z_i): the cosine.
Two controls: hidden states of one model are alike in any case, so how like f(x̃) is to the Σ γ_i f(z_i) of the next prompt at the same
step; and the largest γ, as a superposition of one draft and traces of others says nothing, which is the case at low temperatures where
the model is sure. Left out: n-grams, and the drafts themselves (superposed.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from cleave.decoding.batch import Batch
from cleave.decoding.draft import Drafting
from cleave.decoding.frontier import I64, Frontier, Mask
from cleave.decoding.sample import check_length
from cleave.decoding.superposed import kept_tokens, require_superposable, require_vocabulary, superposed
from cleave.errors import ConfigError

MOST_AT_ONCE = 32
"""Prompts measured in one batch; the drafts read apart are k times as many rows."""


@dataclass(frozen=True)
class Likeness:
    """One step: the mean cosine over prompts with its standard deviation; means of the cosine with another prompt's drafts and of the
    largest weight; how many prompts had drafts to go on."""

    step: int
    prompts: int
    cosine: float
    deviation: float
    control: float
    top_weight: float


@torch.inference_mode()
def measure(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    drafting: Drafting,
    *,
    eos_ids: AbstractSet[int],
    max_len: int,
    on_prompts: Callable[[int], None] = lambda prompts: None,
) -> list[Likeness]:
    """The likeness at each of `drafting.max_tokens` steps. Drafts that end leave their place to others; prompts go on to the last step.

    Raises ConfigError for a model that cannot be superposed, and for prompts that are too few, empty or too long.
    """
    require_superposable(model)
    require_vocabulary(model, drafting)
    if len(prompts) < 2:
        raise ConfigError(f"{len(prompts)} prompts are too few, as each is compared with the next one; give 2 or more.")
    for prompt in prompts:
        check_length(prompt, max_len)
        if len(prompt) + drafting.max_tokens > max_len:
            raise ConfigError(f"a prompt of {len(prompt)} tokens leaves no room for {drafting.max_tokens} steps of {max_len}; shorten one.")
    batches = _all_states(model, sorted(prompts, key=len), drafting, eos_ids, on_prompts)
    mixed, combined, weights = (torch.cat(parts, 1) for parts in zip(*batches, strict=True))
    return [_likeness(i + 1, mixed[i], combined[i], weights[i]) for i in range(drafting.max_tokens)]


def _all_states(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    drafting: Drafting,
    eos_ids: AbstractSet[int],
    on_prompts: Callable[[int], None],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """f(x̃) and Σ γ_i f(z_i) of all steps, (steps, B, D) each, batch by batch, and the largest weights (steps, B): 0 where a prompt has no
    draft any more."""
    for start in range(0, len(prompts), MOST_AT_ONCE):
        batch = prompts[start : start + MOST_AT_ONCE]
        yield _states(model, batch, drafting, eos_ids)
        on_prompts(len(batch))


def _states(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], drafting: Drafting, eos_ids: AbstractSet[int]
) -> tuple[Tensor, Tensor, Tensor]:
    room, places = drafting.max_tokens, drafting.k
    frontier, embedding, ends = Frontier(prompts, drafting, room), model.get_input_embeddings(), _ends(eos_ids)
    together, apart = Batch(model, prompts, room), Batch(model, prompts, room)
    apart.select(np.repeat(np.arange(len(prompts)), places).tolist())
    first = np.arange(len(prompts))[:, None] * places
    mixed, combined, largest = [], [], []
    with final_states(model) as states:
        for _ in range(room):
            frontier.extend(*kept_tokens(together.logits, drafting), ends)
            tokens, weights = frontier.tokens[:, :, frontier.length - 1], frontier.weights
            together.step_embedded(superposed(embedding, tokens, weights))
            mixed.append(states.pop().cpu())
            apart.select((first + frontier.parents).ravel().tolist())
            apart.step(torch.from_numpy(tokens.ravel()).to(apart.device))
            read = states.pop().cpu().reshape(len(prompts), places, -1)
            combined.append((read * torch.from_numpy(weights)[:, :, None]).sum(1))
            largest.append(torch.from_numpy(weights.max(1)))
    return torch.stack(mixed), torch.stack(combined), torch.stack(largest)


@contextmanager
def final_states(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """A list that gets, at each forward pass, what the output layer reads at the last place, (B, D) float64."""
    states: list[Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        states.append(inputs[0][:, -1].double())

    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert head is not None
    hook = head.register_forward_pre_hook(note)
    try:
        yield states
    finally:
        hook.remove()


def _likeness(step: int, mixed: Tensor, combined: Tensor, weights: Tensor) -> Likeness:
    there = weights > 0
    if not there.any():
        return Likeness(step, 0, *[math.nan] * 4)
    mixed, combined = mixed[there], combined[there]
    cosines = torch.cosine_similarity(mixed, combined, dim=-1)
    control = torch.cosine_similarity(mixed, combined.roll(1, dims=0), dim=-1)
    deviation = cosines.std(correction=0)
    return Likeness(step, len(mixed), *(float(each) for each in (cosines.mean(), deviation, control.mean(), weights[there].mean())))


def _ends(eos_ids: AbstractSet[int]) -> Callable[[I64, I64, I64], Mask]:
    def ends(drafts: I64, parents: I64, tokens: I64) -> Mask:
        return np.isin(tokens, sorted(eos_ids))

    return ends
