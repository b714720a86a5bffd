"""Accuracy against cost of a search, in SVG text: a point per candidate, the front joined and in colour, the dense model and the chosen one
marked. Left out: which candidates are on the front (pareto.py)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from cleave.drawing import COLOURS, HEIGHT, INK, WIDTH, as_svg, frame, style

_NAMES = {"seconds_1": "seconds of one reply", "seconds_32": "seconds of 32 replies at once", "flops": "FLOPs"}
Points = Sequence[tuple[float, float]]
"""Cost and accuracy as they are shown."""


def pareto_figure(
    points: Points, front: Sequence[int], *, cost: str, metric: str, dense: float | None = None, chosen: int | None = None
) -> str:
    """`points` are in shares; `front` and `chosen` are places in them; `dense` is the dense model's figure. Empty without a point."""
    if not points:
        return ""
    scale = 100 if metric != "loss" else 1
    ordered = sorted((points[k] for k in front), key=lambda point: point[0])
    with style("pareto-sparsity", {"axes.grid.axis": "both"}):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        others = [point for k, point in enumerate(points) if k not in set(front)]
        for some, colour in ((others, COLOURS[6]), (ordered, COLOURS[0])):
            axes.scatter([100 * x for x, _ in some], [scale * y for _, y in some], s=26, color=colour, zorder=3)
        axes.plot([100 * x for x, _ in ordered], [scale * y for _, y in ordered], color=COLOURS[0], linewidth=1.4, label="Pareto front")
        if dense is not None:
            axes.scatter([100], [scale * dense], marker="D", s=34, color=INK, zorder=4, label="dense, before training")
        if chosen is not None:
            x, y = points[chosen]
            axes.scatter([100 * x], [scale * y], s=130, facecolors="none", edgecolors=COLOURS[5], linewidths=1.8, zorder=5, label="chosen")
        axes.set_xlabel(f"{_NAMES.get(cost, cost)}, % of the dense model's")
        axes.set_ylabel(metric.replace("_", " ") + (", %" if scale == 100 else ""))
        axes.margins(x=0.06, y=0.1)
        frame(axes)
        axes.legend()
        return as_svg(figure)
