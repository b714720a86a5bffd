"""What runs that put many problems to the roles have in common: which problems, who answers, where and how fast."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from cleave.config.base import Config
from cleave.config.roles import RolesConfig
from cleave.config.task import TaskConfig


class TaskShare(Config):
    """One task split and how many of its problems."""

    task: TaskConfig
    """The task: its name, or a mapping with its options."""
    split: str = "test"
    """Split that is asked."""
    problems: int | None = Field(500, gt=0)
    """Number of problems; null: the whole split, which must then be finite."""
    seed: int = 0
    """Seed of the draw of problems."""
    label: str | None = None
    """How tables call it; null: the task's name. Labels differ within a run."""

    @model_validator(mode="before")
    @classmethod
    def _short_string(cls, data: object) -> object:
        return {"task": data} if isinstance(data, str) else data

    @property
    def title(self) -> str:
        """The label, else the task's name."""
        return self.label or self.task.name


class WorkloadConfig(Config):
    """A run whose problems stream through the roles; what is finished is never asked again after a resume."""

    name: str
    """Name of the run folder."""
    storage_path: str = "runs"
    """Where run folders are: a local path or a URL such as s3://bucket/runs."""
    tasks: tuple[TaskShare, ...] = Field(min_length=1)
    """The problems."""
    roles: RolesConfig = Field(default_factory=RolesConfig)
    """Who answers."""
    backend: Literal["actors", "inline"] = "actors"
    """actors: each role in Ray actors; inline: all roles in this process (no Ray)."""
    max_in_flight: int = Field(128, ge=1, le=100_000)
    """Most problems (times variants) that are reasoned about at the same time."""
    max_consecutive_failures: int = Field(20, ge=1)
    """Problems in a row that may fail because a model, endpoint or actor cannot reply; then the run stops and can be resumed."""
    flush_traces: int = Field(256, ge=1)
    """Most finished traces that wait in memory to be written."""
    flush_seconds: float = Field(10.0, gt=0)
    """Most seconds that a finished trace waits to be written."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _one_task(cls, data: object) -> object:
        return [data] if isinstance(data, str | dict) else data

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        labels = [task.title for task in self.tasks]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two tasks are called {twice[0]!r}; give one of them a label")
        return self
