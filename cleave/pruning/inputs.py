"""What counts as one input of a gate: a row of a padded batch; in a packed row each sequence, told apart by positions that restart at 0.

Padding belongs to no input. The mean of an input is over all its tokens, the learned ones too; what gates could learn from those is gone
once they decide alike for all inputs. B rows, T tokens, S inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Inputs:
    """The inputs of one forward pass: `real` [B, T] is not padding; `place` [B, T] is each token's input, None: its row."""

    real: torch.Tensor
    place: torch.Tensor | None
    count: int

    @classmethod
    def of(cls, input_ids: torch.Tensor, position_ids: torch.Tensor | None, pad_id: int) -> Inputs:
        """From token ids and positions [B, T]."""
        real = input_ids != pad_id
        if position_ids is None or position_ids.shape != input_ids.shape:
            return cls(real, None, len(input_ids))
        starts = position_ids == 0
        starts[:, 0] = True
        place = starts.flatten().cumsum(0).view_as(starts) - 1
        return cls(real, place, int(place.max()) + 1)

    @property
    def sizes(self) -> torch.Tensor:
        """Real tokens per input [S]; 0 for one that is all padding."""
        return self._sum(self.real.float()[..., None])[:, 0]

    def pool(self, states: torch.Tensor) -> torch.Tensor:
        """Mean states [S, width] of the inputs from states [B, T, width]; without gradient."""
        states = states.detach().float()
        return self._sum(states * self.real[..., None]) / self.sizes.clamp_min(1)[:, None]

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Values per input [S, n] to each of its tokens: [B, T, n], or [B, 1, n] where an input is a row."""
        return values[:, None] if self.place is None else values[self.place]

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        if self.place is None:
            return values.sum(1)
        total = values.new_zeros(self.count, values.shape[-1])
        return total.index_add_(0, self.place.flatten(), values.flatten(0, 1))
