"""The learning curve of a trial, from the held-out measurements in its metrics.jsonl: one point per evaluation, with the figures that a
search may seek or prune by. The last point is that of the whole training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cleave.curriculum.measures import SKILL, area_under_curve, f_score, read_stages

Figures = dict[str, float]


def read_curve(path: str | Path, first_skill: str | None = None) -> list[Figures]:
    """The points of a metrics.jsonl, none where there is no such file yet."""
    if not Path(path).exists():
        return []
    return learning_curve([json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()], first_skill)


def learning_curve(rows: Iterable[Mapping[str, Any]], first_skill: str | None = None) -> list[Figures]:
    """A point per step that was measured: `step`, `loss`, `exact_match` if replies were, and where skills were, `average_accuracy` and
    `area_under_curve`. With a `first_skill` also `f_score`: of that skill nothing is forgotten before its own stage has ended."""
    measured: dict[int, Mapping[str, Any]] = {int(row["step"]): row for row in rows if "eval_loss" in row}
    steps, heights, curve = list[int](), list[float](), list[Figures]()
    seen: list[Mapping[str, Any]] = []
    for step, row in sorted(measured.items()):
        seen.append(row)
        found: Figures = {"step": step, "loss": row["eval_loss"]}
        if "eval_exact_match" in row:
            found["exact_match"] = row["eval_exact_match"]
        skills = {name.removeprefix(SKILL): value for name, value in row.items() if name.startswith(SKILL)}
        if skills:
            found["average_accuracy"] = math.fsum(skills.values()) / len(skills)
            steps.append(step)
            heights.append(found["average_accuracy"])
            found["area_under_curve"] = area_under_curve(steps, heights)
            if first_skill in skills:
                found |= _forgetting(seen, first_skill, skills[first_skill], found["average_accuracy"])
        curve.append(found)
    return curve


def _forgetting(rows: list[Mapping[str, Any]], first_skill: str, now: float, average: float) -> Figures:
    table = read_stages(rows)
    ended = table is not None and table.accuracy
    beta = table.accuracy[0][table.skills.index(first_skill)] - now if table is not None and ended else 0.0
    return {"forgetting": beta, "f_score": f_score(average, beta)}
