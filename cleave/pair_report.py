"""`report.html` of a study: the advice, accuracy against cost, the pair table, what was screened, in one file without links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cleave.config.study import StudyConfig
from cleave.page import page
from cleave.pair_table import EVERYTHING, PairRow, Unit
from cleave.runs import CONFIG, RunFolder

TEMPLATE = "pair_report.html.j2"


def render(
    config: StudyConfig,
    folder: RunFolder,
    rows: Sequence[PairRow],
    unit: Unit | None,
    advice: str,
    screening: Mapping[str, Any],
    tables: Mapping[str, Sequence[Sequence[str]]],
) -> str:
    """The page; `screening` is by student and task what became of the teacher's traces, `tables` are further ones by title, each with its
    heading first."""
    from cleave import pair_figures

    return page(
        TEMPLATE,
        config=config,
        rows=rows,
        unit=unit,
        everything=EVERYTHING,
        advice=advice,
        screening=screening,
        tables=tables,
        tasks=sorted({task for row in rows for task in row.by_task}),
        front={row.name for row in pair_figures.pareto_front(rows, unit)} if unit else set(),
        figures={
            "accuracy against cost": pair_figures.accuracy_against_cost(rows, unit),
            "differences": pair_figures.differences(rows),
        },
        config_text=folder.read_text(CONFIG),
    )
