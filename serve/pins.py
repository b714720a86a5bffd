"""Which version of each role a request works with: the one that answers its first call answers all of them, or none.

While a role is replaced, replicas of two versions serve side by side for a while. A request under way has `Pins` (serve/service.py sets
them); every call of it names the version that it has met before, a replica of another one declines unasked, and the call is routed anew
(serve/handle.py). Once there is no replica of that version left, the pins are `mixed` and the whole request begins again, on one version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from cleave.config.roles import RoleConfig
from cleave.roles import Role
from cleave.types import ModelInfo


@dataclass(frozen=True)
class Version:
    """What answers for a role: its weights, and a hash of what else its replies depend on."""

    model: ModelInfo
    config: str = ""

    @classmethod
    def of(cls, config: RoleConfig, model: ModelInfo) -> Version:
        text = config.model_dump_json(exclude={"resources", "batching"})
        return cls(model, hashlib.sha256(text.encode()).hexdigest()[:12])


@dataclass(frozen=True)
class Answer:
    """A replica's reply or CleaveError, and whose it is. `declined`: another version was wanted, and nothing was done."""

    version: Version
    reply: Any = None
    declined: bool = False


@dataclass
class Pins:
    """The versions that a request has met. `mixed`: one of them is there no more, so what the request has so far is of no use. `is_heard`:
    some of it was shown to the client, so that it cannot begin again."""

    versions: dict[Role, Version] = field(default_factory=dict)
    mixed: bool = False
    is_heard: bool = False

    def fits(self, role: Role, version: Version) -> bool:
        """Whether a reply of this version goes with those before; the first one is what the others have to be."""
        return self.versions.setdefault(role, version) == version

    @property
    def models(self) -> dict[str, ModelInfo]:
        """The weights by role."""
        return {role: version.model for role, version in self.versions.items()}


CURRENT: ContextVar[Pins | None] = ContextVar("pins", default=None)


@contextmanager
def pinned() -> Iterator[Pins]:
    """Fresh pins for the calls of the `with`, those of tasks that it starts included."""
    pins = Pins()
    before = CURRENT.set(pins)
    try:
        yield pins
    finally:
        CURRENT.reset(before)
