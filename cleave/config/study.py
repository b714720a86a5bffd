"""Which part is worth distilling: one collection, students trained on it, pairs of decomposer and solver on the same problems."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config, validate_part
from cleave.config.collect import CollectConfig
from cleave.config.distill import DistillConfig
from cleave.config.evaluate import EvaluateConfig
from cleave.config.roles import RoleConfig

NOBODY = "none"
"""In place of a decomposer: the row's strategy makes no plan."""
GOLD = "gold"
"""In place of a decomposer: the task's own plans."""


class Cast(Config):
    """Models that are there already, under the name that rows use."""

    decomposer: RoleConfig | None = None
    """Who splits problems; null: rows cannot use the name for it."""
    solver: RoleConfig | None = None
    """Who solves them; null: rows cannot use the name for it."""

    @model_validator(mode="before")
    @classmethod
    def _one_model(cls, data: object) -> object:
        """`base: reference:base` plays both roles."""
        return {"decomposer": data, "solver": data} if isinstance(data, str) else data


class RowConfig(Config):
    """One line of the table: who decomposes, who solves, how."""

    decomposer: str = NOBODY
    """A name of `models` or `students`; gold: the task's plans; none: no plan."""
    solver: str
    """A name of `models` or `students`."""
    reasoning: dict[str, Any] = Field(default_factory=dict)
    """Fields of `evaluate.reasoning` that differ, such as strategy: direct."""
    tasks: tuple[str, ...] | None = None
    """Labels of the evaluated tasks; null: all."""


class StudyConfig(Config):
    """One study. Each part is a run of its own in the study's folder: what is finished is never done again."""

    name: str
    """Name of the study's folder."""
    storage_path: str = "runs"
    """Where it is: a local path or a URL."""
    models: dict[str, Cast] = Field(min_length=1)
    """Models that are there already: teachers, undistilled students, other families."""
    teacher: str
    """The name in `models` whose traces are collected and with whom every row is compared, in the row of both its roles."""
    collect: dict[str, Any]
    """A config of `cleave collect`, without its name, storage_path and roles."""
    distill: dict[str, Any] = Field(default_factory=dict)
    """What the students' configs of `cleave distill` have in common."""
    students: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Student → what its config adds to `distill`; its source is the collection unless it says otherwise."""
    evaluate: dict[str, Any]
    """A config of `cleave evaluate`, without its name, storage_path, roles and variants."""
    rows: dict[str, RowConfig] = Field(min_length=1)
    """The table, in order."""
    baseline: str
    """The row that all others are compared with."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Training seeds; every student is trained once with each."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Coverage of all intervals."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.teacher not in self.models:
            raise ValueError(f"the teacher {self.teacher!r} is none of the models: {', '.join(self.models)}")
        if self.baseline not in self.rows:
            raise ValueError(f"the baseline {self.baseline!r} is no row; there are {', '.join(self.rows)}")
        both = set(self.models) & set(self.students)
        if both:
            raise ValueError(f"{sorted(both)[0]!r} is a model and a student; rename one")
        self.collection()
        for student in self.students:
            self.student(student, self.seeds[0])
        for name, row in self.rows.items():
            self._check_row(name, row)
        return self

    def collection(self) -> CollectConfig:
        """What is collected."""
        cast = self.models[self.teacher]
        roles = {role: part.model_dump() for role, part in (("decomposer", cast.decomposer), ("solver", cast.solver)) if part}
        return validate_part(CollectConfig, self.collect | {"name": "collection", "storage_path": self.folder, "roles": roles}, "collect")

    def student(self, name: str, seed: int) -> DistillConfig:
        """How a student is trained."""
        data = _merged(self.distill, self.students[name])
        if data.setdefault("source", "collection") == "collection":
            data["collection"] = {"path": f"{self.folder}/collection", **data.get("collection", {})}
        named = {"name": f"{_as_name(name)}-seed{seed}", "storage_path": self.folder, "seed": seed}
        return validate_part(DistillConfig, data | named, f"students.{name}")

    def row(self, name: str, seed: int, checkpoints: dict[str, str] | None = None) -> EvaluateConfig:
        """How a row is measured; `checkpoints` are the students' folders."""
        row = self.rows[name]
        reasoning = self.evaluate.get("reasoning", {}) | row.reasoning | ({"gold_plan": True} if row.decomposer == GOLD else {})
        solver = self._player(row.solver, "solver", checkpoints or {})
        planless = row.decomposer in (NOBODY, GOLD)
        decomposer = solver if planless else self._player(row.decomposer, "decomposer", checkpoints or {})
        data = self.evaluate | {"reasoning": reasoning, "roles": {"decomposer": decomposer, "solver": solver}}
        if row.tasks is not None:
            data["tasks"] = [task for task in data["tasks"] if _label(task) in row.tasks]
        suffix = f"-seed{seed}" if self.depends_on_seed(name) else ""
        return validate_part(EvaluateConfig, data | {"name": f"row-{_as_name(name)}{suffix}", "storage_path": self.folder}, f"rows.{name}")

    def depends_on_seed(self, name: str) -> bool:
        """Whether a student plays in the row."""
        row = self.rows[name]
        return row.decomposer in self.students or row.solver in self.students

    @property
    def folder(self) -> str:
        """The study's folder."""
        return f"{self.storage_path.rstrip('/')}/{self.name}"

    def _check_row(self, name: str, row: RowConfig) -> None:
        for role, player in (("decomposer", row.decomposer), ("solver", row.solver)):
            if role == "decomposer" and player in (NOBODY, GOLD):
                continue
            if player not in self.models and player not in self.students:
                known = ", ".join([*self.models, *self.students])
                raise ValueError(f"rows.{name}: {player!r} is no model and no student; there are {known}")
        self.row(name, self.seeds[0], dict.fromkeys(self.students, "student"))

    def _player(self, name: str, role: Literal["decomposer", "solver"], checkpoints: dict[str, str]) -> dict[str, Any]:
        if name in self.students:
            return {"model": f"hf:{checkpoints[name]}"}
        part: RoleConfig | None = getattr(self.models[name], role)
        if part is None:
            raise ValueError(f"{name!r} has no {role}; say models.{name}.{role}")
        return part.model_dump()


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merged(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def _label(task: object) -> str:
    if isinstance(task, str):
        return task
    assert isinstance(task, dict)
    named = task.get("task")
    return str(task.get("label") or (named if isinstance(named, str) else dict(named or {}).get("name", "")))


def _as_name(name: str) -> str:
    """A row's or student's name as part of a run's name."""
    kept = "".join(char if (char.isalnum() and char.isascii()) or char in "._-" else "-" for char in name.replace("→", "to"))
    return "-".join(part for part in kept.split("-") if part) or "row"
