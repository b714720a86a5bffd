"""What one problem may cost: a meter that admits calls, books their usage and raises BudgetExceeded.

Before a call: no limit may be reached, calls in flight included. After a call: no limit may be passed. So tokens and money can
overshoot by the calls in flight, and the number of calls cannot. Samples are granted before they are drawn, never more than there are
left. Time is the loop's own timeout (`deadline`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cleave.config.reasoning import BudgetConfig
from cleave.errors import BudgetExceeded
from cleave.types import Usage

FAILED_CALL = Usage(calls=1)
"""What is booked for a call that never replied."""


@dataclass
class Entry:
    """One call on the meter: its usage, known once it has replied."""

    usage: Usage = FAILED_CALL


class Meter:
    """Adds up the usage of one problem over all roles. For one event loop."""

    def __init__(self, limits: BudgetConfig) -> None:
        self.limits = limits
        self.used = Usage()
        self._in_flight = 0
        self._samples = 0

    def deadline(self) -> float | None:
        """Time of the event loop's clock at which `max_seconds` from now are over; None without that limit."""
        seconds = self.limits.max_seconds
        return None if seconds is None else asyncio.get_running_loop().time() + seconds

    @contextmanager
    def call(self, free: bool = False) -> Iterator[Entry]:
        """Admit one call, and book `entry.usage` when it ends, however it ends. `free`: it asks no model and is always admitted."""
        if not free:
            self._admit()
        entry = Entry(Usage() if free else FAILED_CALL)
        self._in_flight += not free
        try:
            yield entry
        finally:
            self._in_flight -= not free
            self.used += entry.usage

    def check(self) -> None:
        """Raise BudgetExceeded if a limit has been passed."""
        for name, used, limit in self._readings():
            if limit is not None and used > limit:
                raise BudgetExceeded(f"{name} reached {used:g}, the limit is {limit:g}; raise budget.max_{name}.")

    def grant(self, samples: int) -> int:
        """Book that many samples, or as many as the limit leaves; returns how many. Raises BudgetExceeded if it leaves none."""
        self.check_samples()
        limit = self.limits.max_samples
        granted = samples if limit is None else min(samples, limit - self._samples)
        self._samples += granted
        return granted

    def check_samples(self) -> None:
        """Raise BudgetExceeded if no further sample may be drawn."""
        limit = self.limits.max_samples
        if limit is not None and self._samples >= limit:
            raise BudgetExceeded(f"the limit of {limit} samples leaves no room for another; raise budget.max_samples.")

    def _admit(self) -> None:
        for name, used, limit in self._readings():
            waiting = self._in_flight if name == "calls" else 0
            if limit is not None and used + waiting >= limit:
                raise BudgetExceeded(f"the limit of {limit:g} {name} leaves no room for another call; raise budget.max_{name}.")

    def _readings(self) -> list[tuple[str, float, float | None]]:
        return [
            ("tokens", self.used.tokens, self.limits.max_tokens),
            ("calls", self.used.calls, self.limits.max_calls),
            ("price", self.used.price, self.limits.max_price),
        ]


def out_of_time(limits: BudgetConfig) -> BudgetExceeded:
    """The error of a problem that took longer than `max_seconds`."""
    return BudgetExceeded(f"no answer within {limits.max_seconds:g} seconds; raise budget.max_seconds.")
