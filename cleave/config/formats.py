"""Kinds of training examples and the mix that a role is trained on by default; pipelines/formats.py writes them."""

from typing import Literal

TrainedRole = Literal["decomposer", "solver", "verifier", "general"]
Format = Literal[
    "decompose", "next_question", "steps_with_plan", "step", "next_answer", "single", "direct", "text", "reconstruct", "verify"
]

DEFAULT_FORMATS: dict[TrainedRole, dict[Format, float]] = {
    "decomposer": {"decompose": 1.0},
    "solver": {"steps_with_plan": 1.0, "single": 1.0, "direct": 0.5},
    "verifier": {"verify": 1.0},
    "general": {"decompose": 1.0, "steps_with_plan": 1.0, "single": 1.0, "direct": 0.5, "text": 0.5},
}

DRAWN_FORMATS: tuple[Format, ...] = ("next_question", "step", "next_answer")
"""Formats that show a part of the problem, another one each time."""
