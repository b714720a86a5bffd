"""What training minimises: cross-entropy on the targets, or the divergence from a teacher's distributions, or both.

Names are TRL's where they mean the same (beta, temperature, lmbda, max_new_tokens).
"""

from typing import Self

from pydantic import Field, model_validator

from cleave.config.base import Config
from cleave.config.model import ModelConfig


class ObjectiveConfig(Config):
    """The loss. Without a teacher it is cross-entropy, and nothing else here applies."""

    teacher: ModelConfig | None = None
    """Model whose next-token distributions are learned: hf:PATH_OR_HUB_ID or reference:NAME, of the student's vocabulary."""
    teachers: dict[str, ModelConfig] = {}
    """Teachers by task label; tasks that are not named here have `teacher`."""
    previous: ModelConfig | None = None
    """The version in use, which an upgrade shall contradict as little as possible (arXiv 2407.09435): at every token that the student would
    get wrong, it learns this model's distribution; elsewhere the teacher's, which is the upgrade itself. In the paper beta is 0."""
    beta: float = Field(0.5, ge=0, le=1)
    """Divergence: 0 forward KL(teacher, student), 1 reverse KL, between them the generalised Jensen-Shannon divergence."""
    temperature: float = Field(1.0, gt=0)
    """Both distributions are softened by it before they are compared; 1: as they are."""
    cross_entropy: float | None = Field(None, ge=0, le=1)
    """Share of the loss that is cross-entropy on the targets, the rest is divergence; null: 1 without a teacher, else 0."""
    top_k: int | None = Field(None, gt=0)
    """Store the teacher's most likely tokens beside the collection once, for all its students, and train without the teacher; null: the
    teacher runs along and every token of the vocabulary counts."""
    lmbda: float = Field(0.0, ge=0, le=1)
    """On-policy share: in this share of the steps, evenly spread, the targets are replies that the student itself samples. Such a step
    counts the tokens of the targets that it replaces."""
    sampling_temperature: float = Field(1.0, ge=0)
    """Temperature of these replies; 0: greedy."""
    max_new_tokens: int = Field(256, gt=0)
    """Most tokens of such a reply; prompt and reply also stay within train.max_length."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for model in (self.teacher, *self.teachers.values(), self.previous):
            if model is not None and model.backend not in ("hf", "reference"):
                raise ValueError(f"{model.short} does not show its distributions; name a teacher by hf:PATH or reference:NAME")
        if not self.has_teacher:
            self._check_alone()
        elif self.cross_entropy == 1:
            raise ValueError("with cross_entropy: 1 the teacher would never be asked; lower it, or remove the teacher")
        elif self.top_k is not None and self.lmbda > 0:
            raise ValueError("the student's own replies need a teacher that runs along; remove top_k, or set lmbda: 0")
        if self.previous is not None:
            self._check_upgrade()
        return self

    def _check_alone(self) -> None:
        if self.cross_entropy not in (None, 1):
            raise ValueError("a divergence needs a teacher; name one, or remove cross_entropy")
        if self.lmbda > 0:
            raise ValueError("the student's own replies are judged by a teacher; name one, or set lmbda: 0")
        if self.top_k is not None:
            raise ValueError("top_k stores a teacher's distributions; name a teacher, or remove top_k")

    def _check_upgrade(self) -> None:
        if not self.has_teacher:
            raise ValueError("previous says what to stay compatible with while an upgrade is learned; name the upgrade as the teacher")
        if self.top_k is not None:
            raise ValueError(
                "previous is asked where the student errs, which changes as it learns; remove top_k, so that the teachers run along"
            )
        if self.lmbda > 0:
            raise ValueError("previous is asked where the student misses the target, which its own replies never do; set lmbda: 0")

    @property
    def has_teacher(self) -> bool:
        """Whether distributions are learned at all."""
        return self.teacher is not None or bool(self.teachers)

    def teacher_of(self, task: str) -> ModelConfig | None:
        """The teacher of the examples of a task, by its label; None without teachers."""
        return self.teachers.get(task, self.teacher)

    @property
    def cross_entropy_share(self) -> float:
        """`cross_entropy`, or what null stands for."""
        return self.cross_entropy if self.cross_entropy is not None else float(not self.has_teacher)
