"""What became of a trial: a file in the trial's folder, written once, from which an interrupted search is rebuilt.

A trial writes it when it has finished or has met an error of its own; where Ray Tune ended the trial (pruned, its process died) the
driver does. A trial without the file is one that is still to be done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cleave.runs import RunFolder

OUTCOME = "outcome.json"
Status = Literal["finished", "pruned", "failed"]


@dataclass(frozen=True)
class Outcome:
    """`values` are the last figures by name, with the `step` that they are of; `reason` says why a trial failed; `seconds` are the
    trial's own, without what others trained for it."""

    status: Status
    values: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0

    def write(self, folder: RunFolder) -> None:
        """Keep it; a trial has one outcome, so the first one stays."""
        if not folder.exists(OUTCOME):
            folder.write_text(OUTCOME, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, folder: RunFolder) -> Outcome | None:
        """What became of the trial in a folder; None while nobody knows."""
        if not folder.exists(OUTCOME):
            return None
        found: dict[str, Any] = json.loads(folder.read_text(OUTCOME))
        return cls(**found)
