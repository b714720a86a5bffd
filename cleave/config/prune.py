"""What `cleave distill` removes from the model that it trains: attention heads, feed-forward neurons, layers."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config

UnitKind = Literal["heads", "neurons", "layers"]
Ramp = tuple[float, float]
OF_GATES = (
    "layout",
    "cost",
    "polarization",
    "activity",
    "sparsity_ramp",
    "polarization_ramp",
    "freeze",
    "window",
    "gate_size",
)
"""Fields that only gates have."""


class PruneConfig(Config):
    """Units of the model that the checkpoint is without: those that gates close while it trains (after arXiv 2302.10798), or as a control
    those that another rule removes before."""

    method: Literal["consensus", "magnitude", "random", "layers"] = "consensus"
    """consensus: gates decide while the model trains; the others cut before the first step, and the rest is trained. magnitude: the units
    with the smallest weights go; random: units drawn with the run's seed; layers: the deepest layers but the last."""
    sparsity: dict[UnitKind, float] = Field({"heads": 0.5, "neurons": 0.5}, min_length=1)
    """Share of the units of each kind that is removed, from 0 to below 1; also that of the kind's parameters and FLOPs. heads: key-value
    heads with their query heads (query heads, where all share one key-value head); neurons: blocks of feed-forward neurons; layers.
    One number stands for heads and neurons."""
    layout: Literal["uniform", "free"] = "uniform"
    """uniform: the same number of units stays in every layer, so that all of the rest is cut off; free: every layer may keep another
    number, to see where units are needed; closed units are cut off only as far as the fullest layer allows."""
    cost: Literal["parameters", "flops"] = "parameters"
    """What a unit weighs in the target of the free layout."""
    block: int = Field(32, gt=0)
    """Feed-forward neurons per unit; divides intermediate_size."""
    polarization: float = Field(1.0, ge=0)
    """Weight of the term that makes each gate decide alike for all inputs; 0: none (a control)."""
    activity: float = Field(1.0, ge=0)
    """Weight of the term that keeps the number of open gates at the target."""
    sparsity_ramp: Ramp = (0.05, 0.4)
    """Shares of the steps between which the target goes from no sparsity to all of it."""
    polarization_ramp: Ramp = (0.2, 0.5)
    """Shares of the steps between which the weight of polarization goes from 0 to all of it."""
    freeze: float = Field(0.7, gt=0, le=1)
    """Share of the steps after which each gate is what it was for most inputs; the rest of training knows no other model."""
    window: float = Field(0.1, gt=0, le=1)
    """Share of the steps, the last before freezing, whose inputs vote."""
    gate_size: int = Field(16, gt=0)
    """Hidden size of the gating module of each layer."""
    latency_tokens: int = Field(32, ge=0)
    """Tokens that the dense and the pruned model generate at the end to be timed; 0: they are not timed."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: object) -> object:
        """`sparsity: 0.5` for {heads: 0.5, neurons: 0.5}."""
        if isinstance(data, dict) and isinstance(share := data.get("sparsity"), int | float) and not isinstance(share, bool):
            return data | {"sparsity": {"heads": share, "neurons": share}}
        return data

    @model_validator(mode="after")
    def _removes_a_part(self) -> Self:
        for kind, share in self.sparsity.items():
            if not 0 <= share < 1:
                raise ValueError(f"sparsity.{kind} is {share:g}: a share from 0 to below 1 is removed, and something has to stay")
        if not any(self.sparsity.values()):
            raise ValueError("a sparsity of 0 removes nothing; raise one of its shares, or remove prune")
        return self

    @model_validator(mode="after")
    def _method_fits(self) -> Self:
        if self.method == "consensus":
            return self
        fields = type(self).model_fields
        if idle := [name for name in OF_GATES if getattr(self, name) != fields[name].default]:
            raise ValueError(f"{idle[0]} is a matter of gates, and {self.method} has none; remove it, or set method: consensus")
        if self.method == "layers" and any(share for kind, share in self.sparsity.items() if kind != "layers"):
            raise ValueError("method: layers removes whole layers only; set sparsity: {heads: 0, neurons: 0, layers: ...}")
        return self

    @model_validator(mode="after")
    def _comes_in_order(self) -> Self:
        for name, (start, end) in {"sparsity_ramp": self.sparsity_ramp, "polarization_ramp": self.polarization_ramp}.items():
            if not 0 <= start <= end <= self.freeze:
                raise ValueError(f"{name} goes from 0 on and ends before freeze ({self.freeze:g}), not [{start:g}, {end:g}]")
        return self
