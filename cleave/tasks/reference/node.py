"""A generated problem before it is written out: sub-questions that know how to answer themselves.

`answered` runs them in order. Noise (TInt, arXiv 2402.04004) is applied here: static noise changes what is written and lets later steps
see the truth; dynamic noise changes the value itself, so that everything downstream inherits it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cleave.types import SolutionStep

NoiseKind = Literal["none", "static", "dynamic"]


@dataclass(frozen=True)
class Node:
    """One sub-question. `compute` maps all earlier answers to (written work, answer); `corrupt` gives a plausible wrong answer."""

    question: str
    compute: Callable[[Sequence[str]], tuple[str, str]]
    corrupt: Callable[[str, random.Random], str]


@dataclass(frozen=True)
class Noise:
    """`share` of the problems are touched, `intensity` of the steps in each of those."""

    kind: NoiseKind = "none"
    share: float = 0.0
    intensity: float = 0.25


def answered(nodes: Sequence[Node], noise: Noise, rng: random.Random) -> tuple[SolutionStep, ...]:
    """Answer every node in order. With noise the last step is what a trace with that mistake would say."""
    touched = noise.kind != "none" and rng.random() < noise.share
    steps: list[SolutionStep] = []
    seen: list[str] = []
    for index, node in enumerate(nodes, start=1):
        work, answer = node.compute(seen)
        written = answer
        if touched and rng.random() < noise.intensity:
            written = node.corrupt(answer, rng)
        steps.append(SolutionStep(index, f"{work} = {written}", written))
        seen.append(written if noise.kind == "dynamic" else answer)
    return tuple(steps)


def wrong_number(answer: str, rng: random.Random) -> str:
    """A number near `answer`, never equal to it and never negative."""
    value = int(answer)
    shift = rng.choice((1, 2, 3, 10))
    return str(value + shift if rng.random() < 0.5 or value < shift else value - shift)
