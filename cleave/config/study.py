"""Which part is worth distilling: one collection, students trained on it, pairs of decomposer and solver on the same problems."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import SHORT, Config, merged, validate_part
from cleave.config.collect import CollectConfig
from cleave.config.evaluate import EvaluateConfig
from cleave.config.model import ModelConfig, Price
from cleave.config.roles import DecomposerConfig, RoleConfig
from cleave.config.study_students import StudyStudents, as_name

NOBODY = "none"
"""In place of a decomposer: the row's strategy makes no plan."""
GOLD = "gold"
"""In place of a decomposer: the task's own plans; in place of a solver: the task's own answers to a plan's sub-questions."""


class Cast(Config):
    """Models that are there already, under the name that rows use."""

    decomposer: DecomposerConfig | None = None
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
    """A name of `models` or `students`; gold: the task's answers to what the plan asks."""
    reasoning: dict[str, Any] = Field(default_factory=dict)
    """Fields of `evaluate.reasoning` that differ, such as strategy: direct."""
    roles: dict[Literal["decomposer", "solver"], dict[str, Any]] = Field(default_factory=dict)
    """Fields of the two roles that differ, such as decomposer: {redraws: 8}."""
    tasks: tuple[str, ...] | None = None
    """Labels of the evaluated tasks; null: all."""
    problems: int | None = Field(None, gt=0)
    """Problems of each task; null: as `evaluate` says."""
    against: str | None = None
    """The row that this one is compared with, on the problems of both; null: the baseline."""


