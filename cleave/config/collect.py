"""What `cleave collect` gathers: a teacher's traces on a train split, within a budget, kept away from every evaluation split."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config
from cleave.config.reasoning import ReasoningConfig
from cleave.config.workload import TaskShare, WorkloadConfig


class CollectTask(TaskShare):
    """One task split and how many of its problems."""

    split: str = "train"
    """Split that is asked."""
    problems: int | None = Field(1000, gt=0)
    """Number of problems; null: the whole split, which must then be finite."""


class CollectBudget(Config):
    """Hard stops of the whole collection, earlier sessions included; null: no limit. Problems in flight are finished."""

    tokens: int | None = Field(None, gt=0)
    """Prompt plus generated tokens over all roles."""
    usd: float | None = Field(None, gt=0)
    """Money, by the models' prices per million tokens."""


class LeakageConfig(Config):
    """Problems that a collection shares with evaluation splits; questions are compared without case, spacing and punctuation."""

    against: list[TaskShare] | None = None
    """Splits that must not be asked; null: every other split of the collected tasks."""
    problems: int = Field(2000, gt=0)
    """How many problems of a generated split are compared."""
    action: Literal["refuse", "drop", "allow"] = "refuse"
    """refuse: stop before the teacher is asked; drop: leave those problems out; allow: ask them and say how many."""


class CollectConfig(WorkloadConfig):
    """One collection. Rows are addressed by content: teacher, prompts, sampling and problem; what is there is never asked again."""

    tasks: tuple[CollectTask, ...] = Field(min_length=1)
    """The problems."""
    reasoning: ReasoningConfig = ReasoningConfig()
    """How the teacher reasons: plans and solutions per problem, temperatures, limits."""
    budget: CollectBudget = CollectBudget()
    """Hard stops."""
    leakage: LeakageConfig = LeakageConfig()
    """The check against evaluation splits."""

    @model_validator(mode="after")
    def _teacher_plans(self) -> Self:
        if self.reasoning.gold_plan:
            raise ValueError("a collection is the teacher's own plans; train on gold plans with source: gold")
        return self

    @model_validator(mode="after")
    def _gold_is_true(self) -> Self:
        for task in self.tasks:
            if task.task.kind in ("arithmetic", "lookup", "reading") and task.task.dials.get("noise", "none") != "none":
                raise ValueError(f"{task.title}: noise is in gold steps, which no teacher sees and which judge it; remove the dial")
        return self
