"""Superposed decoding (arXiv 2405.18400): k drafts of a prompt for about one reply's forward passes, on any decoder-only model.

    drafter = Drafter(model, tokenizer, eos_ids={2}, max_len=2048)
    [drafted] = drafter.draft([[1, 5, 9]], seeds=[0], drafting=Drafting(k=3))

The model reads one stream per prompt. Its input at each step is the drafts' last tokens, superposed: x̃ = Σ γ_i z(x_i), with z the input
embedding and γ the drafts' joint probabilities, normalised. From what it predicts then, one distribution for all drafts, the best `kept`
tokens at `temperature` extend every draft, weighted by the n-grams of that draft's own tokens, from the first token on (frontier.py).
A prompt is done when k drafts have ended or the length is reached; its drafts are the k of lowest perplexity among those that ended and,
if fewer than k did, those that reached the length. (The authors' program always goes on to the full length.) So k = 1 without n-grams is
greedy decoding. Fewer drafts come out where there were fewer continuations, as the n-grams rule out what they do not know. Prompts are
decoded in left-padded batches; neither the others nor their number change a prompt's drafts, up to float rounding. Left out: sampling
(sample.py), and models that read token ids beside embeddings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cleave.decoding.batch import Batch
from cleave.decoding.draft import Draft, Drafting
from cleave.decoding.frontier import F64, I64, Ends, Frontier, Leaf, Mask
from cleave.decoding.ngrams import NgramTables
from cleave.decoding.noise import as_keys, row_key, uniforms
from cleave.decoding.sample import SamplingCancelled, check_length
from cleave.decoding.stopping import StopStrings, cut, text_of
from cleave.errors import ConfigError, GenerationError
from cleave.types import Finish


class Drafted(NamedTuple):
    """A prompt's drafts, best first, and how many tokens' worth of passes they took beyond the first one over the prompt."""

    drafts: list[Draft]
    decoded: int


@dataclass(eq=False)
class _Row:
    """One prompt while its drafts grow. `ended` are the drafts that have; `drafts` is None until the prompt is done."""

    prompt: Sequence[int]
    key: int
    limit: int
    ended: list[Draft] = field(default_factory=list)
    drafts: list[Draft] | None = None
    decoded: int = 0


class Drafter:
    """Drafts continuations. Not thread-safe: one call at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eos_ids: AbstractSet[int],
        max_len: int,
        max_batch_size: int = 64,
        ngrams: NgramTables | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.eos_ids = np.array(sorted(eos_ids), dtype=np.int64)
        self.max_len = max_len
        self.max_batch_size = max_batch_size
        self.ngrams = ngrams

    @torch.inference_mode()
    def draft(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int | None],
        drafting: Drafting,
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[Drafted]:
        """Return up to k drafts per prompt. `seeds` decide which draft survives a reset, nothing else.

        Raises ConfigError for an empty or too long prompt, a k above the vocabulary and a model that cannot, before any work;
        GenerationError if the model's output is not a number; SamplingCancelled.
        """
        require_superposable(self.model)
        require_vocabulary(self.model, drafting)
        for prompt in prompts:
            check_length(prompt, self.max_len)
        rows = [
            _Row(prompt, row_key(seed, 0), min(drafting.max_tokens, self.max_len - len(prompt)))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        by_length = sorted(rows, key=lambda row: len(row.prompt))
        for start in range(0, len(rows), self.max_batch_size):
            self._grow(by_length[start : start + self.max_batch_size], drafting, cancelled)
        return [Drafted(row.drafts or [], row.decoded) for row in rows]

    def _grow(self, rows: list[_Row], drafting: Drafting, cancelled: Callable[[], bool]) -> None:
        """Grow the drafts of one batch of prompts until all are done."""
        room = max(row.limit for row in rows)
        prompts = [row.prompt for row in rows]
        frontier, ends = Frontier(prompts, drafting, room, self.ngrams), self._ends(drafting)
        batch = Batch(self.model, prompts, room)
        embedding = self.model.get_input_embeddings()
        while not cancelled():
            leaves = frontier.extend(*kept_tokens(batch.logits, drafting), ends)
            self._note(rows, frontier, leaves, drafting)
            live = [index for index, row in enumerate(rows) if row.drafts is None]
            if not live:
                return
            if len(live) < len(rows):
                rows = [rows[index] for index in live]
                frontier.select(live)
                batch.select(live)
            if drafting.reset_every and frontier.length % drafting.reset_every == 0:
                batch = self._restart(rows, frontier, room)
            else:
                batch.step_embedded(superposed(embedding, frontier.tokens[:, :, frontier.length - 1], frontier.weights))
        raise SamplingCancelled

    def _note(self, rows: Sequence[_Row], frontier: Frontier, leaves: Sequence[Leaf], drafting: Drafting) -> None:
        """Keep the drafts that have ended, and close the prompts that are done."""
        for leaf in leaves:
            rows[leaf.row].ended.append(self._draft(leaf.tokens, leaf.logprobs, "stop", drafting))
        alive = frontier.alive
        for index, row in enumerate(rows):
            row.decoded += 1
            if len(row.ended) >= drafting.k:
                row.drafts = best(row.ended, drafting.k)
            elif frontier.length >= row.limit or not alive[index].any():
                cut_off = [
                    self._draft(*frontier.sequence(index, place), "length", drafting) for place in np.flatnonzero(alive[index]).tolist()
                ]
                row.drafts = best([*row.ended, *cut_off], drafting.k)

    def _restart(self, rows: Sequence[_Row], frontier: Frontier, room: int) -> Batch:
        """Go on from one draft of each prompt, read as it is: nothing of the superposition is left."""
        numbers = uniforms(as_keys([row.key for row in rows]), frontier.length)
        texts = [[*row.prompt, *draft] for row, draft in zip(rows, frontier.restart(numbers), strict=True)]
        for row, text in zip(rows, texts, strict=True):
            row.decoded += len(text)
        return Batch(self.model, texts, room - frontier.length)

    def _ends(self, drafting: Drafting) -> Ends:
        stops = StopStrings(self.tokenizer, drafting.stop)

        def ends(drafts: I64, parents: I64, tokens: I64) -> Mask:
            ended = np.isin(tokens, self.eos_ids)
            if stops.stops:
                for row, rank in np.argwhere(~ended).tolist():
                    text = [*drafts[row, parents[row, rank]].tolist(), int(tokens[row, rank])]
                    ended[row, rank] = stops.check(text) is not None
            return ended

        return ends

    def _draft(self, tokens: list[int], terms: list[float], finish: Finish, drafting: Drafting) -> Draft:
        text = text_of(self.tokenizer, tokens)
        before = cut(text, drafting.stop)
        return Draft(text if before is None else before, tuple(tokens), tuple(terms), finish if before is None else "stop")


def superposed(embedding: nn.Module, tokens: I64, weights: F64) -> Tensor:
    """x̃ (B, D): the embeddings of `tokens` (B, K), weighted by `weights` (B, K) that sum to 1."""
    device = next(embedding.parameters()).device
    embedded: Tensor = embedding(torch.from_numpy(tokens).to(device))  # (B, K, D)
    exact = torch.promote_types(embedded.dtype, torch.float32)
    shares = torch.from_numpy(weights).to(device, exact)
    return (embedded.to(exact) * shares[:, :, None]).sum(1).to(embedded.dtype)


def kept_tokens(logits: Tensor, drafting: Drafting) -> tuple[I64, F64]:
    """The best `kept` tokens (B, C) of logits (B, V), best first and lower ids first where equal, with their log-probabilities at
    `temperature` among themselves. Raises GenerationError for logits that are not numbers."""
    most = min(drafting.kept, logits.shape[-1])
    values, ids = logits.topk(most, dim=-1)
    border = values[:, -1:]
    unsure = ((logits == border).sum(-1) > (values == border).sum(-1)).nonzero().squeeze(-1)  # which of equal ones topk took is open
    if len(unsure):
        ordered = logits[unsure].sort(dim=-1, descending=True, stable=True)
        values[unsure], ids[unsure] = ordered.values[:, :most], ordered.indices[:, :most]
    scores, tokens = values.double().cpu().numpy(), ids.cpu().numpy()
    if np.isnan(scores).any():
        raise GenerationError("the model's output is not a number; load it with dtype float32.")
    order = np.lexsort((tokens, -scores), axis=1)
    scores, tokens = np.take_along_axis(scores, order, axis=1) / drafting.temperature, np.take_along_axis(tokens, order, axis=1)
    shifted = scores - scores[:, :1]
    return tokens, shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def best(drafts: Sequence[Draft], k: int) -> list[Draft]:
    """The k drafts of lowest perplexity; of equal ones the earlier."""
    return sorted(drafts, key=lambda draft: -draft.logprob / len(draft.logprobs))[:k]


def why_not_superposable(model: PreTrainedModel) -> str | None:
    """What keeps a model from superposed decoding, None where nothing does."""
    if model.config.is_encoder_decoder:
        return "it is an encoder–decoder model"
    if model.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
        return "it has no language model head"
    if "inputs_embeds" not in inspect.signature(model.forward).parameters:
        return "its forward pass takes no inputs_embeds"
    if getattr(model.config.get_text_config(), "hidden_size_per_layer_input", 0):
        return "its layers read token ids beside embeddings"
    return None


def require_superposable(model: PreTrainedModel) -> None:
    """Raise ConfigError for a model that cannot read superposed embeddings."""
    reason = why_not_superposable(model)
    if reason is not None:
        raise ConfigError(f"{type(model).__name__} cannot draft by superposition: {reason}; use a decoder-only model with a head.")


def require_vocabulary(model: PreTrainedModel, drafting: Drafting) -> None:
    """Raise ConfigError where there are fewer tokens than drafts."""
    vocabulary = model.config.get_text_config().vocab_size
    if drafting.k > vocabulary:
        raise ConfigError(f"{drafting.k} drafts need as many first tokens, and the model has {vocabulary}; lower k.")
