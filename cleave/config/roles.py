"""Who plays each role, with what prompts, on what resources."""

from collections.abc import Collection
from typing import Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import SHORT, Config, split_short
from cleave.config.model import ModelConfig
from cleave.decoding.draft import Drafting
from cleave.roles import ROLES, Role


class ResourcesConfig(Config):
    """What one actor or replica of a role reserves; names are Ray's."""

    num_replicas: int = Field(1, ge=1)
    """Actors (or Serve replicas) of this role."""
    num_cpus: float = Field(0.5, gt=0)
    """Logical CPUs per actor; the model computes with max(1, floor(num_cpus)) threads."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs per actor."""
    max_ongoing_requests: int = Field(256, ge=1)
    """Requests that one actor accepts at the same time."""
    max_restarts: int = Field(3, ge=-1)
    """Times that Ray restarts a dead actor; -1 without limit."""
    max_task_retries: int = Field(3, ge=-1)
    """Times that Ray repeats a call whose actor died; calls carry their seeds, so a repeat gives the same reply."""


class BatchingConfig(Config):
    """How a host groups waiting requests of equal sampling options."""

    max_batch_size: int = Field(64, ge=1)
    """Most sequences (requests × samples) in one call of the model."""
    batch_wait_timeout_s: float = Field(0.005, ge=0)
    """Seconds that a request waits for company when the model is idle."""


class RoleConfig(Config):
    """One role: its model, prompts, batching and resources."""

    model: ModelConfig
    """The language model."""
    prompts: str = "auto"
    """Prompt set: a shipped name, a YAML file, or auto (what the checkpoint was trained with, else instruct-v2)."""
    max_tokens: int = Field(256, gt=0)
    """Most tokens generated per reply."""
    repair_retries: int = Field(0, ge=0, le=3)
    """Times that an unparsable reply is sent back with the complaint; each retry is counted in the usage."""
    batching: BatchingConfig = BatchingConfig()
    """How requests are grouped."""
    resources: ResourcesConfig = ResourcesConfig()
    """What its actors reserve."""

    @model_validator(mode="before")
    @classmethod
    def _short_string(cls, data: object) -> object:
        short, rest = split_short(data)
        if short is None:
            return data
        model = rest.get("model")
        return {**rest, "model": {SHORT: short, **model} if isinstance(model, dict) else model or short}


class DraftsConfig(Config):
    """Plans by superposed decoding (arXiv 2405.18400), smoothed by the model's `ngrams` where it has some. They are divided by
    reasoning.plan_temperature where that is above 0, else by the paper's 0.06. A number alone is k."""

    k: int = Field(Drafting.k, ge=1, le=64)
    """Plans that one superposed pass proposes, or as many as reasoning.plans if that is more; the best readable ones are taken."""
    alpha: float = Field(Drafting.alpha, ge=0, le=1)
    """Weight of the n-grams; 0 leaves them out."""
    reset_every: int = Field(Drafting.reset_every, ge=0)
    """Every so many tokens one draft is drawn and all go on from it; 0: never."""

    @model_validator(mode="before")
    @classmethod
    def _number_alone(cls, data: object) -> object:
        return {"k": data} if isinstance(data, int) and not isinstance(data, bool) else data


class DecomposerConfig(RoleConfig):
    """The role that splits problems."""

    drafts: DraftsConfig | None = None
    """Propose whole plans as the drafts of one superposed pass instead of sampling each; null: sample. Not for endpoints."""

    redraws: int = Field(0, ge=0, le=64)
    """Plans that are sampled anew, at temperature 1, where a sampled one holds a name or number that the problem does not; the most
    frequent one without such takes its place. 0: plans stay as they are."""

    @model_validator(mode="after")
    def _can_draft(self) -> Self:
        if self.drafts is not None and self.redraws:
            raise ValueError("drafts are not redrawn; remove drafts or redraws")
        if self.drafts is not None and self.model.backend == "openai":
            raise ValueError("an endpoint cannot draft by superposition; remove drafts, or use a local model (hf:PATH)")
        return self


class VerifierConfig(RoleConfig):
    """The role that scores solutions."""

    scoring: Literal["auto", "judge", "likelihood"] = "auto"
    """judge: the model says whether a solution is right; likelihood: how likely it finds the text; auto: judge for a checkpoint that was
    trained as a verifier and for endpoints, likelihood for other local models."""
    step_scores: bool = False
    """Judge each solution's beginnings too: for each step, how likely all steps up to it are right (scoring: judge only). Means something
    of a verifier that was trained with judge.steps_per_problem."""


def shipped_decomposer() -> DecomposerConfig:
    """The decomposer of who names none. Plans of the problems that it knows name nothing else than the problem does."""
    return DecomposerConfig.model_validate({SHORT: "reference:decomposer", "redraws": 8})


class RolesConfig(Config):
    """The cast. Without a verifier, solutions are scored by the solver's own length-normalised log-probability."""

    decomposer: DecomposerConfig = Field(default_factory=shipped_decomposer)
    """Splits a problem into sub-questions."""
    solver: RoleConfig = Field(default_factory=lambda: RoleConfig.model_validate("reference:solver"))
    """Answers the sub-questions and the problem."""
    verifier: VerifierConfig | None = None
    """Scores solutions; None: the solver's likelihood."""

    def played(self, only: Collection[Role] = ROLES) -> dict[Role, RoleConfig]:
        """The roles that have a model of their own, or those of them in `only`."""
        cast: dict[Role, RoleConfig | None] = {"decomposer": self.decomposer, "solver": self.solver, "verifier": self.verifier}
        return {role: config for role, config in cast.items() if config is not None and role in only}
