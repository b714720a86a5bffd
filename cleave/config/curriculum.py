"""In what order a model is trained: what counts as a skill, which skill is drawn when, what is let in, and how orders are designed."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config
from cleave.config.model import ModelConfig


class PacingConfig(Config):
    """A share that rises with training, up to all."""

    shape: Literal["linear", "root", "quadratic", "geometric"] = "linear"
    """How it rises: root fast at first, quadratic and geometric fast at the end."""
    start: float = Field(0.0, ge=0, lt=1)
    """The share at the beginning."""
    until: float = Field(1.0, gt=0, le=1)
    """Part of the training tokens after which it is 1."""

    @model_validator(mode="after")
    def _can_grow(self) -> Self:
        if self.shape == "geometric" and not self.start:
            raise ValueError("a geometric pacing multiplies its start, so it cannot begin at 0; set start above 0, such as 0.1")
        return self


class PointConfig(Config):
    """The mixture at one point of training."""

    at: float = Field(ge=0, le=1)
    """Share of the training tokens."""
    weights: dict[str, float]
    """Weight by skill; skills that are not named have none."""


class ProfileConfig(Config):
    """STAT's missing-skill profile (arXiv 2510.10023): skills are drawn in proportion to how often the student fails at them."""

    every: int = Field(50, gt=0)
    """Optimiser steps from one profile to the next."""
    explore: float = Field(0.1, ge=0, le=1)
    """Share of the examples that is drawn by the tasks' weights whatever the profile says."""
    by: Literal["failures", "loss"] = "failures"
    """What the profile measures: the share of failures, or the mean loss (its control)."""
    failed_above: float | None = Field(None, ge=0)
    """Loss in nats per learned token above which an example counts as failed; null: if greedy decoding would not give its target."""


class EasyToHardConfig(Config):
    """The easiest share of each skill at first, all of it in the end (arXiv 1903.09848)."""

    by: Literal["depth", "length", "teacher_loss"] = "depth"
    """What is easy: few reasoning levels, few tokens, or a low loss of the teacher on the problem (finite data only)."""
    teacher: ModelConfig | None = None
    """Whose loss (by: teacher_loss only): hf:PATH_OR_HUB_ID or reference:NAME."""
    pacing: PacingConfig = PacingConfig(start=0.1)
    """The share that is let in."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if (self.teacher is not None) != (self.by == "teacher_loss"):
            raise ValueError("by: teacher_loss and a teacher belong together; give both or neither")
        if self.teacher is not None and self.teacher.backend not in ("hf", "reference"):
            raise ValueError(f"{self.teacher.short} does not score given replies here; name a teacher by hf:PATH or reference:NAME")
        if self.by != "depth" and self.pacing.start < 0.01:
            raise ValueError("a pacing that starts at nothing would search long for an easy example; set pacing.start to 0.01 or more")
        return self


class GateConfig(Config):
    """Examples that are not trained on: those that are too easy or too hard."""

    min_depth: int | None = Field(None, ge=0)
    """Shallowest problem, in reasoning levels; null: no limit."""
    max_depth: int | None = Field(None, ge=0)
    """Deepest problem, in reasoning levels; null: no limit."""
    min_loss: float | None = Field(None, ge=0)
    """Below this loss, in nats per learned token when last seen, an example is too easy; null: no limit."""
    max_loss: float | None = Field(None, ge=0)
    """Above this loss it is too hard; null: no limit."""
    per: Literal["problem", "group"] = "group"
    """Whose loss counts: each problem's own, for finite data, or the running mean of its skill and depth."""
    probe: float = Field(0.05, gt=0, le=1)
    """Share of what is kept out by its loss that is trained on all the same, to see whether that has changed."""

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        for low, high in (("min_depth", "max_depth"), ("min_loss", "max_loss")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"{low} is above {high}, so that nothing is let in; exchange them")
        return self

    @property
    def by_loss(self) -> bool:
        """Whether losses have to be observed."""
        return self.min_loss is not None or self.max_loss is not None


