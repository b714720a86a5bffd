"""Figures of how far confidences can be believed, as SVG text: what is stated against what is found, and precision against coverage.

svg = reliability(table)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cleave.confidence import BINS, ConfidenceTable, Threshold
from cleave.drawing import COLOURS, HEIGHT, INK, WIDTH, as_svg, frame, percentages, style

FIGSIZE = (WIDTH, HEIGHT + 1.0)
POINTS = 200
"""Most points of a line: a pixel or two apart."""


def reliability(table: ConfidenceTable) -> str:
    """Share that is right by stated confidence, with its interval, and below how many answers state it; empty without confidences."""
    if not table.variants:
        return ""
    with style("reliability", {"axes.grid.axis": "both"}):
        figure = Figure(figsize=FIGSIZE, layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        above.plot([0, 100], [0, 100], linestyle="--", linewidth=1.2, color=INK)
        for i, variant in enumerate(table.variants):
            _points(above, table, variant, COLOURS[i % len(COLOURS)])
            _counts(below, table, i)
        above.set_xlim(0, 100)
        above.set_ylim(0, 100)
        above.set_ylabel("right, %")
        below.set_ylabel("answers, %")
        below.set_xlabel("confidence, %")
        below.set_xticks(range(0, 101, 100 // BINS))
        _finish(figure, (above, below), legend=len(table.variants) > 1)
        return as_svg(figure)


def risk_coverage(table: ConfidenceTable) -> str:
    """Share of the answers that is right by share of problems that are answered, the surest first, with its interval; empty without
    confidences."""
    if not table.variants:
        return ""
    with style("risk and coverage", {"axes.grid.axis": "both"}):
        figure = Figure(figsize=FIGSIZE, layout="constrained")
        axes = figure.add_subplot()
        lowest = min(_line(axes, table, variant, COLOURS[i % len(COLOURS)]) for i, variant in enumerate(table.variants))
        axes.set_xlim(0, 100)
        axes.set_ylim(10 * math.floor(min(lowest, 99.0) / 10), 100)
        axes.set_xlabel("answered, % of the problems")
        axes.set_ylabel("right, % of the answers")
        _finish(figure, (axes,), legend=len(table.variants) > 1)
        return as_svg(figure)


def thinned(curve: Sequence[Threshold], points: int = POINTS) -> list[Threshold]:
    """The last, and of the others those that answer enough more than the one before to be seen apart; the share of a handful of answers,
    with which a curve begins, is noise."""
    kept: list[Threshold] = []
    for each in curve:
        if each is curve[-1] or each.coverage - (kept[-1].coverage if kept else 0) >= 1 / points:
            kept.append(each)
    return kept


def _line(axes: Axes, table: ConfidenceTable, variant: str, colour: str) -> float:
    """Draw one variant, with a dot where all its answers are given; returns its lowest value."""
    curve = thinned(table[variant].curve())
    coverage = [100 * each.coverage for each in curve]
    found = [each.precision(table.level) for each in curve]
    values = [100 * each.value for each in found]
    band: Any = {"color": colour, "alpha": 0.12, "linewidth": 0}
    axes.fill_between(coverage, [100 * each.low for each in found], [100 * each.high for each in found], **band)
    axes.plot(coverage, values, color=colour, linewidth=1.8, label=variant)
    axes.plot(coverage[-1:], values[-1:], marker="o", markersize=5, color=colour, clip_on=False)
    return min(values)


def _points(axes: Axes, table: ConfidenceTable, variant: str, colour: str) -> None:
    bins = table[variant].bins()
    values, bounds = percentages([table.found(each) for each in bins])
    drawn: Any = {"fmt": "o", "markersize": 5, "elinewidth": 1, "capsize": 2.5, "clip_on": False}
    axes.errorbar([100 * each.stated for each in bins], values, yerr=bounds, color=colour, label=variant, **drawn)


def _counts(axes: Axes, table: ConfidenceTable, i: int) -> None:
    """Bars side by side in each bin, in per cent of the variant's answers."""
    counts = table[table.variants[i]]
    width = 0.9 / len(table.variants)
    places = [100 / BINS * (min(int(each.stated * BINS), BINS - 1) + 0.05 + width * (i + 0.5)) for each in counts.bins()]
    shares = [100 * each.n / counts.n for each in counts.bins()]
    axes.bar(places, shares, 100 / BINS * width, color=COLOURS[i % len(COLOURS)])


def _finish(figure: Figure, all_axes: Sequence[Axes], legend: bool) -> None:
    for axes in all_axes:
        frame(axes)
    if legend:
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4, fontsize=9)
