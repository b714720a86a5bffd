"""Figures of a pruning as SVG text: how gates came to agree over training, and what is closed in each layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cleave.drawing import COLOURS, HEIGHT, WIDTH, as_svg, frame, style


def agreement_over_training(rows: Iterable[Mapping[str, Any]]) -> str:
    """From the rows of metrics.jsonl: by kind of unit, the share of (input, gate) that are as evaluation takes them. Empty without any."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("agreement/"):
                curves.setdefault(name.removeprefix("agreement/"), []).append((row["step"], 100 * value))
    if not curves:
        return ""
    with style("agreement"):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for colour, (kind, points) in zip(COLOURS, curves.items(), strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, label=kind)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("agreement, % of (input, gate)")
        axes.legend()
        frame(axes)
        return as_svg(figure)


def sparsity_by_layer(closed: Mapping[str, Sequence[float]]) -> str:
    """Bars by layer and kind: the share of closed units in percent."""
    with style("sparsity"):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(closed)
        for place, (colour, (kind, shares)) in enumerate(zip(COLOURS, closed.items(), strict=False)):
            axes.bar(
                [layer + place * width for layer in range(len(shares))], [100 * share for share in shares], width, color=colour, label=kind
            )
        layers = max(map(len, closed.values()))
        axes.set_xticks([layer + 0.4 - width / 2 for layer in range(layers)], [str(layer + 1) for layer in range(layers)])
        axes.set_xlabel("layer")
        axes.set_ylabel("closed units, %")
        axes.legend()
        frame(axes)
        return as_svg(figure)
