"""Which verifier chooses best: verifiers that are there already and verifiers trained for it, on the same samples under every rule."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from cleave.config.base import load, merged, read_yaml, validate_part
from cleave.config.collect import CollectConfig
from cleave.config.evaluate import EvaluateConfig
from cleave.config.reasoning import RULES, UNSCORED, SelectionName
from cleave.config.roles import VerifierConfig
from cleave.config.study import StudyConfig
from cleave.config.study_students import StudyStudents, run_name


class VerifierStudyConfig(StudyStudents):
    """One study of verifiers. The samples are drawn once; every verifier judges the same ones."""

    collect: dict[str, Any] | None = None
    """A config of `cleave collect`, without its name and storage_path: the samples that students learn from."""
    verifiers: dict[str, VerifierConfig] = Field(default_factory=dict)
    """Verifiers that are there already, by name; those that are trained are `students`."""
    samples: dict[str, Any]
    """A config of `cleave evaluate`, without its name, storage_path and variants: the problems, who solves them, and how often
    (reasoning.n). Not the split that students learn from."""
    rules: tuple[SelectionName, ...] = RULES
    """Selection rules that are compared, with each verifier that they need."""
    baseline: SelectionName = "majority"
    """The rule that the others are compared with; one that needs no verifier."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.baseline not in UNSCORED:
            raise ValueError(f"the baseline {self.baseline!r} needs a verifier; choose one of {', '.join(UNSCORED)}")
        both = set(self.verifiers) & set(self.students)
        if both:
            raise ValueError(f"{sorted(both)[0]!r} is in verifiers and in students; rename one")
        if not self.arms:
            raise ValueError("there is no verifier to compare; name one in verifiers or students")
        for name in self.students:
            if self.student(name, self.seeds[0]).role == "verifier":
                continue
            if not any(self.starts_after(other) == name for other in self.students):
                raise ValueError(f"students.{name} is trained as another role; set role: verifier")
        if self.students and self.collect is None:
            raise ValueError("students learn from samples; say what to collect, or remove them")
        if self.collect is not None:
            self.collection()
        if self.sampled().reasoning.n < 2:
            raise ValueError("selection rules choose among samples; set samples.reasoning.n to 2 or more and a temperature")
        return self

    @property
    def arms(self) -> list[str]:
        """The verifiers that are compared, in order."""
        return [*self.verifiers, *(name for name in self.students if self.student(name, self.seeds[0]).role == "verifier")]

    def arm_seeds(self, arm: str) -> tuple[int, ...]:
        """The seeds that an arm is measured with; one is enough where nothing was trained."""
        return self.seeds_of(arm) if arm in self.students else self.seeds[:1]

    def collection(self) -> CollectConfig:
        """What students learn from."""
        return validate_part(CollectConfig, (self.collect or {}) | {"name": "collection", "storage_path": self.folder}, "collect")

    def sampled(self) -> EvaluateConfig:
        """How the samples are drawn that all arms judge."""
        return validate_part(EvaluateConfig, self.samples | {"name": "samples", "storage_path": self.folder, "report": False}, "samples")

    def judged(self, arm: str, seed: int, checkpoint: str | None = None) -> EvaluateConfig:
        """How one arm judges them; `checkpoint` is a student's folder."""
        verifier = {"model": f"hf:{checkpoint}"} if arm in self.students else self.verifiers[arm].model_dump()
        changes = {"roles": {"verifier": verifier}, "reasoning": {"selection": "weighted"}}
        named = {"name": f"judged-{run_name(arm, seed)}", "storage_path": self.folder, "samples": f"{self.folder}/samples", "report": False}
        return validate_part(EvaluateConfig, merged(self.samples, changes) | named, f"samples, judged by {arm}")


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig | VerifierStudyConfig:
    """A config of `cleave study`: of pairs of roles, or, where it has `samples`, of verifiers. Raises ConfigError."""
    if "samples" in read_yaml(path):
        return load(VerifierStudyConfig, path, overrides)
    return load(StudyConfig, path, overrides)
