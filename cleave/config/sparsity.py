"""What `cleave tune sparsity` searches: how much of each kind of unit a role can lose, and how its gates are trained, for accuracy against
cost."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config, merged, validate_part
from cleave.config.distill import DistillConfig
from cleave.config.formats import TrainedRole
from cleave.config.tune import SearchConfig, nested

Cost = Literal["seconds_1", "seconds_32", "parameters", "flops"]
TIMES = ("seconds_1", "seconds_32")
_SPARSITY = "prune.sparsity."
_ORDERED = ("prune.sparsity_ramp", "prune.polarization_ramp", "prune.freeze")
"""Fields of which each limits the others."""


class SelectConfig(Config):
    """Which candidate is kept."""

    max_latency: float | None = Field(None, gt=0)
    """Longest time to generate, as a share of the dense model's: of those candidates the most accurate. Of one reply where that is
    searched (against: seconds_1), else of 32 at once."""
    max_loss: float | None = Field(None, ge=0)
    """Largest loss of accuracy against the dense model before training, in points: of those candidates the cheapest."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.max_latency is None) == (self.max_loss is None):
            raise ValueError("select by one of max_latency (a share) and max_loss (points)")
        return self


class SparsitySearchConfig(SearchConfig):
    """Search how sparse a role can be: accuracy against what the sliced model costs, for one role or several one after another."""

    searcher: Literal["grid", "random", "optuna"] = "optuna"
    """grid: every combination; random; optuna: tree-structured Parzen estimator of both figures."""
    roles: dict[TrainedRole, dict[str, Any]] = Field(default_factory=dict)
    """Role → what its config adds to `distill`; each has a search of its own. Empty: the one role of `distill`."""
    metric: Literal["exact_match", "average_accuracy", "loss"] = "exact_match"
    """Accuracy on held-out examples of the weights that are kept; loss is made small, the others large."""
    against: Cost = "seconds_32"
    """What the sliced model costs, as a share of the dense model's: seconds to generate one reply or 32 at once, measured; parameters;
    FLOPs of a token."""
    select: SelectConfig = SelectConfig(max_loss=1.0)
    """Which candidate is kept as best.yaml and checkpoint; it may be changed afterwards."""

    @model_validator(mode="after")
    def _trials_fit(self) -> Self:
        if self.designed:
            raise ValueError("sparsities have no order to design; remove designed")
        if not any(key.startswith("prune.") for key in self.space):
            raise ValueError("the space says nothing of prune; add prune.sparsity.heads: {uniform: [0.2, 0.7]}")
        if self.roles:
            self.by_role()
            return self
        base = {key: domain.examples[0] for key, domain in self.space.items()}
        for key, domain in self.space.items():
            for value in domain.examples:
                self._check(self.trial(base | {key: value}, self.seeds[0]))
        together = [key for key in _ORDERED if key in self.space]
        for values in product(*(self.space[key].examples for key in together)):
            self._check(self.trial(base | dict(zip(together, values, strict=True)), self.seeds[0]))
        return self

    def by_role(self) -> dict[str, "SparsitySearchConfig"]:
        """The search of each role; of one role without `roles` itself."""
        if not self.roles:
            return {str(self.distill.get("role")): self}
        shared = self.model_dump(exclude={"roles", "distill", "name", "storage_path"})
        return {
            role: validate_part(
                SparsitySearchConfig,
                shared | {"name": role, "storage_path": self.folder, "distill": merged(self.distill, own | {"role": role})},
                f"roles.{role}",
            )
            for role, own in self.roles.items()
        }

    @property
    def time(self) -> str:
        """Which time `select` means."""
        return self.against if self.against in TIMES else "seconds_32"

    def trial(self, point: Mapping[str, Any], seed: int, name: str = "trial", folder: str = "runs") -> DistillConfig:
        """How a point of the space is trained. Without any sparsity it is the dense model, trained alike."""
        data = merged(self.distill, nested(point))
        shares = (data.get("prune") or {}).get("sparsity")
        if isinstance(shares, dict) and not any(shares.values()):
            data.pop("prune")
        return validate_part(DistillConfig, data | {"name": name, "storage_path": folder, "seed": seed}, "distill")

    def _check(self, trial: DistillConfig) -> None:
        self.check_trial(trial, {self.metric, *([self.scheduler.metric] if self.scheduler and self.scheduler.metric else [])})
        if trial.role == "verifier":
            raise ValueError("a verifier writes nothing that could be timed or compared; search a decomposer or a solver")
        if self.select.max_loss is not None and (self.metric == "loss" or trial.init.model is None):
            raise ValueError("max_loss counts points below the accuracy of init.model; set metric: exact_match, or select by max_latency")
        if trial.prune is None:
            return
        timed = self.against in TIMES or self.select.max_latency is not None
        if timed and not trial.prune.latency_tokens:
            raise ValueError("latency is not measured; set distill.prune.latency_tokens above 0")
        if self.scheduler is not None and trial.prune.method == "consensus":
            ramped = math.ceil(trial.prune.sparsity_ramp[1] * trial.train.steps(trial.max_workers))
            if self.scheduler.grace_period < ramped:
                raise ValueError(
                    f"before step {ramped} trials are not as sparse as they will be, so their curves say little; set "
                    f"scheduler.grace_period to {ramped} or more, or end prune.sparsity_ramp sooner"
                )
