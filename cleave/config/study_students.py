"""What studies have in common: students that are trained on one collection, each with several seeds."""

from typing import Any, Self

from pydantic import Field, model_validator

from cleave.config.base import Config, merged, validate_part
from cleave.config.distill import DistillConfig


class StudyStudents(Config):
    """Each part is a run of its own in the study's folder: what is finished is never done again."""

    name: str
    """Name of the study's folder."""
    storage_path: str = "runs"
    """Where it is: a local path or a URL."""
    distill: dict[str, Any] = Field(default_factory=dict)
    """What the students' configs of `cleave distill` have in common."""
    students: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Student → what its config adds to `distill`; its source is the collection unless it says otherwise. `init: {student: NAME}` starts
    where a student before it ended, with the same seed."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Training seeds; every student is trained once with each."""
    one_seed: tuple[str, ...] = ()
    """Students that are trained with the first seed only: their rows are exploratory."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Coverage of all intervals."""

    @model_validator(mode="after")
    def _students_fit(self) -> Self:
        strangers = set(self.one_seed) - set(self.students)
        if strangers:
            raise ValueError(f"one_seed: {sorted(strangers)[0]!r} is no student")
        before: list[str] = []
        for name in self.students:
            start = self.starts_after(name)
            if start is not None and start not in before:
                known = ", ".join(before) or "none"
                raise ValueError(f"students.{name}.init.student: {start!r} is no student before it; there are {known}")
            if start is not None and set(self.seeds_of(name)) - set(self.seeds_of(start)):
                raise ValueError(f"{name!r} starts from {start!r}, which has fewer seeds; name both in one_seed, or neither")
            self.student(name, self.seeds[0])
            before.append(name)
        return self

    @property
    def folder(self) -> str:
        """The study's folder."""
        return f"{self.storage_path.rstrip('/')}/{self.name}"

    @property
    def collection_path(self) -> str:
        """The folder of the collection."""
        return f"{self.folder}/collection"

    def student(self, name: str, seed: int) -> DistillConfig:
        """How a student is trained."""
        data = merged(self.distill, self.students[name])
        if data.setdefault("source", "collection") == "collection":
            data["collection"] = {"path": self.collection_path, **data.get("collection", {})}
        start = self.starts_after(name)
        if start is not None:
            kept = {key: value for key, value in data["init"].items() if key == "add_layers"}
            target = self.student(start, seed).output_dir or f"{self.folder}/{run_name(start, seed)}/checkpoint"
            data["init"] = kept | {"model": f"hf:{target}"}
        named = {"name": run_name(name, seed), "storage_path": self.folder, "seed": seed}
        return validate_part(DistillConfig, data | named, f"students.{name}")

    def starts_after(self, name: str) -> str | None:
        """The student at whose end a student starts."""
        init = self.students[name].get("init")
        return init.get("student") if isinstance(init, dict) else None

    def generations(self) -> list[list[str]]:
        """Students that may train at the same time, in the order in which they start from one another."""
        found: list[list[str]] = []
        place: dict[str, int] = {}
        for name in self.students:
            start = self.starts_after(name)
            place[name] = 0 if start is None else place[start] + 1
            if place[name] == len(found):
                found.append([])
            found[place[name]].append(name)
        return found

    def seeds_of(self, student: str) -> tuple[int, ...]:
        """The seeds that a student is trained with."""
        return self.seeds[:1] if student in self.one_seed else self.seeds


def run_name(name: str, seed: int) -> str:
    """The folder of a student's training, or of a row's evaluation."""
    return f"{as_name(name)}-seed{seed}"


def as_name(name: str) -> str:
    """A row's or student's name as part of a run's name."""
    kept = "".join(char if (char.isalnum() and char.isascii()) or char in "._-" else "-" for char in name.replace("→", "to"))
    return "-".join(part for part in kept.split("-") if part) or "row"
