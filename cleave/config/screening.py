"""Which of a teacher's traces a student learns from."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config
from cleave.config.model import ModelConfig


class ReconstructionConfig(Config):
    """The screen for answers that are right for the wrong reason (MIMAX, arXiv 2106.07174): of the traces that lead to the right answer of
    a problem, those are learned from that tell most about its question."""

    model: ModelConfig
    """Model that says how well a question follows from a trace, trained on the format reconstruct: hf:PATH_OR_HUB_ID or reference:NAME;
    workers of Ray Train need to see its folder."""
    prompts: str = "auto"
    """Prompt set with the form reconstruct: a shipped name, a YAML file, or auto (what the checkpoint was trained with)."""
    keep: int = Field(1, gt=0)
    """Traces that are learned from per problem, at most."""

    @model_validator(mode="after")
    def _can_score(self) -> Self:
        if self.model.backend not in ("hf", "reference"):
            raise ValueError(f"{self.model.short} gives no probability of a given text; name a model by hf:PATH or reference:NAME")
        return self


class CollectionConfig(Config):
    """Targets from a teacher's traces, gathered by `cleave collect`, and which of them are learned from."""

    path: str
    """Run folder of the collection."""
    also: tuple[str, ...] = ()
    """Further collections, each of one teacher, such as the teacher's beside the student's own."""
    mixture: Literal["all", "adaptive"] = "all"
    """all: whatever is kept of every collection; adaptive: of those in `also` only problems of which nothing was kept before
    (arXiv 2410.18574)."""
    recipe: str | None = None
    """Hash of the teacher, where the collection holds several; null: the only one."""
    keep: Literal["all", "answered"] = "answered"
    """all: every plan (S_D-T) or solution (S_E-T); answered: those that led to the right answer (S_D-R)."""
    answers: Literal["teacher", "gold"] = "teacher"
    """The final answer that is learned: the teacher's, or the problem's own with the teacher's steps (S_E-A)."""
    second_chance: bool = True
    """Keep a plan whose first solution is wrong for a later one that is right (answered only)."""
    prefer: Literal["first", "most_often"] = "first"
    """Which right solution of a plan is learned from: the first, or the one that was sampled most often, which is seldom right for a wrong
    reason (answered only)."""
    reconstruction: ReconstructionConfig | None = None
    """Of all right traces of a problem learn from the most telling ones, whatever their plans; null: from the first of every plan
    (answered only)."""
    held_out: float = Field(0.02, ge=0, lt=1)
    """Share of the problems that is never trained on and measured instead; `eval_split` does not apply to collections."""
    fold: int = Field(0, ge=0)
    """Which part of that size is held out, from 0, for cross-validation: with held_out 0.2 there are 0 to 4."""

    max_in_memory: int = Field(200_000, gt=0)
    """Problems of a task that are held in memory; where more are kept, they are read from a file of them beside the collection's traces,
    as many at a time."""

    @model_validator(mode="after")
    def _fold_is_there(self) -> Self:
        if self.fold and (self.fold + 1) * self.held_out > 1 + 1e-9:
            last = int(1 / self.held_out) - 1
            raise ValueError(f"there is no fold {self.fold} of {self.held_out:g} of the problems; the last one is {last}")
        return self

    @model_validator(mode="after")
    def _ranks_right_ones(self) -> Self:
        if self.reconstruction is not None and self.keep != "answered":
            raise ValueError("reconstruction chooses among traces with the right answer; set keep: answered, or remove reconstruction")
        if self.prefer == "most_often" and self.keep != "answered":
            raise ValueError("prefer chooses among solutions with the right answer; set keep: answered, or remove prefer")
        if self.prefer == "most_often" and not self.second_chance:
            raise ValueError("without a second chance only the first solution of a plan counts; remove prefer, or second_chance: false")
        if self.prefer == "most_often" and self.reconstruction is not None:
            raise ValueError("prefer and reconstruction choose among the same solutions; remove one of them")
        return self
