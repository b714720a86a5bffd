"""How figures look, and a figure as SVG text. Left out: what is drawn (figures.py, pair_figures.py).

with style("depth"):
    figure = Figure(layout="constrained")
    svg = as_svg(figure)
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cleave.intervals import Interval

# Okabe and Ito's colours: they stay apart for colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#000000")
INK = "#3a4150"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "axes.edgecolor": "#b6bcc8",
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6e9ef",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
WIDTH, HEIGHT = 6.4, 3.5


def style(name: str, changes: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """Our style; `name` keeps the ids of several figures in one page apart."""
    settings: Any = {**STYLE, **(changes or {}), "svg.hashsalt": name}
    return rc_context(settings)


def percentages(intervals: Sequence[Interval]) -> tuple[list[float], list[list[float]]]:
    """Values, and how far the bounds are below and above them."""
    values = [100 * interval.value for interval in intervals]
    below = [max(0.0, 100 * (interval.value - interval.low)) for interval in intervals]
    above = [max(0.0, 100 * (interval.high - interval.value)) for interval in intervals]
    return values, [below, above]


def frame(axes: Axes) -> None:
    """Two open sides and no tick marks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def as_svg(figure: Figure) -> str:
    """The svg element alone, without the XML prologue, the same bytes for the same figure."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
