"""Figures of an evaluation as SVG text, to be put into a page as they are. Names in them are drawn, never interpreted.

svg = accuracy_by_task(evaluation)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cleave.drawing import COLOURS, HEIGHT, INK, WIDTH, as_svg, frame, percentages, style
from cleave.evaluation import OVERALL, By, Evaluation
from cleave.intervals import Interval
from cleave.roles import ROLES
from cleave.selection_table import ORACLES, SelectionTable


def accuracy_by_task(evaluation: Evaluation) -> str:
    """Share solved per task with its interval, one colour per variant."""
    tasks = evaluation.keys("task")
    shown: list[tuple[str, By, str]] = [(task, "task", task) for task in tasks]
    if len(tasks) > 1:
        shown.append(("all", "overall", OVERALL))
    with style("task"):
        figure, axes = _axes("solved, %")
        variants = evaluation.variants
        width = 0.8 / len(variants)
        for i, variant in enumerate(variants):
            offsets = [place - 0.4 + width * (i + 0.5) for place in range(len(shown))]
            _bars(axes, offsets, evaluation, variant, [(by, key) for _, by, key in shown], width, COLOURS[i % len(COLOURS)])
        axes.set_xticks(range(len(shown)), [name for name, _, _ in shown])
        axes.grid(visible=False, axis="x")
        _finish(axes, legend=len(variants) > 1)
        return as_svg(figure)


def accuracy_by_depth(evaluation: Evaluation) -> str:
    """Share solved per depth with its interval, one line per variant; empty if no problem has a known depth."""
    depths = evaluation.keys("depth")
    if not depths:
        return ""
    with style("depth"):
        figure, axes = _axes("solved, %")
        for i, variant in enumerate(evaluation.variants):
            _line(axes, evaluation, variant, depths, COLOURS[i % len(COLOURS)], shift=0.04 * (i - (len(evaluation.variants) - 1) / 2))
        axes.set_xticks([int(depth) for depth in depths])
        axes.set_xlabel("depth of the problem")
        _finish(axes, legend=len(evaluation.variants) > 1)
        return as_svg(figure)


def accuracy_by_samples(table: SelectionTable, variant: str) -> str:
    """Share solved under each selection rule by the number of samples, with the interval at the most samples; oracles are dashed."""
    sizes, rules = table.sizes(variant), table.rules(variant)
    with style(f"samples {variant}"):
        figure = Figure(figsize=(2 * WIDTH + 0.6, HEIGHT + 0.6), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log", base=2)
        for i, rule in enumerate(rules):
            values = [100 * table.interval(variant, rule, n).value for n in sizes]
            oracle = rule in ORACLES
            drawn: Any = {"linestyle": "--" if oracle else "-", "color": INK if oracle else COLOURS[i % len(COLOURS)], "linewidth": 1.6}
            axes.plot(sizes, values, marker="" if oracle else "o", markersize=4, label=rule, **drawn)
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.set_xlabel("samples per problem")
        axes.set_ylabel("solved, %")
        frame(axes)
        figure.legend(loc="outside right center", fontsize=9)
        return as_svg(figure)


def tokens_by_role(evaluation: Evaluation) -> str:
    """Mean tokens per problem, read (light) and written (full colour), stacked by role, one wide bar per variant."""
    with style("tokens", {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(2 * WIDTH + 0.6, 0.9 + 0.42 * len(evaluation.variants)), layout="constrained")
        axes = figure.add_subplot()
        places = list(range(len(evaluation.variants)))
        left = [0.0] * len(places)
        for i, role in enumerate(ROLES):
            for kind, alpha in (("prompt_tokens", 0.45), ("completion_tokens", 1.0)):
                values = [_tokens(evaluation, variant, role, kind) for variant in evaluation.variants]
                if any(values):
                    label = f"{role}, {'read' if kind == 'prompt_tokens' else 'written'}"
                    axes.barh(places, values, 0.6, left=left, color=COLOURS[i], alpha=alpha, label=label)
                left = [start + value for start, value in zip(left, values, strict=True)]
        axes.set_yticks(places, evaluation.variants)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("tokens per problem")
        frame(axes)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside upper left", ncols=6, fontsize=9)
        return as_svg(figure)


def _tokens(evaluation: Evaluation, variant: str, role: str, kind: str) -> float:
    cost = evaluation.costs[variant]
    usage = cost.usage.get(role)
    return getattr(usage, kind) / cost.problems if usage is not None and cost.problems else 0.0


def _axes(label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(0, 100)
    axes.set_ylabel(label)
    return figure, axes


def _bars(
    axes: Axes, offsets: Sequence[float], evaluation: Evaluation, variant: str, groups: Sequence[tuple[By, str]], width: float, colour: str
) -> None:
    tallies = [evaluation.tally(variant, by, key) for by, key in groups]
    heights, bounds = percentages([tally.accuracy(evaluation.confidence) if tally.n else Interval(0, 0, 0) for tally in tallies])
    axes.bar(offsets, heights, width * 0.9, color=colour, label=variant)
    axes.errorbar(offsets, heights, yerr=bounds, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)


def _line(axes: Axes, evaluation: Evaluation, variant: str, depths: Sequence[str], colour: str, shift: float) -> None:
    points = [(int(depth), evaluation.tally(variant, "depth", depth)) for depth in depths]
    known = [(depth, tally.accuracy(evaluation.confidence)) for depth, tally in points if tally.n]
    places = [depth + shift for depth, _ in known]
    values, bounds = percentages([interval for _, interval in known])
    drawn: Any = {"marker": "o", "markersize": 5, "linewidth": 1.8, "elinewidth": 1, "capsize": 2.5}
    axes.errorbar(places, values, yerr=bounds, color=colour, label=variant, **drawn)


def _finish(axes: Axes, legend: bool) -> None:
    frame(axes)
    if legend and axes.figure is not None:
        axes.figure.legend(loc="outside upper left", ncols=4, fontsize=9)
