"""What `cleave tune` searches: which fields of a training take which values, who proposes them, and what each trial may use.

Names are Ray Tune's where they mean the same. Left out: the values drawn (tune/space.py) and the search itself (tune/search.py).
"""

from collections.abc import Mapping, Set
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config, merged, validate_part
from cleave.config.distill import DistillConfig

Metric = Literal["f_score", "average_accuracy", "area_under_curve", "exact_match", "loss"]
ORDER = "curriculum.order"
STAGED = ("ordered", "cumulative")
BY_SKILL = ("f_score", "average_accuracy", "area_under_curve")
"""Metrics that are made of the accuracy on each skill."""
_OF_MIXTURES = {"order": STAGED, "pacing": STAGED, "schedule": ("scheduled",), "profile": ("missing_skills",)}
"""Fields of `curriculum` that only some mixtures have."""
DRIVER = {"CPU": 0.1}
"""What a trial reserves for its own process where several workers train for it: it starts them, listens, and exports at the end."""
_ONE_PROCESS = {"CPU": 1.0}
_WHERE = ("backend", "num_workers", "resources_per_worker")
"""Fields of `distill` that say where a trial runs."""
ON_WORKERS = {"resources_per_worker", "max_failures"}
"""Fields of `distill` that change no figure of a trial on several workers."""


class DomainConfig(Config):
    """The values that one field may take; a list is short for `choice`."""

    choice: tuple[Any, ...] = ()
    """Values one by one, such as [linear, root]."""
    uniform: tuple[float, float] | None = None
    """Any number from the first to the second."""
    log_uniform: tuple[float, float] | None = None
    """The same, drawn evenly over orders of magnitude."""
    permutations: tuple[str, ...] | None = None
    """Every order of these; empty: of the run's skills."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: object) -> object:
        whole: Any = {"choice": data} if isinstance(data, list | tuple) else data
        if isinstance(whole, dict) and isinstance(listed := whole.get("choice"), list | tuple):  # a list is no key, and JSON knows no tuple
            whole = whole | {"choice": [tuple(one) if isinstance(one, list) else one for one in listed]}
        return whole

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        given = [bool(self.choice), *(part is not None for part in (self.uniform, self.log_uniform, self.permutations))]
        if sum(given) != 1:
            raise ValueError("a field has one of choice (a list), uniform, log_uniform and permutations")
        for low, high in filter(None, (self.uniform, self.log_uniform)):
            if low >= high or (self.log_uniform and low <= 0):
                raise ValueError(f"[{low:g}, {high:g}] is no range; the first number is the smaller one, above 0 where it is log_uniform")
        if self.permutations is not None and len(set(self.permutations)) < len(self.permutations):
            raise ValueError("permutations name something twice; name each once")
        return self

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values that show whether the field and its kind of value exist."""
        return self.choice or self.uniform or self.log_uniform or (self.permutations,)


class AshaConfig(Config):
    """Asynchronous successive halving (arXiv 1810.05934): trials whose learning curve is worse than that of others end early."""

    grace_period: int = Field(gt=0)
    """Optimiser steps before which no trial is stopped."""
    reduction_factor: float = Field(2.0, gt=1)
    """Of the trials that came as far, the best 1 / reduction_factor go on; the next look is at reduction_factor times as many steps."""
    metric: Metric | None = None
    """The height of the learning curve; null: the search's metric."""


