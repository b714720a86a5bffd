"""How a verifier learns from solutions that are known to be right or wrong (arXiv 2310.10047)."""

from typing import Literal

from pydantic import Field

from cleave.config.base import Config

Loss = Literal["margin", "cross_entropy"]


class JudgeConfig(Config):
    """What `cleave distill` with role: verifier minimises. The raw score of a solution is s = log p(right) - log p(wrong)."""

    loss: Loss = "margin"
    """margin: max(0, margin - s(right) + s(wrong)) over pairs of solutions of one problem; cross_entropy: -log p(label) of single ones."""
    margin: float = Field(1.0, gt=0)
    """By how much the right one of a pair should be ahead (loss: margin only)."""
    per_problem: int = Field(10, gt=0)
    """Pairs, or single solutions (half of them right where there are as many), that are drawn of a problem each time it comes up."""
    head: Literal["words", "scalar"] = "words"
    """words: the language model's own two words for right and wrong; scalar: a new output of one number (sequence classification)."""
    extra: Literal["none", "noised", "gold"] = "none"
    """One more solution of each problem. noised: a wrong one, made from a right one by a slip and what follows from it (arXiv 2402.04004);
    gold: a right one, the task's own (needs gold steps), which is what noised ones are to be compared with."""
    steps_per_problem: int = Field(0, ge=0)
    """Pairs, or single ones, of beginnings of solutions (needs gold steps), drawn besides: what step scores are learned from."""