class StudyConfig(StudyStudents):
    """One study of pairs."""

    models: dict[str, Cast] = Field(min_length=1)
    """Models that are there already: teachers, undistilled students, other families."""
    teacher: str | None = None
    """The name in `models` whose traces are collected; null: students learn from gold examples."""
    collect: dict[str, Any] | None = None
    """A config of `cleave collect`, without its name, storage_path and roles; null: nothing is collected."""
    evaluate: dict[str, Any]
    """A config of `cleave evaluate`, without its name, storage_path, roles and variants."""
    rows: dict[str, RowConfig] = Field(min_length=1)
    """The table, in order."""
    baseline: str
    """The row that the others are compared with, unless they say otherwise."""
    advice: dict[Literal["decomposer", "solver"], str] = Field(default_factory=dict)
    """The row that speaks for a role: the one in which only that role is played by a student. Chosen before the study is run."""
    tolerance: float = Field(0.02, ge=0, lt=1)
    """Share of the problems that a student may lose and still be worth distilling."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """Price by name of a model or student; where a player of the table has none, cost is counted in FLOPs."""
    reuse_replies: bool = True
    """Keep the models' replies in the study's folder (`replies/`), so that rows in which a model is asked the same ask it once; costs are
    those of the first time. On remote storage nothing is kept."""
    sizes: bool = False
    """Also measure of each row the model in which it differs from the baseline (parameters, FLOPs, bytes, seconds to generate), and show
    what gates agreed on."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if (self.teacher is None) != (self.collect is None):
            raise ValueError("teacher says whose traces `collect` gathers; set both or neither")
        learners = [name for name in self.students if self._awaits_collection(name)]
        if self.collect is None and learners:
            raise ValueError(
                f"{learners[0]!r} learns from a collection; say what to collect, name one by collection.path, or set distill.source: gold"
            )
        if self.teacher is not None and self.teacher not in self.models:
            raise ValueError(f"the teacher {self.teacher!r} is none of the models: {', '.join(self.models)}")
        if self.baseline not in self.rows:
            raise ValueError(f"the baseline {self.baseline!r} is no row; there are {', '.join(self.rows)}")
        both = set(self.models) & set(self.students)
        if both:
            raise ValueError(f"{sorted(both)[0]!r} is a model and a student; rename one")
        unknown = set(self.prices) - set(self.models) - set(self.students)
        if unknown:
            raise ValueError(f"prices: {sorted(unknown)[0]!r} is no model and no student")
        for role, spokesman in self.advice.items():
            if spokesman not in self.rows:
                raise ValueError(f"advice.{role}: {spokesman!r} is no row; there are {', '.join(self.rows)}")
        if self.collect is not None:
            self.collection()
        for name, row in self.rows.items():
            self._check_row(name, row)
        if self.sizes:
            self._check_sizes()
        return self

    def _awaits_collection(self, student: str) -> bool:
        """Whether a student learns from what the study itself collects."""
        config = self.student(student, self.seeds[0])
        return config.source == "collection" and config.collection is not None and config.collection.path == self.collection_path

    def collection(self) -> CollectConfig:
        """What is collected."""
        assert self.teacher is not None
        assert self.collect is not None
        cast = self.models[self.teacher]
        roles = {role: part.model_dump() for role, part in (("decomposer", cast.decomposer), ("solver", cast.solver)) if part}
        return validate_part(CollectConfig, self.collect | {"name": "collection", "storage_path": self.folder, "roles": roles}, "collect")

    def row(self, name: str, seed: int, checkpoints: dict[str, str] | None = None) -> EvaluateConfig:
        """How a row is measured; `checkpoints` are the students' folders."""
        row = self.rows[name]
        reasoning = self.evaluate.get("reasoning", {}) | row.reasoning
        reasoning |= {field: True for field, player in (("gold_plan", row.decomposer), ("gold_steps", row.solver)) if player == GOLD}
        players = {"decomposer": row.decomposer, "solver": row.solver}
        cast = {role: self._player(name, role, checkpoints or {}) for role, name in players.items() if name not in (NOBODY, GOLD)}
        decomposer, solver = (cast.get(role) or next(iter(cast.values())) for role in players)  # who is not asked may be anybody
        solver = {field: value for field, value in solver.items() if field in RoleConfig.model_fields}
        decomposer = merged(decomposer, row.roles.get("decomposer", {}))
        solver = merged(solver, row.roles.get("solver", {}))
        data = self.evaluate | {"reasoning": reasoning, "roles": {"decomposer": decomposer, "solver": solver}}
        data["tasks"] = [_sized(task, row.problems) for task in data["tasks"] if row.tasks is None or _label(task) in row.tasks]
        suffix = f"-seed{seed}" if self.depends_on_seed(name) else ""
        return validate_part(
            EvaluateConfig, data | {"name": f"row-{as_name(self.first_like(name))}{suffix}", "storage_path": self.folder}, f"rows.{name}"
        )

    def depends_on_seed(self, name: str) -> bool:
        """Whether a student plays in the row."""
        row = self.rows[name]
        return row.decomposer in self.students or row.solver in self.students

    def row_seeds(self, name: str) -> tuple[int, ...]:
        """The seeds that a row is measured with: those that all of its students have; one is enough where nothing was trained."""
        row = self.rows[name]
        players = [player for player in (row.decomposer, row.solver) if player in self.students]
        return min((self.seeds_of(player) for player in players), key=len, default=self.seeds[:1])

    def first_like(self, name: str) -> str:
        """The first row that measures the same, so that nothing is measured twice for being compared with two rows."""
        asked = self.rows[name].model_copy(update={"against": None})
        return next(other for other, row in self.rows.items() if row.model_copy(update={"against": None}) == asked)

    def against(self, name: str) -> str:
        """The row that a row is compared with; the baseline's is itself."""
        return self.rows[name].against or self.baseline

    def player(self, row: str, role: str) -> str:
        """Who plays a role in a row."""
        player: str = getattr(self.rows[row], role)
        return player

    def part(self, row: str) -> tuple[str, str]:
        """The role in which a row differs from the baseline, and who plays it; of the baseline the first that somebody plays."""
        played = [role for role in ("decomposer", "solver") if self.player(row, role) not in (NOBODY, GOLD)]
        differs = [role for role in played if self.player(row, role) != self.player(self.baseline, role)]
        role = (differs or played)[0]
        return role, self.player(row, role)

    def weights(self, role: str, player: str, checkpoints: Mapping[str, str]) -> ModelConfig | None:
        """The local weights of a player; None where they are somewhere else, or nobody plays."""
        if player in self.students:
            return ModelConfig(model_name_or_path=checkpoints[player])
        part: RoleConfig | None = getattr(self.models[player], role) if player in self.models else None
        return part.model if part is not None and part.model.backend in ("hf", "reference") else None

    def _check_sizes(self) -> None:
        for name in self.rows:
            role, _ = self.part(name)
            player = self.player(self.baseline, role)
            if self.weights(role, player, dict.fromkeys(self.students, "student")) is None:
                raise ValueError(f"sizes are compared with the baseline's {role}, and {player!r} has no local weights; set sizes: false")

    def _check_row(self, name: str, row: RowConfig) -> None:
        if self.against(name) not in self.rows:
            raise ValueError(f"rows.{name}.against: {row.against!r} is no row; there are {', '.join(self.rows)}")
        if row.solver == GOLD and row.decomposer in (NOBODY, GOLD):
            raise ValueError(f"rows.{name}: somebody has to be asked; give it a decomposer or a solver")
        for role, player in (("decomposer", row.decomposer), ("solver", row.solver)):
            if player == GOLD or (role, player) == ("decomposer", NOBODY):
                continue
            if player not in self.models and player not in self.students:
                known = ", ".join([*self.models, *self.students])
                raise ValueError(f"rows.{name}: {player!r} is no model and no student; there are {known}")
        self.row(name, self.seeds[0], dict.fromkeys(self.students, "student"))

    def _player(self, name: str, role: str, checkpoints: dict[str, str]) -> dict[str, Any]:
        price = {"price": self.prices[name].model_dump()} if name in self.prices else {}
        if name in self.students:
            return {"model": {SHORT: f"hf:{checkpoints[name]}", **price, **self._cache()}}
        part: RoleConfig | None = getattr(self.models[name], role)
        if part is None:
            raise ValueError(f"{name!r} has no {role}; say models.{name}.{role}")
        kept = {} if part.model.cache or part.model.backend == "recorded" else self._cache()
        return part.model_dump() | {"model": part.model.model_dump() | price | kept}

    def _cache(self) -> dict[str, str]:
        return {"cache": f"{self.folder}/replies"} if self.reuse_replies and "://" not in self.folder else {}


def _sized(task: object, problems: int | None) -> object:
    """An evaluated task with another number of problems; null: as it is."""
    if problems is None:
        return task
    return {**(task if isinstance(task, dict) else {"task": task}), "problems": problems}


def _label(task: object) -> str:
    if isinstance(task, str):
        return task
    assert isinstance(task, dict)
    named = task.get("task")
    return str(task.get("label") or (named if isinstance(named, str) else dict(named or {}).get("name", "")))
