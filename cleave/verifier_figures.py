"""The figure of a study of verifiers as SVG text: what each verifier gains under each selection rule.

svg = gains(rows, "majority")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from cleave.drawing import COLOURS, INK, WIDTH, as_svg, frame, percentages, style
from cleave.pair_table import PairRow

NOBODY = "-"
"""In place of a verifier: the rule needs none."""


def gains(rows: Sequence[PairRow], baseline: str) -> str:
    """A group of lines per verifier, a colour per rule: points above the baseline with their interval. Empty where nothing is compared."""
    shown = [row for row in rows if row.difference is not None and row.players["verifier"] != NOBODY]
    arms, rules = (list(dict.fromkeys(row.players[part] for row in shown)) for part in ("verifier", "selection"))
    if not shown:
        return ""
    with style("gains", {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(WIDTH * 1.5, 1.1 + 0.17 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=1)
        for k, rule in enumerate(rules):
            some = [row for row in shown if row.players["selection"] == rule]
            values, bounds = percentages([row.difference.interval for row in some if row.difference is not None])
            places = [arms.index(row.players["verifier"]) + 0.75 * ((k + 0.5) / len(rules) - 0.5) for row in some]
            drawn: Any = {"markersize": 4.5, "elinewidth": 1.3, "capsize": 2}
            axes.errorbar(values, places, xerr=bounds, fmt="o", color=COLOURS[k % len(COLOURS)], label=rule, **drawn)
        axes.set_yticks(range(len(arms)), arms)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        for border in range(1, len(arms)):
            axes.axhline(border - 0.5, color="#e6e9ef", linewidth=0.8)
        axes.set_xlabel(f"points more solved than by {baseline}")
        frame(axes)
        figure.legend(loc="outside upper left", ncols=len(rules), fontsize=9)
        return as_svg(figure)
