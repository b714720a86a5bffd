"""A search as parallel coordinates, in SVG text: an axis per field and one for what is sought, a line per candidate.

An order has an axis per place, with the skills on it. Lines are darker the better they end; candidates that were not trained to the end
are thin and stop before the last axis. Left out: which candidates there are (candidates.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from cleave.drawing import COLOURS, WIDTH, as_svg, style

SHADES = LinearSegmentedColormap.from_list("sought", ["#c9d4e3", COLOURS[0], "#062b4a"])
_MOST_NAMES = 24
"""Values of an axis that are written at it."""
_PLATE = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.8}


@dataclass(frozen=True)
class Axis:
    """One axis: `heights` in [0, 1] by candidate, nan where it has no such field; `ticks` are heights with what is written there."""

    name: str
    heights: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]


def parallel_coordinates(points: Sequence[Mapping[str, Any]], values: Sequence[float], metric: str, *, small: bool = False) -> str:
    """Points with the value that each reached, nan for none; `small`: low values are the good ones. Empty without a value."""
    if not any(math.isfinite(value) for value in values):
        return ""
    axes_of = [*field_axes(points), number_axis(metric.replace("_", " "), values)]
    goodness = [1 - height if small else height for height in axes_of[-1].heights]
    with style("parallel-coordinates", {"axes.grid": False}):
        figure = Figure(figsize=(max(WIDTH, 1.25 * len(axes_of)), 3.8), layout="constrained")
        axes = figure.add_subplot()
        draw_lines(axes, axes_of, goodness)
        for x, axis in enumerate(axes_of):
            axes.axvline(x, color="#b6bcc8", linewidth=1, zorder=3)
            for height, text in axis.ticks:
                side: dict[str, Any] = {"ha": "left", "xytext": (5, 0)} if x == len(axes_of) - 1 else {"ha": "right", "xytext": (-5, 0)}
                axes.annotate(text, (x, height), textcoords="offset points", va="center", fontsize=8, bbox=_PLATE, zorder=4, **side)
        axes.set_xticks(range(len(axes_of)), [axis.name for axis in axes_of])
        axes.set_yticks([])
        axes.set_xlim(-0.6, len(axes_of) - 0.6)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return as_svg(figure)


def draw_lines(axes: Axes, all_axes: Sequence[Axis], goodness: Sequence[float]) -> None:
    """A line per candidate, the best on top."""
    order = sorted(range(len(goodness)), key=lambda k: goodness[k] if math.isfinite(goodness[k]) else -1.0)
    for k in order:
        known = math.isfinite(goodness[k])
        colour, width = (SHADES(goodness[k]), 1.0 + 1.2 * goodness[k]) if known else ("#d5d9e0", 0.7)
        axes.plot([axis.heights[k] for axis in all_axes], color=colour, linewidth=width, solid_capstyle="round", zorder=2)


def field_axes(points: Sequence[Mapping[str, Any]]) -> list[Axis]:
    """The axes of the fields in which candidates differ; a field that holds sequences has one per place."""
    found: list[Axis] = []
    for key in dict.fromkeys(key for point in points for key in point):
        values = [point.get(key) for point in points]
        longest = max((len(value) for value in values if isinstance(value, tuple | list)), default=0)
        columns = [(f"{k + 1}.", [value[k] if value is not None and k < len(value) else None for value in values]) for k in range(longest)]
        for name, column in columns or [(key.rpartition(".")[2], values)]:
            if len({repr(value) for value in column}) > 1:
                found.append(axis_of(name, column))
    return found


def axis_of(name: str, values: Sequence[Any]) -> Axis:
    """Numbers by size, anything else by name, in the order of first mention at equal distances."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values if value is not None):
        return number_axis(name, [math.nan if value is None else value for value in values])
    names = sorted({str(value) for value in values if value is not None})
    heights = {text: k / max(1, len(names) - 1) if len(names) > 1 else 0.5 for k, text in enumerate(names)}
    ticks = tuple((height, text) for text, height in heights.items()) if len(names) <= _MOST_NAMES else ()
    return Axis(name, tuple(math.nan if value is None else heights[str(value)] for value in values), ticks)


def number_axis(name: str, values: Iterable[float]) -> Axis:
    """From the smallest to the largest number."""
    found = list(values)
    finite = [value for value in found if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    width = high - low
    heights = tuple(((value - low) / width if width else 0.5) if math.isfinite(value) else math.nan for value in found)
    ticks = ((0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")) if width else ((0.5, f"{low:.3g}"),)
    return Axis(name, heights, ticks)
