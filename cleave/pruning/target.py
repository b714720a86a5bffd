"""How many units stay: the number nearest to what the config asks for that a plain checkpoint can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cleave.config.prune import UnitKind
from cleave.errors import ConfigError
from cleave.pruning.units import Anatomy

UNIT: dict[UnitKind, str] = {"heads": "units of heads", "neurons": "blocks of neurons", "layers": "layers"}


@dataclass(frozen=True)
class Target:
    """`kept` of `count` units stay, in each layer (in the model, for layers); `wanted` is the share to remove that was asked for."""

    kind: UnitKind
    count: int
    kept: int
    wanted: float

    @property
    def sparsity(self) -> float:
        """The share that is removed."""
        return 1 - self.kept / self.count

    def __str__(self) -> str:
        met = "" if abs(self.sparsity - self.wanted) < 5e-4 else f" (sparsity {self.sparsity:.3f}, the nearest to {self.wanted:g})"
        return f"{self.kept} of {self.count} {UNIT[self.kind]}{met}"


def targets(anatomy: Anatomy, sparsity: Mapping[UnitKind, float]) -> dict[UnitKind, Target]:
    """The targets of all kinds with a sparsity above 0. Raises ConfigError where none of them would remove anything."""
    found = {kind: target(anatomy, kind, share) for kind, share in sparsity.items() if share > 0}
    if all(one.kept == one.count for one in found.values()):
        smallest = min(1 / one.count for one in found.values())
        stay = ", ".join(str(one) for one in found.values())
        raise ConfigError(f"prune removes nothing: {stay} stay; raise prune.sparsity to {smallest:.3g} or more.")
    return found


def target(anatomy: Anatomy, kind: UnitKind, sparsity: float) -> Target:
    """The nearest number that loads, the larger one of two; at least one unit stays."""
    count = anatomy.units[kind].count
    able = [kept for kept in range(1, count + 1) if anatomy.loads(kind, kept)]
    kept = min(able, key=lambda one: (abs(one - (1 - sparsity) * count), -one))
    return Target(kind, count, kept, sparsity)
