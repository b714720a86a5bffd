"""STAT's missing-skill profile (arXiv 2510.10023): what the student fails at is drawn more often.

The profile is the share of failures on each skill since the profile before, taken anew every `every` steps. As in STAT-Sel, examples are
chosen in proportion to it; where a skill's source generates its problems to order (pipelines/skills.py), that is STAT-Syn's synthesis.
STAT profiles a validation set with a process reward model; here the training examples themselves are the measure, before the step that
learns from them, and a failure is an example whose reply greedy decoding would not give, or whose loss is too high. Skills that do not
fail keep a share (`explore`), or they could not be seen to be forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cleave.curriculum.mixture import Mixture
from cleave.curriculum.sampler import Observation


class MissingSkills(Mixture):
    """Draws by `shares` until the first profile. `by`: failures, or mean loss, which is the control. `failed_above` is the loss in nats per
    learned token from which an example counts as failed, None: what greedy decoding would not give."""

    listens = True

    def __init__(
        self,
        shares: Mapping[str, float],
        *,
        every: int,
        explore: float = 0.1,
        by: Literal["failures", "loss"] = "failures",
        failed_above: float | None = None,
    ) -> None:
        super().__init__(shares)
        self._every, self._explore = every, explore
        self._by, self._failed_above = by, failed_above
        self._place = {skill: k for k, skill in enumerate(self.skills)}
        self._current = list(self._shares)
        self._steps = 0
        self._profile: list[float | None] = [None] * len(self.skills)
        self._seen = [0] * len(self.skills)
        self._missed = [0.0] * len(self.skills)

    @property
    def profile(self) -> dict[str, float | None]:
        """Share of failures, or mean loss, by skill at the last profile; None for a skill that was never seen."""
        return dict(zip(self.skills, self._profile, strict=True))

    def weights(self, progress: float) -> Sequence[float]:
        return self._current

    def observe(self, results: Sequence[Observation]) -> None:
        """Raises KeyError for an observation of a skill that is none of the run's."""
        for result in results:
            place = self._place[result.skill]
            self._seen[place] += 1
            self._missed[place] += self._miss(result)
        self._steps += 1
        if self._steps % self._every == 0:
            self._take_profile()

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self._steps,
            "weights": list(self._current),
            "profile": list(self._profile),
            "seen": list(self._seen),
            "missed": list(self._missed),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = state["steps"]
        self._current, self._profile = list(state["weights"]), list(state["profile"])
        self._seen, self._missed = list(state["seen"]), list(state["missed"])

    def _miss(self, result: Observation) -> float:
        if self._by == "loss":
            return result.loss
        return float(not result.solved if self._failed_above is None else result.loss > self._failed_above)

    def _take_profile(self) -> None:
        """A skill that was not drawn keeps what was known of it."""
        for place, seen in enumerate(self._seen):
            if seen:
                self._profile[place] = self._missed[place] / seen
        self._seen, self._missed = [0] * len(self.skills), [0.0] * len(self.skills)
        known = [rate for rate in self._profile if rate is not None]
        mean = math.fsum(known) / len(known) if known else 0.0
        wanted = [mean if rate is None else rate for rate in self._profile]
        whole, shares = math.fsum(wanted), math.fsum(self._shares)
        if whole <= 0.0:
            self._current = list(self._shares)
            return
        self._current = [
            (1 - self._explore) * rate / whole + self._explore * share / shares for rate, share in zip(wanted, self._shares, strict=True)
        ]
