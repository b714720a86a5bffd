"""When enough samples have been drawn: the leading answer can no longer lose, or is unlikely to (Adaptive-Consistency, arXiv 2305.11860).

Samples are drawn in rounds. After each the votes decide: with more of a lead than there are samples left the vote is over; and with a
threshold below 1 it is over once the leader is ahead of the runner-up with at least that probability, under a uniform prior on their
shares. `replay` says on recorded samples what that would have cost and chosen, without a model. Left out: drawing (reasoning.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from cleave.selection import Candidate, clusters


def enough(votes: Sequence[int], left: int, threshold: float) -> bool:
    """Whether to stop, given the votes of each distinct answer and how many samples could still be drawn. A threshold of 1 stops only
    where the leader can no longer lose."""
    first, second = sorted([*votes, 0, 0], reverse=True)[:2]
    if not first:
        return False
    return first - second > left or (threshold < 1 and ahead(first, second) >= threshold)


def ahead(first: int, second: int) -> float:
    """The probability that an answer with `first` votes is commoner than one with `second`: P(X > 1/2) for X ~ Beta(first + 1, second + 1).

    For whole numbers that is a binomial sum, exact but for one division.
    """
    tosses = first + second + 1
    return sum(comb(tosses, heads) for heads in range(first + 1)) / (1 << tosses)


def replay(samples: Sequence[str | None], threshold: float, per_round: int) -> int:
    """How many of the samples (canonical answers in the order in which they were drawn, None: no answer) would have been drawn."""
    drawn = 0
    while drawn < len(samples):
        drawn = min(drawn + per_round, len(samples))
        if enough(count(samples[:drawn]), len(samples) - drawn, threshold):
            break
    return drawn


def count(samples: Sequence[str | None]) -> list[int]:
    """The votes of each distinct answer."""
    found = clusters(Candidate(i, form) for i, form in enumerate(samples) if form is not None)
    return [len(cluster.members) for cluster in found]
