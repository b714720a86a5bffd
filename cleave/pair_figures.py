"""Figures of a pair table as SVG text: accuracy against cost with the Pareto front, and what each row loses.

svg = accuracy_against_cost(rows, unit)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cleave.config.study import GOLD
from cleave.drawing import COLOURS, INK, WIDTH, as_svg, frame, percentages, style
from cleave.pair_table import PairRow, Unit


def cost_per_problem(row: PairRow, unit: Unit) -> float:
    """Money, or FLOPs, per problem over all roles."""
    cost: float = getattr(row.total, unit)
    return cost / row.asked


def pareto_front(rows: Sequence[PairRow], unit: Unit) -> list[PairRow]:
    """The rows that no other row beats in accuracy at the same or a lower cost, cheapest first. Nobody can buy gold parts."""
    front: list[PairRow] = []
    bought = [row for row in rows if GOLD not in row.players.values()]
    for row in sorted(bought, key=lambda row: (cost_per_problem(row, unit), -row.accuracy.value)):
        if not front or row.accuracy.value > front[-1].accuracy.value:
            front.append(row)
    return front


def accuracy_against_cost(rows: Sequence[PairRow], unit: Unit | None) -> str:
    """A point per row with its interval; those on the Pareto front are joined and in colour. Rows that were asked a part of the tasks have
    no place beside those that were asked all of them. Empty where cost is unknown."""
    tasks = max((set(row.by_task) for row in rows), key=len, default=set())
    shown = [row for row in rows if unit is not None and cost_per_problem(row, unit) and set(row.by_task) == tasks]
    if unit is None or not shown:
        return ""
    front = pareto_front(shown, unit)
    with style("pareto", {"axes.grid.axis": "both"}):
        figure = Figure(figsize=(WIDTH * 1.5, max(4.6, 0.9 + 0.2 * len(shown))))
        axes = figure.add_axes((0.07, 0.11, 0.75, 0.87))
        axes.set_xscale("log")
        if front:
            axes.plot(*_places(front, unit), color=COLOURS[0], linewidth=1.6, label="Pareto front")
        for colour, some in ((COLOURS[0], front), (COLOURS[6], [row for row in shown if row not in front])):
            if some:
                x, y = _places(some, unit)
                bounds = percentages([row.accuracy for row in some])[1]
                axes.errorbar(x, y, yerr=bounds, fmt="o", markersize=6, color=colour, elinewidth=1, capsize=2.5)
        axes.set_ylabel("solved, %")
        axes.set_xlabel("price of a problem" if unit == "price" else "compute of a problem, MFLOP")
        scale = 1 if unit == "price" else 1e6
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / scale:,.4g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.06, y=0.1)
        frame(axes)
        if front:
            axes.legend(loc="lower right")
        _label(axes, shown, unit)
        return as_svg(figure)


def differences(rows: Sequence[PairRow]) -> str:
    """A line per row: the difference in points with its interval. Rows that are compared with what most are come first; the others, in
    grey, name theirs. Empty where nothing is compared."""
    compared = [(row, row.difference) for row in rows if row.difference is not None]
    if not compared:
        return ""
    [(usual, _)] = Counter(difference.against for _, difference in compared).most_common(1)
    shown = sorted(compared, key=lambda pair: pair[1].against != usual)
    with style("differences", {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(WIDTH * 1.5, 0.9 + 0.3 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=1)
        for place, (_, difference) in enumerate(shown):
            values, bounds = percentages([difference.interval])
            colour = COLOURS[0] if difference.against == usual else COLOURS[6]
            axes.errorbar(values, [place], xerr=bounds, fmt="o", color=colour, markersize=5, elinewidth=1.4, capsize=2.5)
        named = [row.name if difference.against == usual else f"{row.name}, against {difference.against}" for row, difference in shown]
        axes.set_yticks(range(len(shown)), named)
        axes.invert_yaxis()
        axes.set_xlabel(f"points more solved than {usual}, or than the row that is named")
        frame(axes)
        return as_svg(figure)


def _places(rows: Sequence[PairRow], unit: Unit) -> tuple[list[float], list[float]]:
    return [cost_per_problem(row, unit) for row in rows], [100 * row.accuracy.value for row in rows]


def _label(axes: Axes, rows: Sequence[PairRow], unit: Unit) -> None:
    """Names in a column at the right, by accuracy, as high as their points where there is room; a thin line leads to each."""
    low, high = axes.get_ylim()
    ordered = sorted(rows, key=lambda row: row.accuracy.value)
    wanted = [(100 * row.accuracy.value - low) / (high - low) for row in ordered]
    for row, height in zip(ordered, _apart(wanted, min(0.05, 1 / len(rows))), strict=True):
        axes.annotate(
            row.name,
            (cost_per_problem(row, unit), 100 * row.accuracy.value),
            (1.02, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#c3c9d4", "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4},
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights in [0, 1], moved as little upwards, then downwards, as keeps them `gap` apart."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    limit = 1.0
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return moved
