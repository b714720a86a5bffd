"""What each key may still ask for: a rate, a number of requests at the same time, a budget of tokens. Pure bookkeeping, for one thread.

Shared by all ingress replicas through serve/ledger.py. A request acquires a lease and releases it with what it has cost. A lease whose
holder died runs out by itself. Everything is forgotten when the process that holds it ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cleave.config.serve_keys import KeyLimits, KeysConfig

DAY_S = 86_400.0
BUSY_RETRY_S = 1
"""After which a request that found too many others of its key may try again."""


@dataclass(frozen=True)
class Refusal:
    """Why a request has to wait, and for how many seconds."""

    message: str
    code: str
    retry_after_s: int


@dataclass
class _Account:
    """One key. `ready` requests could begin at once at time `seen`; `leases` by id with the time at which each is given up."""

    ready: float
    seen: float
    day: float
    tokens: int = 0
    leases: dict[str, float] = field(default_factory=dict)


class Limiter:
    """The accounts of all keys."""

    def __init__(self, config: KeysConfig, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`lease_s`: the longest that a request can take."""
        self._config, self._lease_s, self._clock = config, lease_s, clock
        self._accounts: dict[str, _Account] = {}

    def acquire(self, key: str, lease: str) -> Refusal | None:
        """Begin a request of a key; None: it may. What is refused costs nothing of the rate."""
        limits, now = self._config.of(key), self._clock()
        account = self._account(key, limits, now)
        self._advance(account, limits, now)
        refusal = _over_budget(account, limits, now) or _too_many(account, limits) or _too_fast(account, limits)
        if refusal is None:
            account.ready -= 1
            account.leases[lease] = now + self._lease_s
        return refusal

    def afford(self, key: str) -> Refusal | None:
        """Whether a key has tokens left for more, whatever its rate; None: it has."""
        limits, now = self._config.of(key), self._clock()
        account = self._account(key, limits, now)
        self._advance(account, limits, now)
        return _over_budget(account, limits, now)

    def release(self, key: str, lease: str, tokens: int) -> None:
        """End a request, and book what it cost, also where its beginning was forgotten."""
        account = self._account(key, self._config.of(key), self._clock())
        account.leases.pop(lease, None)
        account.tokens += tokens

    def _account(self, key: str, limits: KeyLimits, now: float) -> _Account:
        if key not in self._accounts:
            self._accounts[key] = _Account(ready=float(limits.requests_per_minute or 0), seen=now, day=now)
        return self._accounts[key]

    def _advance(self, account: _Account, limits: KeyLimits, now: float) -> None:
        rate = limits.requests_per_minute or 0
        account.ready = min(float(rate), account.ready + (now - account.seen) * rate / 60)
        account.seen = now
        account.leases = {lease: until for lease, until in account.leases.items() if until > now}
        if now - account.day >= DAY_S:
            account.day, account.tokens = now, 0


def _over_budget(account: _Account, limits: KeyLimits, now: float) -> Refusal | None:
    if limits.tokens_per_day is None or account.tokens < limits.tokens_per_day:
        return None
    left = max(1, math.ceil(account.day + DAY_S - now))
    return Refusal(f"this key has used its {limits.tokens_per_day} tokens of the day; try again later.", "insufficient_quota", left)


def _too_many(account: _Account, limits: KeyLimits) -> Refusal | None:
    most = limits.max_concurrent_requests
    if most is None or len(account.leases) < most:
        return None
    return Refusal(f"this key has {most} requests at work, which is all it may; try again later.", "rate_limit_exceeded", BUSY_RETRY_S)


def _too_fast(account: _Account, limits: KeyLimits) -> Refusal | None:
    rate = limits.requests_per_minute
    if rate is None or account.ready >= 1:
        return None
    seconds = max(1, math.ceil((1 - account.ready) * 60 / rate))
    return Refusal(f"this key may send {rate} requests a minute; try again later.", "rate_limit_exceeded", seconds)
