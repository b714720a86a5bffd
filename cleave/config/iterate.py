"""Rounds in which a student learns from its own right solutions beside its teacher's (SIKeD, arXiv 2410.18574)."""

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cleave.config.base import Config, validate_part
from cleave.config.collect import CollectConfig, CollectTask
from cleave.config.distill import DistillConfig
from cleave.config.evaluate import EvaluateConfig
from cleave.config.formats import Format
from cleave.config.reasoning import StrategyName
from cleave.config.roles import RolesConfig

LEARNED: Mapping[StrategyName, Format] = {
    "direct": "direct",
    "single": "single",
    "static": "steps_with_plan",
    "stepwise": "step",
    "dynamic": "next_answer",
}
"""What a solver learns from the traces of a strategy: to reply as that strategy asks."""
SET_HERE = {
    "student": ("model",),
    "collect": ("name", "storage_path", "roles"),
    "distill": ("name", "storage_path", "role", "source", "tasks", "formats", "seed", "output_dir"),
    "evaluate": ("name", "storage_path", "roles", "variants"),
}
"""Keys of the sections that the rounds fill in."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Shares = Mapping[tuple[str, str], int]
"""Number of training problems by (task label, strategy)."""


class IterateConfig(Config):
    """One iteration. Round 0 trains on the teacher's traces alone; each later one on those of the student before it as well."""

    name: str
    """Name of the iteration's folder."""
    storage_path: str = "runs"
    """Where it is: a local path or a URL."""
    teacher: RolesConfig = Field(default_factory=RolesConfig)
    """Who writes the first traces. Its decomposer also plans for the student, which is a solver."""
    student: dict[str, Any] = Field(default_factory=dict)
    """Fields of the student's role but its model, such as max_tokens and resources."""
    strategies: dict[str, dict[str, Any]] = Field(min_length=1)
    """What is sampled and learned: name → the fields of `reasoning` that make the strategy; `single:` alone is the one of that name."""
    collect: dict[str, Any]
    """A config of `cleave collect` without name, storage_path and roles; its reasoning says how both teacher and student sample."""
    distill: dict[str, Any]
    """A config of `cleave distill` for one round, without what the rounds fill in; its init is where round 0 starts."""
    evaluate: dict[str, Any]
    """A config of `cleave evaluate` without name, storage_path, roles and variants; a validation split, since rounds are chosen by it."""
    deciding: str | None = None
    """Strategy whose accuracy decides whether to go on and which round is best; null: the first."""
    mixture: Literal["all", "adaptive", "teacher"] = "adaptive"
    """all: the student's right samples and all of the teacher's; adaptive: by strategy, the teacher's only for problems that the student
    did not solve with it; teacher: the teacher's alone, the control that trains as long and samples nothing."""
    start_from: Literal["previous", "first"] = "previous"
    """Checkpoint from which a round goes on: that of the round before, or of round 0."""
    rounds: int = Field(3, ge=1)
    """Most rounds after round 0."""
    min_gain: float = Field(0.005, ge=0, le=1)
    """Share of the problems that a round must gain on the one before; less, or a loss, ends the iteration."""
    seed: int = 0
    """Seed of round 0's training and sampling; each round adds 1."""

    @field_validator("strategies", mode="before")
    @classmethod
    def _bare_strategy(cls, data: object) -> object:
        """`single:` without fields is the strategy of that name."""
        return {name: fields or {"strategy": name} for name, fields in data.items()} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        wrong = [name for name in self.strategies if not _NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} cannot name a strategy; use letters, digits, '.', '_' and '-'")
        if self.judge not in self.strategies:
            raise ValueError(f"deciding: {self.judge!r} is none of the strategies: {', '.join(self.strategies)}")
        for section, keys in SET_HERE.items():
            given = [key for key in keys if key in getattr(self, section)]
            if given:
                raise ValueError(f"{section}.{given[0]} is filled in by the rounds; remove it")
        given = [key for key in ("path", "also", "mixture", "keep", "recipe") if key in self.distill.get("collection", {})]
        if given:
            raise ValueError(f"distill.collection.{given[0]} is filled in by the rounds; remove it")
        for name in self.strategies:
            if self.collection(0, name).reasoning.strategy not in LEARNED:
                raise ValueError(f"strategies.{name}: the stages of adaptive reply in different forms; name each of them as a strategy")
        self.training(0, {(task.title, name): 1 for name in self.strategies for task in self.tasks()})
        self._check_splits(self.evaluation(0, "student"))
        return self

    @property
    def folder(self) -> str:
        """The iteration's folder."""
        return f"{self.storage_path.rstrip('/')}/{self.name}"

    @property
    def judge(self) -> str:
        """The strategy that decides."""
        return self.deciding or next(iter(self.strategies))

    def tasks(self) -> tuple[CollectTask, ...]:
        """What is sampled and learned, under the labels of `collect`."""
        return validate_part(CollectConfig, self.collect | {"name": "samples", "storage_path": self.folder}, "collect").tasks

    def place(self, round_: int) -> str:
        """The folder of a round."""
        return f"{self.folder}/round-{round_}"

    def collection(self, round_: int, strategy: str, checkpoint: str | None = None) -> CollectConfig:
        """How the traces of a round and strategy are sampled; `checkpoint` None: by the teacher."""
        reasoning = {"seed": self.seed + round_, **self.collect.get("reasoning", {}), **self.strategies[strategy]}
        roles = self.teacher.model_dump() if checkpoint is None else self._cast(checkpoint)
        named = {"name": f"samples-{strategy}", "storage_path": self.place(round_), "roles": roles, "reasoning": reasoning}
        tasks = [task.model_dump() | {"label": label(task.title, strategy)} for task in self.tasks()]
        return validate_part(CollectConfig, self.collect | named | {"tasks": tasks}, f"strategies.{strategy}")

    def sources(self, round_: int, strategy: str) -> dict[str, Any]:
        """Which traces a round learns of a strategy: a CollectionConfig as plain data."""
        teacher, own = (f"{self.place(k)}/samples-{strategy}" for k in (0, round_))
        common = {"keep": "answered", **self.distill.get("collection", {})}
        if round_ == 0 or self.mixture == "teacher":
            return common | {"path": teacher}
        return common | {"path": own, "also": [teacher], "mixture": self.mixture}

    def training(self, round_: int, shares: Shares, checkpoint: str | None = None) -> DistillConfig:
        """How a round trains: each task and strategy as often as it has problems. `checkpoint` None: from `distill.init`."""
        tasks = [
            {
                "task": task.task.model_dump(),
                "label": label(task.title, strategy),
                "weight": shares[task.title, strategy],
                "formats": {self.learned(strategy): 1.0},
                "collection": self.sources(round_, strategy),
            }
            for task in self.tasks()
            for strategy in self.strategies
            if shares.get((task.title, strategy))
        ]
        start = {} if checkpoint is None else {"init": {"model": f"hf:{checkpoint}"}}
        named = {"name": "training", "storage_path": self.place(round_), "seed": self.seed + round_}
        shared = {key: value for key, value in self.distill.items() if key != "collection"}
        data = shared | start | named | {"role": "solver", "source": "collection", "tasks": tasks}
        return validate_part(DistillConfig, data, "distill")

    def evaluation(self, round_: int, checkpoint: str) -> EvaluateConfig:
        """How a round's student is measured, under every strategy."""
        tasks = self.evaluate.get("tasks", [])
        several = [tasks] if isinstance(tasks, str | dict) else tasks
        split = [{"split": "validation", **(task if isinstance(task, dict) else {"task": task})} for task in several]
        named = {"name": "evaluation", "storage_path": self.place(round_), "tasks": split, "variants": self.strategies}
        return validate_part(EvaluateConfig, self.evaluate | named | {"roles": self._cast(checkpoint)}, "evaluate")

    def learned(self, strategy: str) -> Format:
        """The format of training examples that a strategy's traces become."""
        return LEARNED[self.collection(0, strategy).reasoning.strategy]

    def _cast(self, checkpoint: str) -> dict[str, Any]:
        return {"decomposer": self.teacher.decomposer.model_dump(), "solver": self.student | {"model": f"hf:{checkpoint}"}}

    def _check_splits(self, evaluation: EvaluateConfig) -> None:
        trained = [(task.task, task.split) for task in self.tasks()]
        for task in evaluation.tasks:
            if task.split == "test":
                raise ValueError("evaluate.tasks: rounds are chosen by these figures; take a validation split, never test")
            if (task.task, task.split) in trained:
                raise ValueError(f"evaluate.tasks: {task.title}/{task.split} is trained on; take another split")


def label(title: str, strategy: str) -> str:
    """How a task is called in the collections and trainings of one strategy."""
    return f"{title}-{strategy}"
