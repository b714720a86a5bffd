"""How much of something hard is let in as training goes on: from a share at the start to all of it.

    Pacing("root", start=0.1, until=0.5).at(progress)     # 1.0 from half of the training on

`root` is the square-root competence of arXiv 1903.09848: new material comes at a rate that falls as there is more to repeat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["linear", "root", "quadratic", "geometric"]


@dataclass(frozen=True)
class Pacing:
    """A rising share of what is let in. `start` is the share at the beginning, in [0, 1), above 0 for a geometric shape; `until` the part
    of training, in (0, 1], after which all of it is in."""

    shape: Shape = "linear"
    start: float = 0.0
    until: float = 1.0

    def at(self, progress: float) -> float:
        """The share at a progress in [0, 1]: never falls, `start` at 0, 1 from `until` on."""
        way = min(progress / self.until, 1.0)
        if way == 1.0:
            return 1.0
        if self.shape == "geometric":
            return math.exp((1.0 - way) * math.log(self.start))
        if self.shape == "root":
            return math.sqrt(self.start**2 + (1.0 - self.start**2) * way)
        return self.start + (1.0 - self.start) * (way if self.shape == "linear" else way**2)

    def reaches(self, share: float) -> float:
        """The progress at which a share is reached, 0 for one that is there at the start: the inverse of `at`."""
        if share <= self.start:
            return 0.0
        if self.shape == "geometric":
            way = 1.0 - math.log(share) / math.log(self.start)
        elif self.shape == "root":
            way = (share**2 - self.start**2) / (1.0 - self.start**2)
        else:
            way = (share - self.start) / (1.0 - self.start)
            way = way if self.shape == "linear" else math.sqrt(way)
        return self.until * min(way, 1.0)
