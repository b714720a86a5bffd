"""How large and how fast the models of a study are, and what gates agreed on: `sizes: true` in a config of `cleave study`.

Of a row the part is measured in which it differs from the baseline, in turn with the baseline's, so that load from elsewhere meets both.
What was measured stays in sizes.json and is not measured again. Left out: how sizes are measured (cleave/pruning/size.py), the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cleave.config.model import ModelConfig
from cleave.config.study import StudyConfig
from cleave.pair_table import PairRow
from cleave.runs import RunFolder
from pipelines.evaluation_summary import points
from pipelines.pruned import DETAILS
from pipelines.start import load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SIZES = "sizes.json"
NEW_TOKENS = 32
SHOWN = {"parameters": "parameters", "flops": "FLOPs", "bytes": "bytes", "seconds_1": "seconds, 1", "seconds_32": "seconds, 32"}
Size = Mapping[str, float]
"""The figures in SHOWN and tokens per second."""


def sizes_of(config: StudyConfig, folder: RunFolder, checkpoints: Mapping[str, str]) -> dict[str, dict[str, Size]]:
    """By role and player: the sizes of what rows differ in, the baseline's among them. `checkpoints` are the students' folders."""
    if not folder.exists(SIZES):
        wanted: dict[str, list[str]] = {}
        for name in config.rows:
            role, player = config.part(name)
            if player not in wanted.setdefault(role, []) and config.weights(role, player, checkpoints) is not None:
                wanted[role].append(player)
        found = {role: measured(config, role, players, checkpoints) for role, players in wanted.items()}
        folder.write_text(SIZES, json.dumps(found, indent=2) + "\n")
    sizes: dict[str, dict[str, Size]] = json.loads(folder.read_text(SIZES))
    return sizes


def measured(config: StudyConfig, role: str, players: Iterable[str], checkpoints: Mapping[str, str]) -> dict[str, Size]:
    """The sizes of the players of one role; seconds are those at the baseline's pace of the first pair."""
    from cleave.pruning.size import generation_speed, size_of

    first = config.player(config.baseline, role)
    base = ready(config.weights(role, first, checkpoints))
    found: dict[str, dict[str, float]] = {first: size_of(base) | generation_speed({first: base}, NEW_TOKENS)[first]}
    for player in (player for player in players if player != first):
        model = ready(config.weights(role, player, checkpoints))
        speeds = generation_speed({first: base, player: model}, NEW_TOKENS)
        paced = {name: value * found[first][name] / speeds[first][name] for name, value in speeds[player].items()}
        found[player] = size_of(model) | paced
    return dict(found)


def ready(weights: ModelConfig | None) -> PreTrainedModel:
    """Weights to be timed, on the GPU if there is one."""
    import torch

    assert weights is not None
    model: Any = load_weights(weights)[0].train(False)
    model.config.use_cache = True
    timed: PreTrainedModel = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return timed


def size_lines(config: StudyConfig, rows: Iterable[PairRow], sizes: Mapping[str, Mapping[str, Size]]) -> Iterator[list[str]]:
    """A line per row: what it solves, how far that is from the row it is compared with, and the size of the part in which it differs from
    the baseline, with the share of the baseline's."""
    for row in rows:
        role, player = config.part(row.name)
        size, base = sizes[role].get(player), sizes[role][config.player(config.baseline, role)]
        compared = "-" if row.difference is None else points(row.difference.interval)
        cells = ["-" if size is None else f"{figure(size[name])} ({100 * size[name] / base[name]:.0f} %)" for name in SHOWN]
        yield [row.name, role, str(row.n), str(row.seeds), str(row.accuracy), compared, *cells]


SIZE_COLUMNS = ["row", "part", "n", "seeds", "solved, %", "points", *SHOWN.values()]
FREEZING_COLUMNS = ["student", "seeds", "agreement, %", "same outputs, %", "exact before, %", "exact after, %", "loss before", "loss after"]
_FREEZING = {"same": 100, "exact_before": 100, "exact_after": 100, "loss_before": 1, "loss_after": 1}
"""Figures of pruned.json, and how they are scaled."""


def freezing_lines(config: StudyConfig) -> Iterator[list[str]]:
    """A line per student with gates: how far they agreed before they were frozen, and what freezing changed; means over seeds."""
    for name, found in gates_of(config).items():
        agreement = [value for one in found for value in one["agreement"].values()]
        frozen = [one["freezing"] for one in found if "freezing" in one]
        means = [f"{scale * sum(one[key] for one in frozen) / len(frozen):.4g}" if frozen else "-" for key, scale in _FREEZING.items()]
        yield [name, str(len(found)), f"{100 * sum(agreement) / len(agreement):.2f}", *means]


def gates_of(config: StudyConfig) -> dict[str, list[dict[str, Any]]]:
    """What the students' gates came to, by student, for each seed; nothing of students without gates."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in config.students:
        for seed in config.seeds_of(name):
            student = config.student(name, seed)
            if student.prune is not None and student.prune.method == "consensus":
                folder = RunFolder.open(student.storage_path, student.name)
                found.setdefault(name, []).append(json.loads(folder.read_text(DETAILS)))
    return found


def figure(value: float) -> str:
    """A size for people."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
