"""Frozen settings of the reference tasks. A profile never changes once a model was trained on it; a change is a new profile.

`profile_hash` covers the dials, the name lists, the world and a sample of generated problems, so that any change of the generator shows.
"""

import json
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256

from cleave.errors import ConfigError
from cleave.tasks.reference.arithmetic import ArithmeticDials
from cleave.tasks.reference.lookup import LookupDials
from cleave.tasks.reference.sheet import ReadingDials

SAMPLED = 40


@dataclass(frozen=True)
class Profile:
    """One setting of all three families. `extrapolation_depth` is the arithmetic depth that no training problem has."""

    name: str
    arithmetic: ArithmeticDials = ArithmeticDials()
    lookup: LookupDials = LookupDials()
    reading: ReadingDials = ReadingDials()
    extrapolation_depth: int = 5


PROFILES = {"default-v1": Profile("default-v1")}


def get_profile(name: str) -> Profile:
    """Return a profile. Raises ConfigError naming the known ones."""
    if name not in PROFILES:
        raise ConfigError(f"no task profile {name!r}; the profiles are {', '.join(PROFILES)}.")
    return PROFILES[name]


@cache
def profile_hash(name: str) -> str:
    """Sixteen hexadecimal digits that identify what the profile generates."""
    from cleave.tasks.reference.task import FAMILIES, ReferenceTask

    digest = sha256(json.dumps(asdict(get_profile(name)), sort_keys=True).encode())
    for family in FAMILIES:
        task = ReferenceTask(family, get_profile(name))
        for split in task.splits:
            for problem in task.problems(split, limit=SAMPLED):
                digest.update(f"{problem.text}\n{problem.gold_plan}\n{problem.gold_steps}\n{problem.answer}\n".encode())
    return digest.hexdigest()[:16]
