"""What differs between a run and its replay: what was answered, and what the two were made with.

    replayed = compare(earlier_rows, later_rows)
    others = circumstances(earlier_manifest, later_manifest)

A trace is reduced to a Record, whose fields are compared as they are, rounding included: times, confidences and log-probabilities are no
part of it. Left out: asking again (pipelines/replay.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from typing import Any

from cleave.traces import ScoredTrace, problem_key

CIRCUMSTANCES = ("python", "packages", "machine", "git", "models", "data")
"""Entries of a manifest that may explain another result."""

Place = tuple[str, str, int]
"""Variant, task, and the problem's position in that task's stream."""


@dataclass(frozen=True)
class Record:
    """What counts of a trace. `problem` is its key, `plans` and `solutions` are hashes of their texts, `tokens` those read and written,
    `error` the failure's type and role."""

    problem: str
    answer: str | None
    plans: str
    solutions: str
    tokens: tuple[int, int]
    error: str


FIELDS = tuple(part.name for part in fields(Record))


@dataclass(frozen=True)
class Difference:
    """One problem under one variant whose Records differ in `differs`; `then` and `now` are the answers."""

    variant: str
    task: str
    index: int
    problem_id: str
    differs: tuple[str, ...]
    then: str | None
    now: str | None


@dataclass
class Replayed:
    """`asked` problems were put again; `counts` says in how many a field differs. `gone` and `new`: only in the run, only in its replay."""

    asked: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    gone: int = 0
    new: int = 0

    @property
    def equal(self) -> bool:
        return not (self.differences or self.gone or self.new)

    def as_dict(self) -> dict[str, Any]:
        counts = {name: self.counts[name] for name in FIELDS}
        sizes = {"asked": self.asked, "gone": self.gone, "new": self.new}
        return {"equal": self.equal, **sizes, "counts": counts, "differences": [asdict(found) for found in self.differences]}


def record(row: ScoredTrace) -> Record:
    """What is compared of a trace."""
    trace, usage = row.trace, row.trace.total_usage
    return Record(
        problem=problem_key(trace.problem),
        answer=trace.answer,
        plans=_hash(plan.text for plan in trace.plans),
        solutions=_hash(solution.text for solution in trace.solutions),
        tokens=(usage.prompt_tokens, usage.completion_tokens),
        error="" if trace.error is None else f"{trace.error.type} {trace.error.role}".rstrip(),
    )


def compare(then: Iterable[ScoredTrace], now: Iterable[ScoredTrace]) -> Replayed:
    """Pair the traces of two runs. Holds one Record per problem and variant of the first, and streams the second."""
    before = {_place(row): record(row) for row in then}
    found = Replayed()
    for row in now:
        earlier = before.pop(_place(row), None)
        if earlier is None:
            found.new += 1
            continue
        _count(found, row, earlier, record(row))
    found.gone = len(before)
    found.differences.sort(key=lambda one: (one.task, one.index, one.variant))
    return found


def _count(found: Replayed, row: ScoredTrace, then: Record, now: Record) -> None:
    found.asked += 1
    differs = tuple(name for name in FIELDS if getattr(then, name) != getattr(now, name))
    if differs:
        found.counts.update(differs)
        place = (row.variant, row.task, row.index, row.trace.problem.id)
        found.differences.append(Difference(*place, differs, then.answer, now.answer))


def circumstances(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, then, now) of what the two manifests say differently, by dotted path; what only one of them knows counts too, except `data`,
    which a replay of one problem does not know."""
    before, after = ({key: manifest.get(key) for key in CIRCUMSTANCES} for manifest in (then, now))
    if after["data"] is None:
        before["data"] = None
    old, new = _flat(before), _flat(after)
    return [(name, old.get(name), new.get(name)) for name in sorted(old | new) if old.get(name) != new.get(name)]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _place(row: ScoredTrace) -> Place:
    return row.variant, row.task, row.index


def _hash(texts: Iterable[str]) -> str:
    digest = blake2b(digest_size=8)
    for text in texts:
        written = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(written)}:".encode() + written)
    return digest.hexdigest()
