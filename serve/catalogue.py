"""Which models there are: composed pipelines, each with its way of reasoning, and the single roles.

Read by every route that takes a model name. Left out: asking them (serve/service.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cleave.config.reasoning import ReasoningConfig
from cleave.config.serve import ServeArgs
from cleave.roles import Role
from serve.failures import ApiError
from serve.schema import Model, ModelList, ModelNote

ASKABLE: tuple[Role, ...] = ("decomposer", "solver")
"""Roles that reply with text; a verifier replies with scores."""


@dataclass(frozen=True)
class Catalogue:
    """`pipelines` by model name, the default one first."""

    pipelines: Mapping[str, ReasoningConfig]
    roles: tuple[Role, ...] = ASKABLE
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, args: ServeArgs) -> Catalogue:
        return cls(args.models())

    @property
    def default(self) -> str:
        return next(iter(self.pipelines))

    def pipeline(self, name: str) -> ReasoningConfig:
        """How a composed pipeline reasons. Raises ApiError 404."""
        if name not in self.pipelines:
            raise self._unknown(name)
        return self.pipelines[name]

    def role(self, name: str) -> Role | None:
        """The role of this name, if it is one."""
        return next((role for role in self.roles if role == name), None)

    def describe(self, name: str) -> Model:
        """One entry of /v1/models. Raises ApiError 404."""
        role = self.role(name)
        if role is not None:
            return Model(id=name, created=self.created, cleave=ModelNote(kind="role"))
        reasoning = self.pipeline(name)
        return Model(
            id=name, created=self.created, cleave=ModelNote(kind="pipeline", strategy=reasoning.strategy, samples=reasoning.most_samples)
        )

    def list(self) -> ModelList:
        """All of /v1/models."""
        return ModelList(data=[self.describe(name) for name in (*self.pipelines, *self.roles)])

    def _unknown(self, name: str) -> ApiError:
        known = ", ".join((*self.pipelines, *self.roles))
        return ApiError(404, f"there is no model {name[:80]!r}; the models are {known}.", "model_not_found", "model")
