"""What `cleave evaluate` measures: which problems, by which roles, reasoned about in which ways, kept where."""

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from cleave.config.base import Config
from cleave.config.reasoning import ReasoningConfig
from cleave.config.roles import RolesConfig
from cleave.config.task import TaskConfig


class EvaluateTask(Config):
    """One task split and how many of its problems."""

    task: TaskConfig
    """The task: its name, or a mapping with its options."""
    split: str = "test"
    """Split that is measured."""
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


class BootstrapConfig(Config):
    """Intervals."""

    confidence: float = Field(0.95, gt=0, lt=1)
    """Coverage of all intervals."""
    resamples: int = Field(10_000, ge=100, le=1_000_000)
    """Bootstrap resamples of the paired differences."""
    seed: int = 0
    """Seed of the bootstrap."""


class EvaluateConfig(Config):
    """One evaluation run. Problems stream through all variants; what is finished is never asked again after a resume."""

    name: str
    """Name of the run folder."""
    storage_path: str = "runs"
    """Where run folders are: a local path or a URL such as s3://bucket/runs."""
    overwrite: bool = False
    """Delete an earlier run of the same name instead of going on with it."""
    tasks: list[EvaluateTask] = Field(min_length=1)
    """What is measured."""
    roles: RolesConfig = Field(default_factory=RolesConfig)
    """Who answers."""
    reasoning: ReasoningConfig = ReasoningConfig()
    """How problems are reasoned about."""
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Ways to compare on the same problems: name → fields of `reasoning` that differ. Empty: one, as `reasoning` says."""
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
    bootstrap: BootstrapConfig = BootstrapConfig()
    """How intervals are computed."""
    report: bool = True
    """Draw report.html at the end."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _one_task(cls, data: object) -> object:
        return [data] if isinstance(data, str | dict) else data

    @field_validator("variants", mode="before")
    @classmethod
    def _bare_variant(cls, data: object) -> object:
        """`static:` without fields is the strategy of that name where there is one."""
        if not isinstance(data, dict):
            return data
        strategies = ReasoningConfig.model_fields["strategy"].annotation.__args__  # type: ignore[union-attr]
        return {name: {"strategy": name} if fields is None and name in strategies else fields or {} for name, fields in data.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        labels = [task.title for task in self.tasks]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two tasks are called {twice[0]!r}; give one of them a label")
        self.strategies()
        return self

    def strategies(self) -> dict[str, ReasoningConfig]:
        """The resolved reasoning config of each variant, in order."""
        if not self.variants:
            return {self.reasoning.strategy: self.reasoning}
        return {name: _merged(name, self.reasoning, changes) for name, changes in self.variants.items()}


def _merged(name: str, base: ReasoningConfig, changes: dict[str, Any]) -> ReasoningConfig:
    data = base.model_dump()
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(data.get(key), dict) and isinstance(value, dict) else value
    try:
        return ReasoningConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"variants.{name}.{where}: {first['msg'].removeprefix('Value error, ')}") from error
