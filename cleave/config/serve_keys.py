"""Who may use the HTTP application, and how much: bearer keys, hashed, with limits for each."""

import ipaddress
import re

from pydantic import Field, field_validator

from cleave.config.base import Config

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class KeyLimits(Config):
    """What one key may ask for; null: no limit of its own."""

    requests_per_minute: int | None = Field(None, ge=1)
    """Requests per minute; as many at once after a pause."""
    max_concurrent_requests: int | None = Field(None, ge=1)
    """Requests at work at the same time, over all ingress replicas."""
    tokens_per_day: int | None = Field(None, ge=1)
    """Prompt plus generated tokens over all roles in 24 hours; requests under way when it runs out are finished."""


class KeysConfig(Config):
    """Where the keys are. None of both: everybody may ask, which `cleave serve` allows on loopback addresses only."""

    env: str | None = None
    """Environment variable of the ingress replicas with the keys: a name and the SHA-256 of the key in hexadecimal, by line or comma."""
    file: str | None = None
    """File on the nodes of the ingress replicas with the same lines. `python -m serve.keys NAME` makes a key and its line."""
    default: KeyLimits = KeyLimits()
    """Limits of a key that `limits` does not name."""
    limits: dict[str, KeyLimits] = Field(default_factory=dict)
    """Limits by a key's name, in place of the default ones."""

    @field_validator("limits")
    @classmethod
    def _names_are_simple(cls, limits: dict[str, KeyLimits]) -> dict[str, KeyLimits]:
        for name in limits:
            if not NAME.match(name):
                raise ValueError(f"{name!r} is no name of a key; use up to 64 letters, digits, dots, dashes and underscores")
        return limits

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return self.env is not None or self.file is not None

    def of(self, name: str) -> KeyLimits:
        """The limits of one key."""
        return self.limits.get(name, self.default)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
