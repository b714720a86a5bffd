"""The table of a search: a line per candidate, best first, for the terminal, as tab-separated text and as JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune.candidates import Candidate
from tune.learning_curve import Figures

Fields = Mapping[str, Any]
"""Field of a config → value; None where a candidate has no such field."""
SHOWN = 25
"""Lines that are printed; the files have all."""


@dataclass(frozen=True)
class Line:
    """One candidate. `fields` is its point without what has no effect in it; `designer` its order's score, None where none was asked."""

    candidate: Candidate
    fields: Fields
    designer: float | None = None

    @property
    def status(self) -> str:
        """In a few words: with how many seeds it finished, or why not."""
        done = len(self.candidate.finished())
        other = [f"{outcome.status}" for outcome in self.candidate.outcomes.values() if outcome.status != "finished"]
        return ", ".join([*([f"{done} seed{'s' if done > 1 else ''}"] if done else []), *other]) or "unfinished"

    @property
    def reason(self) -> str:
        """Why a trial failed; empty where none did."""
        return next((outcome.reason for outcome in self.candidate.outcomes.values() if outcome.reason), "")


def columns(lines: Sequence[Line], metrics: Sequence[str]) -> list[str]:
    """The heading."""
    designer = ["designer"] if any(line.designer is not None for line in lines) else []
    return ["", *metrics, *designer, "status", *dict.fromkeys(key for line in lines for key in line.fields)]


def cells(lines: Iterable[Line], heading: Sequence[str], metrics: Sequence[str]) -> Iterable[list[str]]:
    """The lines as text; figures are means over the finished seeds."""
    for place, line in enumerate(lines, start=1):
        known = bool(line.candidate.finished())
        values = {metric: f"{line.candidate.value(metric):.4f}" if known else "-" for metric in metrics}
        values |= {key: shown(value) for key, value in line.fields.items()}
        values |= {"": str(place), "status": line.status, "designer": "-" if line.designer is None else f"{line.designer:.4f}"}
        yield [values.get(name, "-") for name in heading]


def shown(value: Any) -> str:
    """A value of a field for people."""
    if value is None:
        return "-"
    if isinstance(value, tuple | list):
        return " → ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_tsv(lines: Sequence[Line], metrics: Sequence[str]) -> str:
    """All lines with keys, seconds and reasons."""
    heading = columns(lines, metrics)
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerow(["place", *heading[1:], "key", "steps", "seconds", "reason"])
    for line, row in zip(lines, cells(lines, heading, metrics), strict=True):
        outcomes = line.candidate.outcomes.values()
        steps = sum(outcome.values.get("step", 0) for outcome in outcomes)
        seconds = sum(outcome.seconds for outcome in outcomes)
        writer.writerow([*row, line.candidate.key, f"{steps:.0f}", f"{seconds:.1f}", line.reason])
    return stream.getvalue()


def as_rows(lines: Iterable[Line]) -> Iterable[dict[str, Any]]:
    """A row of metrics.jsonl per trial."""
    for line in lines:
        for seed, outcome in sorted(line.candidate.outcomes.items()):
            figures: Figures = dict(outcome.values)
            yield {
                "kind": "trial",
                "key": line.candidate.key,
                "place": line.candidate.place,
                "seed": seed,
                "status": outcome.status,
                "reason": outcome.reason,
                "seconds": outcome.seconds,
                "designer": line.designer,
                "fields": dict(line.fields),
                **figures,
            }
