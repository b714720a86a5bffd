"""The figure of drafts.py as SVG text: how many questions are solved by k continuations, against what they cost.

svg = quality_by_cost(results["cases"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cleave.drawing import COLOURS, WIDTH, as_svg, frame, style

COLUMNS = 2
MARKERS = "osD^"
Points = dict[str, dict[int, list[tuple[float, float]]]]
"""By method and k the cost and the share solved of each task."""


def quality_by_cost(cases: Sequence[Mapping[str, Any]]) -> str:
    """A panel per kind of question and model, a line per method, a point per k: P@k in percent, the mean over tasks, against FLOPs over
    those of the greedy reply."""
    panels: dict[str, Points] = {}
    for case in cases:
        points = panels.setdefault(f"{case['kind']}, {case['model']}", {})
        for way in case["ways"]:
            by_k = points.setdefault(way["method"], {})
            by_k.setdefault(way["k"], []).append((way["flops_over_greedy"], way["precision_at"][-1]))
    rows = -(-len(panels) // COLUMNS)
    with style("drafts"):
        figure = Figure(figsize=(WIDTH + 1.6, 0.6 + 2.3 * rows), layout="constrained")
        grid = figure.subplots(rows, COLUMNS, squeeze=False).flat
        for axes, (title, points) in zip(grid, panels.items(), strict=False):
            _panel(axes, title, points)
        for axes in list(grid)[len(panels) :]:
            axes.set_visible(False)
        handles, labels = next(iter(figure.axes)).get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8)
        figure.supxlabel("FLOPs over those of the greedy reply", fontsize=9)
        figure.supylabel("one of k continuations is right, %", fontsize=9)
        return as_svg(figure)


def _panel(axes: Axes, title: str, points: Points) -> None:
    for place, (method, by_k) in enumerate(points.items()):
        costs = [fmean(cost for cost, _ in by_k[k]) for k in sorted(by_k)]
        shares = [100 * fmean(share for _, share in by_k[k]) for k in sorted(by_k)]
        axes.plot(costs, shares, marker=MARKERS[place % len(MARKERS)], markersize=4, linewidth=1.2, color=COLOURS[place], label=method)
    axes.set_title(title, fontsize=9, loc="left")
    frame(axes)
