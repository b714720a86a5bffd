"""The trials of one training seed on Ray Tune: function trials, as many at a time as fit, poor ones ended early by ASHA.

What is known lies in the trials' folders, not in Tune's own: its snapshot is up to ten seconds old and lacks the scheduler's rungs. So a
search that goes on is a new one on what is left, whose scheduler and searcher are told first what was measured before.

Left out: which candidates there are (searcher.py), which of them lead (candidates.py), how many fit (placement.py), training (trial.py).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Ctrl-C and standard output are the command line's business, and trials are written by us. Read by Tune when a search starts.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler

from cleave.config.distill import DistillConfig
from cleave.config.tune import AshaConfig, SearchConfig
from cleave.console import say
from cleave.errors import ConfigError, TrainingError
from cleave.runs import METRICS, RunFolder
from tune.candidates import TRIALS, Candidate, mode_of, note_trial, trial_folder, trial_name
from tune.learning_curve import Figures, read_curve
from tune.outcome import Outcome
from tune.pareto_halving import ParetoHalving
from tune.prefixes import Prefixes
from tune.searcher import optuna_search, pareto_search
from tune.space import Given, Point, Space
from tune.trial import first_skill

PREFIXES = "prefixes"
EXPERIMENT = "tune"
"""Folders inside the search's that are removed at its end."""
_PLACE = "place"
_SHOWN = 300
"""Characters of a reason."""


@dataclass(frozen=True)
class Round:
    """The trials of one seed. `points` are by key what is to be trained, in order; `samples` more come from Optuna. `build` makes a point
    the config of a training with a name and a folder, `key` names what that trains. `known` are candidates of earlier starts."""

    config: SearchConfig
    folder: RunFolder
    space: Space
    seed: int
    metric: str
    points: Mapping[str, Point]
    samples: int
    build: Callable[[Point, int, str, str], DistillConfig]
    key: Callable[[Point], str]
    known: Sequence[Candidate] = ()
    share_prefixes: bool = True
    cost: str | None = None
    """A second figure that is made small; None: only the metric counts."""
    beside: Callable[[DistillConfig], Figures] = lambda training: {}
    """Figures of a trial that are known before it is trained."""

    @property
    def watched(self) -> set[str]:
        """What Tune's searcher and scheduler look at."""
        scheduler = self.config.scheduler
        return {self.metric, (scheduler.metric if scheduler else None) or self.metric, *([self.cost] if self.cost else [])}

    @property
    def trials(self) -> int:
        """How many there are."""
        return max(self.samples, len(self.points))

    def point(self, given: Mapping[str, Any]) -> Point:
        """What Tune handed to a trial, as a point."""
        return list(self.points.values())[given[_PLACE]] if _PLACE in given else self.space.decode(given)

    def training(self, point: Point) -> DistillConfig:
        """The config of a trial."""
        return self.build(point, self.seed, trial_name(self.key(point), self.seed), self.folder.path(TRIALS))


def run_round(this: Round, *, slots: int, seconds: float | None, scheduled: bool) -> None:
    """Run all trials that are left, at most `slots` at a time and for `seconds`. `scheduled`: ASHA may end them early."""
    config = this.config
    if not this.trials:
        return
    optuna, trainable = this.samples > 0, as_trainable(this)
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(trainable, ray_tune.PlacementGroupFactory([config.reserved])),
        param_space={} if optuna else {_PLACE: ray_tune.grid_search(list(range(len(this.points))))},
        tune_config=ray_tune.TuneConfig(
            num_samples=this.samples if optuna else 1,
            max_concurrent_trials=slots,
            search_alg=searcher_of(this) if optuna else None,
            scheduler=scheduler_of(config.scheduler, this) if scheduled and config.scheduler is not None else None,
            time_budget_s=seconds,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            name=f"seed{this.seed}-{os.getpid()}-{int(time.time())}",
            storage_path=this.folder.path(EXPERIMENT),
            failure_config=ray_tune.FailureConfig(max_failures=config.max_failures),
            callbacks=[Watch(this)],
            verbose=0,
        ),
    )
    tuner.fit()
    if config.on_workers:
        from tune import workers

        workers.sweep(Path(this.folder.path(TRIALS)))


def as_trainable(this: Round) -> Callable[[dict[str, Any]], None] | type:
    """What Tune calls in a process of its own for each trial."""
    threads = max(1, int(this.config.reserved.get("CPU", 1)))
    prefixes = Prefixes(Path(this.folder.path(PREFIXES))) if this.share_prefixes else None
    unmeasured = {this.cost: math.inf} if this.cost else {}  # Tune refuses a report without a figure that its searcher seeks

    def trial(given: dict[str, Any]) -> None:
        from pipelines.distill import set_threads
        from tune.trial import run_trial

        set_threads(threads)
        training = this.training(this.point(given))
        try:
            run_trial(training, tell=lambda figures: ray_tune.report(unmeasured | figures), prefixes=prefixes, beside=this.beside(training))
        except TrainingError:  # noted as the outcome; raised, it would cost the process and be tried again
            ray_tune.report(dict.fromkeys(this.watched, math.nan))

    if this.config.on_workers:
        from tune import workers

        return workers.as_trainable(trial)
    return trial


