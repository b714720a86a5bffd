"""What `cleave evaluate` measures: the ways to reason that are compared on a workload, and its intervals."""

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from cleave.config.base import Config, validate_part
from cleave.config.reasoning import ReasoningConfig
from cleave.config.workload import WorkloadConfig
from cleave.errors import ConfigError


class BootstrapConfig(Config):
    """Intervals."""

    confidence: float = Field(0.95, gt=0, lt=1)
    """Coverage of all intervals."""
    resamples: int = Field(10_000, ge=100, le=1_000_000)
    """Bootstrap resamples of the paired differences."""
    seed: int = 0
    """Seed of the bootstrap."""


class EvaluateConfig(WorkloadConfig):
    """One evaluation run. Problems stream through all variants."""

    overwrite: bool = False
    """Delete an earlier run of the same name instead of going on with it."""
    reasoning: ReasoningConfig = ReasoningConfig()
    """How problems are reasoned about."""
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Ways to compare on the same problems: name → fields of `reasoning` that differ. Empty: one, as `reasoning` says."""
    bootstrap: BootstrapConfig = BootstrapConfig()
    """How intervals are computed."""
    samples: str | None = None
    """A finished evaluation whose plans and solutions are judged by this run's verifier and chosen among by its selection, instead of
    asking decomposer and solver again; null: everything is asked."""
    report: bool = True
    """Draw report.html at the end."""

    @field_validator("variants", mode="before")
    @classmethod
    def _bare_variant(cls, data: object) -> object:
        """`static:` without fields is the strategy of that name where there is one."""
        if not isinstance(data, dict):
            return data
        strategies = ReasoningConfig.model_fields["strategy"].annotation.__args__  # type: ignore[union-attr]
        return {name: {"strategy": name} if fields is None and name in strategies else fields or {} for name, fields in data.items()}

    @model_validator(mode="after")
    def _variants_resolve(self) -> Self:
        self.strategies()
        return self

    def require_samples(self) -> None:
        """Raise ConfigError where no variant samples several solutions, so that there is nothing to choose among."""
        if all(strategy.n == 1 for strategy in self.strategies().values()):
            raise ConfigError(
                "selection rules choose among samples, and every variant draws one; set reasoning.n=8 reasoning.temperature=0.7."
            )

    def strategies(self) -> dict[str, ReasoningConfig]:
        """The resolved reasoning config of each variant, in order."""
        if not self.variants:
            return {self.reasoning.strategy: self.reasoning}
        return {name: _merged(name, self.reasoning, changes) for name, changes in self.variants.items()}


def _merged(name: str, base: ReasoningConfig, changes: dict[str, Any]) -> ReasoningConfig:
    data = base.model_dump()
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(data.get(key), dict) and isinstance(value, dict) else value
    return validate_part(ReasoningConfig, data, f"variants.{name}")
