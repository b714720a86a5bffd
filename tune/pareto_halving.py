"""Successive halving for accuracy against cost (after MO-ASHA, arXiv 2106.12639).

Ray's ASHA looks at one figure. On accuracy alone it would end what is pruned most, and of the front only the costly end would be left.
Here a trial goes on if few enough of those that came as far lie in better layers of the front. What a sliced model costs is measured once
it is sliced; until then its cost is what its config plans, which every trial reports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune.pareto import Mark, goes_on

PLANNED = "planned"
"""The figure of a trial that says its cost before it is measured."""


class ParetoHalving(FIFOScheduler):
    """Looks at `metric` after `grace_period` steps, and whenever `reduction_factor` times as many have gone by."""

    def __init__(self, *, metric: str, mode: str, max_t: int, grace_period: int, reduction_factor: float) -> None:
        super().__init__()
        self._gain, self._sign, self._factor = metric, 1.0 if mode == "max" else -1.0, reduction_factor
        count = 1 + int(math.log(max_t / grace_period, reduction_factor) + 1e-9)
        self._rungs: list[tuple[float, dict[str, Mark]]] = [(grace_period * reduction_factor**k, {}) for k in reversed(range(count))]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """The decision at the highest rung that is new to the trial."""
        gain, cost, step = (result.get(name, math.nan) for name in (self._gain, PLANNED, "step"))
        if math.isnan(gain) or math.isnan(cost):
            return str(TrialScheduler.CONTINUE)
        for milestone, marks in self._rungs:
            if step >= milestone and trial.trial_id not in marks:
                marks[trial.trial_id] = mark = Mark(self._sign * gain, cost)
                ahead = goes_on(list(marks.values()), mark, self._factor)
                return str(TrialScheduler.CONTINUE if ahead else TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)
