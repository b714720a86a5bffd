"""When what happens to gates, as a function of the optimiser step."""

from __future__ import annotations

from dataclasses import dataclass

from cleave.config.prune import PruneConfig, Ramp


@dataclass(frozen=True)
class Schedule:
    """`step` counts finished steps. Before `freeze_at` gates depend on the input, from then on they are constants; the inputs from
    `polls_at` on vote."""

    sparsity_ramp: Ramp
    polarization_ramp: Ramp
    steps: int
    freeze_at: int
    polls_at: int

    @classmethod
    def of(cls, config: PruneConfig, steps: int) -> Schedule:
        """For a training of so many steps."""
        freeze_at = max(1, round(config.freeze * steps))
        polls_at = max(0, min(freeze_at - 1, freeze_at - round(config.window * steps)))
        return cls(config.sparsity_ramp, config.polarization_ramp, steps, freeze_at, polls_at)

    def sparsity(self, step: int) -> float:
        """Share of the target sparsity, in [0, 1]."""
        return 1.0 if step >= self.polls_at else self._ramp(self.sparsity_ramp, step)  # voters know the whole target

    def polarization(self, step: int) -> float:
        """Share of the weight of polarization, in [0, 1]."""
        return self._ramp(self.polarization_ramp, step)

    def _ramp(self, ramp: Ramp, step: int) -> float:
        start, end = (share * self.steps for share in ramp)
        return 1.0 if step >= end else max(0.0, (step - start) / (end - start))