class DesignerConfig(Config):
    """How `cleave curriculum rank` and `design` measure how far skills are from each other (arXiv 2211.15470)."""

    model: ModelConfig | None = None
    """Frozen model whose hidden states are compared: hf:PATH_OR_HUB_ID or reference:NAME; null: init.model."""
    random_weights: bool = False
    """Give it random weights: the control that says how much the model's knowledge matters."""
    layer: int = -1
    """Layer whose states are taken: 0 the embedding, -1 the last."""
    pooling: Literal["mean", "prompt", "last"] = "mean"
    """An example's state: the mean over all its tokens, over those of its prompt, or that of the prompt's last token."""
    distance: Literal["cosine", "euclidean", "transport"] = "cosine"
    """Distance between mean states, or the optimal transport between sets of states (needs the package POT)."""
    examples: int = Field(256, gt=0)
    """Examples per skill."""
    beam: int = Field(64, gt=0)
    """Beginnings of orders that are kept while one is designed."""

    @model_validator(mode="after")
    def _model_is_local(self) -> Self:
        if self.model is not None and self.model.backend not in ("hf", "reference"):
            raise ValueError(f"{self.model.short} does not show its hidden states; name a model by hf:PATH or reference:NAME")
        return self


class CurriculumConfig(Config):
    """In what order a model is trained."""

    skills: Literal["task", "depth", "skill"] = "task"
    """What counts as one skill: a task by its label, TASK/DEPTH, or TASK/SKILL by the first skill that the problem names."""
    mixture: Literal["shuffled", "ordered", "cumulative", "scheduled", "missing_skills"] = "shuffled"
    """shuffled: the tasks' weights throughout; ordered: one skill after another; cumulative: each stage adds a skill; scheduled: weights
    that change along `schedule`; missing_skills: what the student fails at."""
    order: tuple[str, ...] = ()
    """Skills from first to last (ordered, cumulative); empty: as in `tasks`, and by depth within each."""
    pacing: PacingConfig = PacingConfig()
    """Share of the skills that is in or has been in (ordered, cumulative); linear from 0: equal stages."""
    schedule: tuple[PointConfig, ...] = ()
    """The mixture at points of training, straight lines between them (scheduled)."""
    profile: ProfileConfig = ProfileConfig()
    """How the missing-skill profile is taken (missing_skills)."""
    easy_to_hard: EasyToHardConfig | None = None
    """Rising difficulty within each skill, on top of any mixture; null: none."""
    gate: GateConfig = GateConfig()
    """What is not trained on, on top of any mixture."""
    designer: DesignerConfig = DesignerConfig()
    """How orders are designed; training itself does not use it."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        staged = self.mixture in ("ordered", "cumulative")
        if not staged and (self.order or self.pacing != PacingConfig()):
            raise ValueError(f"order and pacing are of the mixtures ordered and cumulative, not of {self.mixture}; remove them")
        if (self.mixture == "scheduled") != bool(self.schedule):
            raise ValueError("mixture: scheduled and points in `schedule` belong together; give both or neither")
        points = [point.at for point in self.schedule]
        if sorted(set(points)) != points:
            raise ValueError("the points of `schedule` come in order, each `at` above the one before")
        if self.mixture != "missing_skills" and self.profile != ProfileConfig():
            raise ValueError(f"profile is of the mixture missing_skills, not of {self.mixture}; remove it")
        if self.mixture == "ordered" and self.pacing.start:
            raise ValueError("an ordered mixture has one skill at a time, so its pacing starts at 0; set pacing.start: 0, or cumulative")
        if len(set(self.order)) != len(self.order):
            raise ValueError("the order names a skill twice; name each skill once")
        return self

    @property
    def named_skills(self) -> set[str]:
        """The skills that are named anywhere."""
        return set(self.order) | {skill for point in self.schedule for skill in point.weights}

    @property
    def observes(self) -> bool:
        """Whether training has to look at single examples."""
        return self.mixture == "missing_skills" or self.gate.by_loss


class ForgettingConfig(Config):
    """Temporary forgetting (arXiv 2406.00053): the model loses embeddings early in training, so that it learns to read unknown names."""

    kind: Literal["reset", "noise"] = "reset"
    """reset: all embeddings are drawn anew every few steps, for training from scratch; noise: in each step some tokens have random ones and
    no embedding is learned, for checkpoints."""
    every: int = Field(100, gt=0)
    """Steps from one reset to the next (reset only)."""
    share: float = Field(0.1, gt=0, le=1)
    """Share of the step's distinct tokens that have random embeddings (noise only)."""
    steps: int | None = Field(5000, gt=0)
    """Optimiser steps after which embeddings are left alone; null: never (active forgetting)."""

    @model_validator(mode="after")
    def _resets_come(self) -> Self:
        if self.kind == "reset" and self.steps is not None and self.steps < self.every:
            raise ValueError(f"no reset comes within {self.steps} steps; lower every, or raise steps")
        return self
