"""What a search leaves at its end, or where time ran out: the table, the figure, the page, the best config, and the result.

Left out: which candidate trains how (the programs, such as curriculum.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cleave.config.tune import SearchConfig
from cleave.console import print_table, say
from cleave.errors import TrainingError
from cleave.manifest import manifest
from cleave.page import page
from cleave.runs import CONFIG, MANIFEST, METRICS, REPORT, RunFolder
from tune.candidates import Candidate, mode_of, standings
from tune.search_folder import BEST, FIGURE, RESULT, TABLE
from tune.space import Point
from tune.table import SHOWN, Line, as_rows, as_tsv, cells, columns

TEMPLATE = "search_report.html.j2"
COSTS = ("seconds_1", "seconds_32", "parameters", "flops")
"""Of pruned models, as shares of the dense one's."""
FIGURES = ("f_score", "average_accuracy", "forgetting", "area_under_curve", "exact_match", "loss", *COSTS)
"""Columns of the table, where they were measured."""


def publish(
    config: SearchConfig, folder: RunFolder, lines: Sequence[Line], *, metric: str, best: Callable[[Point], str], finished: bool
) -> None:
    """Write all files. Raises TrainingError where no trial came to its end."""
    by_key = {line.candidate.key: line for line in lines}
    ranked = [by_key[candidate.key] for candidate in standings([line.candidate for line in lines], metric)]
    folder.write_lines(METRICS, as_rows(sorted(lines, key=lambda line: line.candidate.place)))
    shown = measured(ranked, metric)
    folder.write_text(TABLE, as_tsv(ranked, shown))
    folder.write_text(MANIFEST, json.dumps(manifest(program="tune", seed=config.seed), indent=2) + "\n")
    if not ranked or not ranked[0].candidate.finished():
        reason = next((line.reason for line in ranked if line.reason), "")
        if finished:
            raise TrainingError(f"no trial came to its end ({reason.rstrip('.') or 'all were stopped'}); see {folder.location}/{TABLE}.")
        return
    svg = figure(ranked, metric)
    folder.write_text(FIGURE, svg + "\n")
    winner = ranked[0].candidate
    folder.write_text(BEST, best(winner.point))
    report(config, folder, ranked, shown, metric, {"every candidate": svg})
    if finished:
        folder.remove(["prefixes", "tune"])
        folder.write_text(RESULT, json.dumps(result_of(config, folder, ranked, metric), indent=2, ensure_ascii=False) + "\n")


def measured(lines: Sequence[Line], metric: str) -> list[str]:
    """The figures that trials have, the one that is sought first."""
    known = {name for line in lines for outcome in line.candidate.finished().values() for name in outcome.values}
    return [metric, *(name for name in FIGURES if name in known and name != metric)]


def figure(lines: Sequence[Line], metric: str) -> str:
    """The parallel coordinates."""
    from tune.parallel_coordinates import parallel_coordinates

    values = [line.candidate.value(metric) for line in lines]
    return parallel_coordinates([line.fields for line in lines], values, metric, small=mode_of(metric) == "min")


def result_of(config: SearchConfig, folder: RunFolder, ranked: Sequence[Line], metric: str) -> dict[str, Any]:
    """result.json. The best figure is that of the chosen one, so it flatters; further seeds say by how much."""
    winner: Candidate = ranked[0].candidate
    ended = [outcome.status for line in ranked for outcome in line.candidate.outcomes.values()]
    return {
        "name": config.name,
        "metric": metric,
        "best": {
            "key": winner.key,
            "point": dict(ranked[0].fields),
            metric: winner.value(metric),
            "by_seed": {str(seed): outcome.values.get(metric) for seed, outcome in sorted(winner.finished().items())},
        },
        "candidates": len(ranked),
        "trials": {status: ended.count(status) for status in ("finished", "pruned", "failed")},
        "config": f"{folder.location}/{BEST}",
    }


def report(
    config: SearchConfig, folder: RunFolder, ranked: Sequence[Line], shown: Sequence[str], metric: str, figures: Mapping[str, str]
) -> None:
    """report.html, with figures by caption."""
    heading = columns(ranked, shown)
    text = page(
        TEMPLATE,
        config=config,
        metric=metric,
        heading=heading,
        rows=list(cells(ranked, heading, shown)),
        failures=[(line.candidate.key, line.reason) for line in ranked if line.reason],
        figures=figures,
        best=folder.read_text(BEST) if folder.exists(BEST) else "",
        config_text=folder.read_text(CONFIG),
    )
    folder.write_text(REPORT, text)


def show_result(folder: RunFolder, *, as_json: bool) -> int:
    """The finished search on stdout."""
    result = json.loads(folder.read_text(RESULT))
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return 0
    heading, *rows = [line.split("\t") for line in folder.read_text(TABLE).splitlines()]
    kept = [k for k, name in enumerate(heading) if name not in ("key", "seconds", "reason", "steps")]
    title = f"The best of {len(rows)} candidates by {result['metric']}"
    numbers = ["place", "designer", *FIGURES]
    print_table([heading[k] for k in kept], [[row[k] for k in kept] for row in rows[:SHOWN]], title=title, numbers=numbers)
    say(f"cleave distill {result['config']} trains the best; all candidates are in {folder.location}/{TABLE} and {REPORT}")
    return 0
