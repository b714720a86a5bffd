"""Figures of a curriculum as SVG text: what a model knows after each stage.

svg = accuracy_by_stage(table)
"""

from __future__ import annotations

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from cleave.curriculum.measures import StageTable
from cleave.drawing import COLOURS, INK, WIDTH, as_svg, style

SHADES = LinearSegmentedColormap.from_list("solved", ["#f4f6fa", COLOURS[0]])
_DARK = 0.45
"""Accuracy from which figures in a cell are written in white."""


def accuracy_by_stage(table: StageTable) -> str:
    """A heat map: a row per skill, a column per stage, in each cell the accuracy in percent. Empty without stages."""
    if not table.steps:
        return ""
    rows, columns = len(table.skills), len(table.steps)
    with style("stages", {"axes.grid": False}):
        figure = Figure(figsize=(max(WIDTH, 2.4 + 0.75 * columns), 1.1 + 0.42 * rows), layout="constrained")
        axes = figure.add_subplot()
        cells = [[stage[skill] for stage in table.accuracy] for skill in range(rows)]
        axes.pcolormesh(cells, cmap=SHADES, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
        for skill, row in enumerate(cells):
            for stage, value in enumerate(row):
                colour = "white" if value >= _DARK else INK
                axes.text(stage + 0.5, skill + 0.5, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=9)
        axes.set_yticks([skill + 0.5 for skill in range(rows)], table.skills)
        axes.set_xticks([stage + 0.5 for stage in range(columns)], [f"{k}\nstep {step:,}" for k, step in enumerate(table.steps, start=1)])
        axes.invert_yaxis()
        axes.set_xlabel("after stage; cells: exact match on held-out examples, %")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return as_svg(figure)