class Watch(ray_tune.Callback):
    """Driver side: notes what each trial is made of, and its outcome where the trial could not; says how it goes."""

    def __init__(self, this: Round) -> None:
        self._round = this
        self._place = len(this.known)
        self._ended = 0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        this = self._round
        point = this.point(trial.config)
        key = this.key(point)
        given = this.space.encode(point) if _PLACE in trial.config else dict(trial.config)
        before = {candidate.key: candidate.place for candidate in this.known}
        if note_trial(this.folder, key, this.seed, before.get(key, self._place), point, given):
            self._place += key not in before

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, "pruned", "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lines = [line.strip() for line in str(trial.get_error()).splitlines() if line.strip()]
        self._end(trial, "failed", lines[-1][:_SHOWN] if lines else "its process died")

    def _end(self, trial: Any, status: Any, reason: str) -> None:
        this = self._round
        key = this.key(this.point(trial.config))
        folder = trial_folder(this.folder, key, this.seed)
        if Outcome.read(folder) is None:
            result = trial.last_result or {}
            curve = curve_of(this, key, this.point(trial.config))
            Outcome(status, curve[-1] if curve else {}, reason, float(result.get("time_total_s", 0.0))).write(folder)
        folder.remove(["trainer"])
        outcome = Outcome.read(folder)
        assert outcome is not None
        self._ended += 1
        say(f"seed {this.seed}, {self._ended}/{this.trials}: {key} {outcome.status} {sentence(outcome, this.metric)}")


def sentence(outcome: Outcome, metric: str) -> str:
    """An outcome for people."""
    measured = f"{metric} {outcome.values[metric]:.4f} at step {outcome.values['step']:,.0f}" if metric in outcome.values else ""
    return outcome.reason or measured


def scheduler_of(config: AshaConfig, this: Round) -> ASHAScheduler | ParetoHalving:
    """Successive halving that knows the learning curves of earlier starts. Raises ConfigError where it would never look."""
    point = next(iter(this.points.values()), None) or this.space.decode(_any_point(this.space))
    training = this.training(point)
    steps = training.train.steps(training.max_workers)
    if config.grace_period >= steps:
        raise ConfigError(f"a trial has {steps} steps, so none would be ended early; set scheduler.grace_period below that.")
    metric = config.metric or this.metric
    options: dict[str, Any] = {
        "metric": metric,
        "mode": mode_of(metric),
        "max_t": steps,
        "grace_period": config.grace_period,
        "reduction_factor": config.reduction_factor,
    }
    scheduler = ParetoHalving(**options) if this.cost else ASHAScheduler(time_attr="step", **options)
    for candidate in this.known:
        if this.seed in candidate.outcomes:
            beside = this.beside(this.training(candidate.point))
            tell_scheduler(scheduler, candidate.key, [beside | one for one in curve_of(this, candidate.key, candidate.point)])
    return scheduler


def tell_scheduler(scheduler: ASHAScheduler | ParetoHalving, name: str, curve: Iterable[Figures]) -> None:
    """What a trial of an earlier start measured, so that later ones are compared with it."""
    shadow: Any = SimpleNamespace(trial_id=name)
    controller: Any = None  # which it does not ask
    scheduler.on_trial_add(controller, shadow)
    for figures in curve:
        scheduler.on_trial_result(controller, shadow, figures)


def searcher_of(this: Round) -> Any:
    """Optuna, told what is known."""
    first = list(this.points.values())
    if this.cost:
        searcher = pareto_search(
            this.space, first, [this.metric, this.cost], [mode_of(this.metric), "min"], this.config.seed + len(this.known)
        )
        for candidate in this.known:
            if (outcome := candidate.outcomes.get(this.seed)) is not None:
                values = [outcome.values.get(name, math.nan) for name in (this.metric, this.cost)]
                whole = outcome.status == "finished" and all(map(math.isfinite, values))
                searcher.know(candidate.given, values if whole else None, failed=outcome.status == "failed")
        return searcher
    known: list[tuple[Given, float | None]] = []
    for candidate in this.known:
        outcome = candidate.outcomes.get(this.seed)
        if outcome is not None:
            known.append((candidate.given, None if outcome.status == "failed" else outcome.values.get(this.metric)))
    return optuna_search(this.space, first, known, metric=this.metric, mode=mode_of(this.metric), seed=this.config.seed)


def curve_of(this: Round, key: str, point: Point) -> list[Figures]:
    """The learning curve that a trial left behind."""
    return read_curve(trial_folder(this.folder, key, this.seed).path(METRICS), first_skill(this.training(point)))


def _any_point(space: Space) -> Given:
    return {name: dimension.low for name, dimension in space.dimensions().items()}
