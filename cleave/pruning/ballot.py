"""How often each gate was open: counts over the inputs of all workers.

Each worker notes its own inputs; `settle`, called by all of them after each step, adds them up, so that rates and votes are the same on all
workers and in every checkpoint, whoever noted what.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from cleave.pruning.polarization import remember


class Ballot(nn.Module):
    """`rate` [layers, units]: the running share of inputs for which a unit is open, 1 at first; `last`: that of the last step. `votes`
    and `voters` [layers, 1] count the inputs since `open_polls`. All are part of the model's state."""

    rate: torch.Tensor
    last: torch.Tensor
    votes: torch.Tensor
    voters: torch.Tensor

    def __init__(self, layers: int, units: int) -> None:
        super().__init__()
        self.register_buffer("rate", torch.ones(layers, units))
        self.register_buffer("last", torch.ones(layers, units))
        self.register_buffer("votes", torch.zeros(layers, units))
        self.register_buffer("voters", torch.zeros(layers, 1))
        self._noted: torch.Tensor | None = None  # [layers, units + 1] of this worker since the last settle: open, then inputs

    def note(self, layer: int, gates: torch.Tensor) -> None:
        """Gates [inputs, units] of one layer in one forward pass."""
        if self._noted is None:
            self._noted = self._nothing()
        self._noted[layer, :-1] += gates.detach().sum(0)
        self._noted[layer, -1] += len(gates)

    def settle(self) -> None:
        """After a step, on all workers: add up what they noted."""
        total = sum_over_workers(self._nothing() if self._noted is None else self._noted)
        self._noted = None
        inputs = total[:, -1:]
        if bool((inputs > 0).all()):
            self.last.copy_(total[:, :-1] / inputs)
            self.rate.copy_(remember(self.rate, self.last))
            self.votes += total[:, :-1]
            self.voters += inputs

    def open_polls(self) -> None:
        """Forget the votes so far."""
        self.votes.zero_()
        self.voters.zero_()

    @property
    def shares(self) -> torch.Tensor:
        """For which share of the voters each unit was open; the running rate where nobody voted."""
        return self.votes / self.voters if bool((self.voters > 0).all()) else self.rate

    def _nothing(self) -> torch.Tensor:
        layers, units = self.rate.shape
        return self.rate.new_zeros(layers, units + 1)


def sum_over_workers(values: torch.Tensor) -> torch.Tensor:
    """The sum over the process group; the values themselves without one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values