class SearchConfig(Config):
    """What all searches have in common. Run again with the same config to go on."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the search; its folder is storage_path/name."""
    storage_path: str = "runs"
    """Folder of the run folders, on a disk that all nodes of the cluster share."""
    distill: dict[str, Any]
    """What all trials have in common: a config of `cleave distill`, without name and storage_path. With backend: ray and num_workers above
    1 each trial is a run of Ray Train; otherwise it trains in a process of its own."""
    space: dict[str, DomainConfig] = Field(min_length=1)
    """Fields of `distill`, as section.key, with the values that they may take."""
    searcher: Literal["grid", "random", "optuna", "designer", "stratified"] = "random"
    """grid: every combination; random; optuna: tree-structured Parzen estimator; designer: the orders of skills by the Curriculum
    Designer's score, the best first, everything else at random; stratified: orders from all over that ranking, to judge the score by."""
    num_samples: int | None = Field(20, gt=0)
    """Candidates in all; null: the whole grid (grid only)."""
    designed: int = Field(0, ge=0)
    """Candidates at the start that take the designer's best orders (random and optuna)."""
    seed: int = 0
    """Seed of the searcher."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Training seeds: every candidate is trained with the first, only the leaders with the others, one seed after another."""
    leaders: tuple[int, ...] = ()
    """Candidates that go on to each further seed, such as [6, 3] for three seeds."""
    scheduler: AshaConfig | None = None
    """Ends poor trials of the first seed early; null: none."""
    max_concurrent_trials: int | None = Field(None, gt=0)
    """Trials at the same time; null: as many as the cluster has room for."""
    resources_per_trial: dict[str, float] = Field(default_factory=lambda: dict(_ONE_PROCESS))
    """What each trial reserves that trains in one process; it computes with as many threads as whole CPUs, at least one. Several workers
    reserve distill.resources_per_worker instead."""
    max_failures: int = Field(1, ge=0)
    """Times that a trial whose process died starts again from its last checkpoint."""
    time_budget_s: float | None = Field(None, gt=0)
    """Seconds after which the search stops; the same command goes on. null: no limit."""

    @model_validator(mode="after")
    def _candidates_fit(self) -> Self:
        if self.searcher == "grid" and (endless := [key for key, domain in self.space.items() if domain.uniform or domain.log_uniform]):
            raise ValueError(f"a grid has no place for the range of {endless[0]}; list values, or set searcher: random")
        if self.num_samples is None and self.searcher != "grid":
            raise ValueError("only a grid has an end of its own; set num_samples, or searcher: grid")
        if len(self.leaders) != len(self.seeds) - 1:
            raise ValueError(f"{len(self.seeds)} seeds need {len(self.seeds) - 1} numbers of leaders, one for each seed after the first")
        if any(later > earlier for earlier, later in zip(self.leaders, self.leaders[1:], strict=False)) or 0 in self.leaders:
            raise ValueError("leaders do not grow from seed to seed, and are at least 1; such as [6, 3]")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed occurs twice; name each once")
        if not any(share > 0 for share in self.resources_per_trial.values()):
            raise ValueError("a trial reserves something; set resources_per_trial, such as {CPU: 1}")
        if set(self.distill) & {"name", "storage_path", "output_dir", "seed"}:
            raise ValueError("a trial's name, folder and seed are the search's business; remove them from distill")
        if placed := [key for key in self.space if key.split(".")[0] in _WHERE]:
            raise ValueError(f"where a trial runs is not searched; move {placed[0]} from space to distill")
        if self.on_workers and self.resources_per_trial != _ONE_PROCESS:
            raise ValueError("workers train, not the trial's own process; set distill.resources_per_worker, and remove resources_per_trial")
        return self

    @property
    def on_workers(self) -> bool:
        """Whether several workers train for each trial."""
        return self.distill.get("backend") == "ray"

    @property
    def reserved(self) -> dict[str, float]:
        """What the process of each trial reserves."""
        wanted = DRIVER if self.on_workers else self.resources_per_trial
        return {name: share for name, share in wanted.items() if share > 0}

    @property
    def domains(self) -> dict[str, DomainConfig]:
        """The space as it is drawn from."""
        return self.space

    def trial(self, point: Mapping[str, Any], seed: int, name: str = "trial", folder: str = "runs") -> DistillConfig:
        """How a point of the space is trained."""
        data = merged(self.distill, nested(point))
        return validate_part(DistillConfig, data | {"name": name, "storage_path": folder, "seed": seed}, "distill")

    def check_trial(self, trial: DistillConfig, wanted: Set[str]) -> None:
        """What every search asks of a trial beyond what a training asks; `wanted` are the figures that it looks at."""
        if trial.min_workers != trial.max_workers:
            raise ValueError("trials share the cluster by the room that each needs, so its workers are a fixed number; set num_workers: 2")
        if trial.backend == "ray" and trial.num_workers == 1:
            raise ValueError("one worker trains in the trial's own process; remove distill.backend, or set num_workers above 1")
        if any(mix.eval_split == "test" for mix in trial.tasks):
            raise ValueError(
                "a search chooses by its held-out figures, so they must not be those of a test split; set eval_split: validation"
            )
        by_skill = sorted(wanted & set(BY_SKILL))
        if not trial.evaluation.examples or (by_skill and not trial.evaluation.skill_examples):
            raise ValueError(
                f"{[*by_skill, *sorted(wanted)][0]} is not measured; set distill.evaluation.examples and skill_examples above 0"
            )
        if "exact_match" in wanted and not trial.evaluation.generate:
            raise ValueError("exact_match is not measured; set distill.evaluation.generate above 0")

    @property
    def by_designer(self) -> bool:
        """Whether the searcher is the designer."""
        return self.searcher in ("designer", "stratified")

    @property
    def folder(self) -> str:
        """The search's folder."""
        return f"{self.storage_path.rstrip('/')}/{self.name}"


