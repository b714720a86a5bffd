"""The growing drafts of a batch of prompts, as superposed decoding extends, ends and restarts them: arrays only, no model.

    frontier = Frontier(prompts, Drafting(k=3), room=10)
    leaves = frontier.extend(tokens, logprobs, ends)          # tokens that the model finds likely; returns the drafts that ended
    frontier.tokens[:, :, frontier.length - 1], frontier.weights

Letters: B prompts, K places for drafts, C kept tokens, N most candidates, T tokens so far. A place may be empty: its total is -inf. All
drafts of a prompt begin as one empty draft, so that the first step takes the K best tokens. Ties go to the better draft, then to the
likelier token. Left out: the model (superposed.py), which prompts are done and the order of their drafts (there too).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from cleave.decoding.draft import Drafting
from cleave.decoding.ngrams import NgramTables

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
S = TypeVar("S", bound=np.generic)
Ends = Callable[[I64, I64, I64], Mask]
"""(drafts (B, K, T), places of the drafts that are extended (B, N), tokens that extend them (B, N)) to which of them end a draft (B, N)."""


class Leaf(NamedTuple):
    """A draft of prompt `row` that has ended."""

    row: int
    tokens: list[int]
    logprobs: list[float]


class Frontier:
    """`tokens` and `logprobs` (B, K, room), filled up to `length`; `total` (B, K) their joint log-probabilities; `parents` (B, K) the
    places that the drafts were extended from in the last step."""

    def __init__(self, prompts: Sequence[Sequence[int]], drafting: Drafting, room: int, ngrams: NgramTables | None = None) -> None:
        places = len(prompts), drafting.k
        self.tokens: I64 = np.zeros((*places, room), np.int64)
        self.logprobs: F64 = np.zeros((*places, room))
        self.total: F64 = np.full(places, -np.inf)
        self.total[:, 0] = 0.0
        self.parents: I64 = np.zeros(places, np.int64)
        self.length = 0
        self._drafting = drafting
        self._ngrams = ngrams if drafting.alpha > 0 else None
        if self._ngrams is not None:
            self._contexts: I64 = np.repeat(self._ngrams.contexts(prompts)[:, None], drafting.k, axis=1)  # (B, K, orders)

    @property
    def weights(self) -> F64:
        """γ (B, K): the drafts' probabilities, normalised; an empty place has none."""
        best = self.total.max(axis=1, keepdims=True)
        shares: F64 = np.exp(self.total - np.where(np.isfinite(best), best, 0.0))
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1.0)
        return shares

    @property
    def alive(self) -> Mask:
        """Which places (B, K) hold a draft."""
        return np.isfinite(self.total)

    def extend(self, tokens: I64, logprobs: F64, ends: Ends) -> list[Leaf]:
        """Go on by one token: `tokens` (B, C) with their log-probabilities under the model, best first. Returns what ended.

        Of the candidates that end a draft only those count that are among the K best; the others are passed over. (The authors' program
        counts all; then one draft would not be the greedy reply, as an unlikely end would compete with its continuation.)
        """
        scores, contexts = self._scores(tokens, logprobs)
        joint = (self.total[:, :, None] + scores).reshape(len(tokens), -1)
        best = np.argsort(-joint, axis=1, kind="stable")[:, : self._drafting.most_candidates]  # (B, N), into K × C
        parents, columns = best // tokens.shape[1], best % tokens.shape[1]
        totals, found = _take(joint, best), _take(tokens, columns)
        ended = ends(self.tokens[:, :, : self.length], parents, found)
        possible = np.isfinite(totals)
        terms = _take(scores.reshape(len(tokens), -1), best)
        leaves = self._leaves(parents, found, terms, possible & ended)
        chosen = np.argsort(ended | ~possible, axis=1, kind="stable")[:, : self._drafting.k]
        self._advance(*(_take(each, chosen) for each in (parents, found, terms)))
        self.total = np.where(_take(ended, chosen), -np.inf, _take(totals, chosen))
        if contexts is not None:
            self._contexts = contexts[np.arange(len(tokens))[:, None], self.parents, _take(columns, chosen)]
        return leaves

    def sequence(self, row: int, place: int) -> tuple[list[int], list[float]]:
        """Tokens and terms of one draft."""
        return self.tokens[row, place, : self.length].tolist(), self.logprobs[row, place, : self.length].tolist()

    def select(self, rows: Sequence[int]) -> None:
        """Make row i what row rows[i] was."""
        index = np.array(rows, dtype=np.int64)
        self.tokens, self.parents = self.tokens[index], self.parents[index]
        self.logprobs, self.total = self.logprobs[index], self.total[index]
        if self._ngrams is not None:
            self._contexts = self._contexts[index]

    def restart(self, numbers: F64) -> list[list[int]]:
        """Keep one draft of each prompt, drawn by its weight with the prompt's number in [0, 1); returns their tokens."""
        drawn = (np.cumsum(self.weights, axis=1) <= numbers[:, None]).sum(axis=1)
        places = np.minimum(drawn, self.alive.sum(axis=1) - 1)  # empty places are the last; rounding must not draw one
        rows = np.arange(len(places))
        self.tokens[:, 0], self.logprobs[:, 0] = self.tokens[rows, places], self.logprobs[rows, places]
        if self._ngrams is not None:
            self._contexts[:, 0] = self._contexts[rows, places]
        kept = self.total[rows, places]
        self.total = np.full_like(self.total, -np.inf)
        self.total[:, 0] = kept
        texts: list[list[int]] = self.tokens[:, 0, : self.length].tolist()
        return texts

    def _scores(self, tokens: I64, logprobs: F64) -> tuple[F64, I64 | None]:
        """ln p_f of each token after each draft (B, K, C), and what they make of the drafts' n-gram contexts."""
        spread = (*self.total.shape, tokens.shape[1])
        model = np.broadcast_to(logprobs[:, None], spread)
        if self._ngrams is None:
            return model, None
        options = self._drafting
        ngrams, contexts = self._ngrams.look_up(self._contexts, np.broadcast_to(tokens[:, None], spread), options.ngram_weights)
        return smoothed(model, ngrams, options.alpha, options.log_penalty), contexts

    def _leaves(self, parents: I64, tokens: I64, terms: F64, ended: Mask) -> list[Leaf]:
        leaves = []
        for row, rank in np.argwhere(ended[:, : self._drafting.k]).tolist():
            before, before_terms = self.sequence(row, parents[row, rank])
            leaves.append(Leaf(row, [*before, int(tokens[row, rank])], [*before_terms, float(terms[row, rank])]))
        return leaves

    def _advance(self, parents: I64, tokens: I64, terms: F64) -> None:
        self.parents = parents
        self.tokens = np.take_along_axis(self.tokens, parents[:, :, None], axis=1)
        self.logprobs = np.take_along_axis(self.logprobs, parents[:, :, None], axis=1)
        self.tokens[:, :, self.length] = tokens
        self.logprobs[:, :, self.length] = terms
        self.length += 1


def smoothed(model: F64, ngrams: F64, alpha: float, log_penalty: float) -> F64:
    """(1 - α) ln p_model + α ln p_ngrams where both know the token and -inf elsewhere; without any such token in a draft,
    (1 - α) ln p_model + ln δ. `model` (…, C) holds log-probabilities, `ngrams` (…, C) probabilities."""
    possible = np.isfinite(model)
    own = np.where(possible, (1 - alpha) * np.where(possible, model, 0.0), -np.inf)
    known = possible & (ngrams > 0)
    mixed = np.where(known, own + alpha * np.log(np.where(known, ngrams, 1.0)), -np.inf)
    return np.where(known.any(axis=-1, keepdims=True), mixed, own + log_penalty)


def _take(values: npt.NDArray[S], places: I64) -> npt.NDArray[S]:
    return np.take_along_axis(values, places, axis=1)
