"""Optuna for several figures at once, as Ray Tune takes it, where trials may end early and searches go on.

Two things of Ray's own adapter (2.60) do not fit. It tells Optuna a list with gaps of a trial that was ended before its cost was measured,
which Optuna refuses, so that the trial stays open for ever; here it counts as pruned, which Optuna's estimator takes for poor. And known
points can be added with one figure only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch


class ParetoOptuna(OptunaSearch):
    """An OptunaSearch whose `metric` and `mode` are lists. A figure that is absent or infinite was not measured, nan is one of a trial
    that failed."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        values = [(result or {}).get(name, math.inf) for name in self.metric]
        whole, failed = all(map(math.isfinite, values)), any(map(math.isnan, values))
        super().on_trial_complete(trial_id, result if whole else None, error or failed)

    def know(self, given: Mapping[str, float], values: Sequence[float] | None, *, failed: bool) -> None:
        """A candidate of an earlier start; `values` is None where it did not come to its end."""
        state = TrialState.COMPLETE if values is not None else TrialState.FAIL if failed else TrialState.PRUNED
        study: Any = self._ot_study
        distributions: Any = self._space
        study.add_trial(optuna.trial.create_trial(state=state, values=values, params=dict(given), distributions=distributions))
