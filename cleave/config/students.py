"""Several students of `cleave distill` in one job: what they have in common, and what each adds to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from cleave.config.base import Config, load, merged, read_yaml, validate_part
from cleave.config.distill import DistillConfig


class StudentsConfig(Config):
    """One job. Each student is a run of its own in the job's folder: what is finished is never trained again."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the job's folder."""
    storage_path: str = "runs"
    """Where it is: a local path or a URL."""
    distill: dict[str, Any] = Field(default_factory=dict)
    """What the students' configs of `cleave distill` have in common, without name and storage_path."""
    students: dict[str, dict[str, Any]] = Field(min_length=1)
    """Student → what its config adds to `distill`, section by section; its run is storage_path/name/STUDENT."""
    max_concurrent: int | None = Field(None, ge=1)
    """Students that train at the same time on Ray Train; null: as many as the cluster has room for. Inline they take turns."""

    @model_validator(mode="after")
    def _students_fit(self) -> Self:
        students = [self.student(name) for name in self.students]
        if len({student.backend for student in students}) > 1:
            raise ValueError("some students train inline and others on Ray; set one backend in `distill`")
        targets = [student.output_dir for student in students if student.output_dir is not None]
        if len(set(targets)) < len(targets):
            raise ValueError("two students have the same output_dir; set it per student, or leave it out")
        return self

    def student(self, name: str) -> DistillConfig:
        """How a student is trained."""
        own = {"name": name, "storage_path": f"{self.storage_path.rstrip('/')}/{self.name}"}
        return validate_part(DistillConfig, merged(self.distill, self.students[name]) | own, f"students.{name}")


def load_distill(path: str | Path, overrides: Sequence[str] = ()) -> DistillConfig | StudentsConfig:
    """A config of `cleave distill`: of one training, or, where it has `students`, of several. Raises ConfigError."""
    if "students" in read_yaml(path):
        return load(StudentsConfig, path, overrides)
    return load(DistillConfig, path, overrides)
