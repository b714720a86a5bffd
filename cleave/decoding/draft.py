"""What superposed decoding is asked for, and what it gives: plain values, no torch. How drafts come about: superposed.py."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from cleave.errors import ConfigError
from cleave.types import Finish, Usage


@dataclass(frozen=True)
class Drafting:
    """Options of superposed decoding (arXiv 2405.18400). The defaults are the paper's for 3 drafts of 10 tokens.

    Others that it used: temperature 0.12 for 10 drafts; alpha 0.48 and 15 kept tokens for drafts of 15 tokens; with n-grams of orders 2 to
    4 alone alpha 0.55 and temperature 0.1. Raises ConfigError for options that cannot be.
    """

    k: int = 3
    """Drafts per prompt."""
    max_tokens: int = 10
    """Most tokens of a draft. Superposition holds for about the first ten."""
    temperature: float = 0.06
    """What logits are divided by before any token is chosen; above 0."""
    alpha: float = 0.54
    """Weight of the n-grams in the geometric mixture p_model^(1 - alpha) · p_ngrams^alpha; 0 leaves them out."""
    ngram_weights: tuple[float, ...] = (0.01, 0.04, 0.15, 0.18, 0.12)
    """λ of orders 2, 3, …, used as they are; orders that a table does not have count as 0."""
    log_penalty: float = -200.0
    """ln δ: what a draft pays in a step in which the n-grams know none of its next tokens."""
    kept_tokens: int | None = None
    """Most likely tokens that are looked at in each step; None: 3k."""
    candidates: int | None = None
    """Extended drafts among which the next ones are chosen, more than k because some end; None: 2k."""
    reset_every: int = 0
    """Every so many tokens one draft is drawn and all go on from it; 0: never. Against repetition in drafts of over 100 tokens."""
    stop: tuple[str, ...] = ()
    """Strings that end a draft and are not part of it."""

    def __post_init__(self) -> None:
        for name in ("k", "max_tokens"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}", "give 1 or more")
        _require(0 < self.temperature < math.inf, f"temperature is {self.temperature}", "give a number above 0; near 0 is greedy")
        _require(0 <= self.alpha <= 1, f"alpha is {self.alpha}", "give a number from 0 to 1")
        weighty = bool(self.ngram_weights) and all(0 <= weight < math.inf for weight in self.ngram_weights)
        _require(weighty, f"ngram_weights are {self.ngram_weights}", "give one number of at least 0 per order, from 2 on")
        _require(-math.inf < self.log_penalty <= 0, f"log_penalty is {self.log_penalty}", "give 0 or less")
        _require(self.reset_every >= 0, f"reset_every is {self.reset_every}", "give 0 (never) or more")
        _require(self.kept >= self.k, f"kept_tokens is {self.kept}", f"give at least k = {self.k}")
        _require(self.most_candidates >= self.k, f"candidates is {self.most_candidates}", f"give at least k = {self.k}")

    @property
    def kept(self) -> int:
        return 3 * self.k if self.kept_tokens is None else self.kept_tokens

    @property
    def most_candidates(self) -> int:
        return 2 * self.k if self.candidates is None else self.candidates


@dataclass(frozen=True)
class Draft:
    """One draft. `token_ids` include the end token, or the tokens of the stop string, that finished it.

    `logprobs` are the terms of the sum that drafts are ranked by: tempered, of the kept tokens alone, mixed with n-grams, and given the
    superposition of all drafts so far. They are no log-probabilities of this text under the model; `LanguageModel.score` gives those.
    `usage` of all drafts of a prompt is on the first: they share their passes.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish = "length"
    usage: Usage = field(default_factory=Usage)

    @property
    def logprob(self) -> float:
        """The joint log-probability p_i of the draft."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """Per token; drafts come in this order. Infinite where it is above all floats."""
        mean = -self.logprob / len(self.logprobs)
        return math.exp(mean) if mean < 700 else math.inf


def _require(holds: bool, found: str, remedy: str) -> None:
    if not holds:
        raise ConfigError(f"{found} for drafts; {remedy}.")
