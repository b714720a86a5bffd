"""The candidates of a search, each with what became of it under each training seed; which of them lead.

Racing: every candidate is trained with the first seed, and only the leaders with each further one. A lead of one seed is partly luck, and
the next seed shows how much; the best of all is sought among those that went the whole way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cleave.runs import RunFolder
from tune.outcome import Outcome
from tune.space import Given, Point

TRIALS = "trials"
TRIAL = "trial.json"
SMALLER_IS_BETTER = frozenset({"loss"})


@dataclass
class Candidate:
    """`key` names what is trained, `place` says which it was in the order of proposals, `given` is its point in Optuna's numbers;
    `outcomes` are by training seed."""

    key: str
    place: int
    point: Point
    given: Given
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def finished(self) -> dict[int, Outcome]:
        """The seeds that were trained to the end."""
        return {seed: outcome for seed, outcome in self.outcomes.items() if outcome.status == "finished"}

    def value(self, metric: str) -> float:
        """The mean over the finished seeds; nan without any."""
        found = [outcome.values[metric] for outcome in self.finished().values() if metric in outcome.values]
        return math.fsum(found) / len(found) if found else math.nan


def mode_of(metric: str) -> str:
    """Whether a metric is made large or small, in Ray's words."""
    return "min" if metric in SMALLER_IS_BETTER else "max"


def standings(candidates: Iterable[Candidate], metric: str) -> list[Candidate]:
    """Best first: those with more finished seeds before those with fewer, by the mean; without any, in the order of proposals."""

    def rank(candidate: Candidate) -> tuple[Any, ...]:
        seeds, value = len(candidate.finished()), candidate.value(metric)
        worse = math.inf if math.isnan(value) else value if mode_of(metric) == "min" else -value
        return (-seeds, worse, candidate.place)

    return sorted(candidates, key=rank)


def leaders(candidates: Iterable[Candidate], metric: str, seeds: Sequence[int], count: int) -> list[Candidate]:
    """The best `count` of those that finished with each of `seeds`."""
    whole = [candidate for candidate in candidates if set(seeds) <= set(candidate.finished())]
    return standings(whole, metric)[:count]


def trial_name(key: str, seed: int) -> str:
    """The name of a trial's folder."""
    return f"{key}-seed{seed}"


def trial_folder(search: RunFolder, key: str, seed: int) -> RunFolder:
    """The folder of a trial."""
    return RunFolder.open(search.path(TRIALS), trial_name(key, seed))


def note_trial(search: RunFolder, key: str, seed: int, place: int, point: Mapping[str, Any], given: Given) -> bool:
    """Keep what a trial was made of, before it starts; whether it was not known."""
    folder = trial_folder(search, key, seed)
    if folder.exists(TRIAL):
        return False
    noted = {"key": key, "seed": seed, "place": place, "point": dict(point), "given": given}
    folder.write_text(TRIAL, json.dumps(noted, ensure_ascii=False) + "\n")
    return True


def read_candidates(search: RunFolder) -> list[Candidate]:
    """All candidates that were started, in the order of proposals."""
    found: dict[str, Candidate] = {}
    for name in search.names(TRIALS, recursive=True):
        if name.endswith(f"/{TRIAL}"):
            noted = json.loads(search.read_text(name))
            point = {key: tuple(value) if isinstance(value, list) else value for key, value in noted["point"].items()}
            candidate = found.setdefault(noted["key"], Candidate(noted["key"], noted["place"], point, noted["given"]))
            candidate.place = min(candidate.place, noted["place"])
            outcome = Outcome.read(trial_folder(search, noted["key"], noted["seed"]))
            if outcome is not None:
                candidate.outcomes[noted["seed"]] = outcome
    return sorted(found.values(), key=lambda candidate: candidate.place)