class CurriculumSearchConfig(SearchConfig):
    """Search the order, pacing and mixture of a training's curriculum, or any other of its fields."""

    metric: Metric = "average_accuracy"
    """What is sought, on held-out examples at the end of training: loss is made small, everything else large. f_score needs stages."""
    share_prefixes: bool = True
    """Trials whose orders begin alike train their common stages once, which changes no result."""

    @model_validator(mode="after")
    def _trials_fit(self) -> Self:
        base = {key: domain.examples[0] for key, domain in self.space.items()}
        for key, domain in self.space.items():
            for value in domain.examples:
                self._check(self.trial(base | {key: value}, self.seeds[0]))
        if (self.by_designer or self.designed) and ORDER not in self._permuted:
            raise ValueError(f"the designer makes orders; add {ORDER}: {{permutations: []}} to the space")
        return self

    @property
    def skills(self) -> tuple[str, ...]:
        """The skills that are put in order. Raises ValueError where the config does not name them."""
        curriculum = self.distill.get("curriculum") or {}
        if curriculum.get("order"):
            return tuple(curriculum["order"])
        if curriculum.get("skills", "task") != "task":
            raise ValueError(
                "which depths or skills there are is seen in the data; name them once in distill.curriculum.order, in any order"
            )
        whole = validate_part(DistillConfig, {key: value for key, value in self.distill.items() if key != "curriculum"} | _NAMED, "distill")
        return tuple(mix.title for mix in whole.tasks)

    @property
    def domains(self) -> dict[str, DomainConfig]:
        """The space, with the run's skills where permutations name none."""
        return {key: DomainConfig(permutations=self.skills) if domain.permutations == () else domain for key, domain in self.space.items()}

    def trial(self, point: Mapping[str, Any], seed: int, name: str = "trial", folder: str = "runs") -> DistillConfig:
        """How a point of the space is trained. What its mixture does not have is left out, so that points may differ in nothing."""
        data = merged(self.distill, nested({key: self.skills if value == () else value for key, value in point.items()}))
        if (curriculum := data.get("curriculum")) is not None:
            mixture = curriculum.get("mixture", "shuffled")
            data["curriculum"] = {key: part for key, part in curriculum.items() if mixture in _OF_MIXTURES.get(key, (mixture,))}
            if mixture == "ordered" and "pacing" in data["curriculum"]:
                data["curriculum"]["pacing"] = {key: part for key, part in curriculum["pacing"].items() if key != "start"}
        return validate_part(DistillConfig, data | {"name": name, "storage_path": folder, "seed": seed}, "distill")

    @property
    def _permuted(self) -> list[str]:
        return [key for key, domain in self.space.items() if domain.permutations is not None]

    def _check(self, trial: DistillConfig) -> None:
        """What a search asks of a trial beyond what a training asks."""
        wanted = {self.metric, *([self.scheduler.metric] if self.scheduler and self.scheduler.metric else [])}
        self.check_trial(trial, wanted)
        if wanted & set(BY_SKILL) and trial.curriculum is None:
            raise ValueError(f"{self.metric} needs skills; add a section distill.curriculum, or set metric: loss")
        if "f_score" in wanted and trial.curriculum is not None and trial.curriculum.mixture not in STAGED:
            raise ValueError(f"f_score needs stages, and {trial.curriculum.mixture} has none; set metric: average_accuracy")


_NAMED = {"name": "trial"}


def nested(point: Mapping[str, Any]) -> dict[str, Any]:
    """{'a.b': 1} as {'a': {'b': 1}}."""
    data: dict[str, Any] = {}
    for key, value in point.items():
        *parents, last = key.split(".")
        place = data
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = value
    return data
