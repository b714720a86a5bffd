"""`cleave tune predict CONFIG`: whether the Curriculum Designer's score foretold how the orders of a finished search did.

    cleave tune curriculum configs/tune/prediction.yaml
    cleave tune predict configs/tune/prediction.yaml

Orders that were trained with every seed count. Beside the designer's score stands that of a model with random weights, the control; both
are compared with what the seeds themselves agree on, and in replays of searches that try the best-scored orders first. The figures go to
prediction.json in the search's folder. Left out: the statistics (cleave/curriculum/prediction.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cleave.config.tune import ORDER, CurriculumSearchConfig
from cleave.console import print_table, say
from cleave.curriculum.prediction import Prediction, collapse_floor, compare, predict
from cleave.errors import ConfigError
from cleave.runs import RunFolder
from tune.candidates import Candidate, mode_of, read_candidates
from tune.curriculum import scored_orders
from tune.search_folder import check_same
from tune.searcher import Order

PREDICTION = "prediction.json"
SCORES = {"designer": False, "random weights": True}
"""What is judged → whether its model has random weights."""
_SEEDED = 4
"""One in so many orders is tried by score before the replayed search goes on at random."""


def main(config: CurriculumSearchConfig, *, as_json: bool = False) -> int:
    """Judge the scores; returns the exit code. Raises ConfigError where the search has not the trials for it."""
    folder = RunFolder.at(config.folder)
    check_same(config, folder)
    whole = trained_orders(config, read_candidates(folder))
    found = {
        name: judged(config, whole, scored_orders(config, folder, random_weights=random_weights)) for name, random_weights in SCORES.items()
    }
    folder.write_text(PREDICTION, json.dumps(found, indent=2) + "\n")
    if as_json:
        print(json.dumps(found))
        return 0
    show(found, config.metric)
    say(f"all figures are in {folder.location}/{PREDICTION}")
    return 0


def trained_orders(config: CurriculumSearchConfig, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that finished with every seed. Raises ConfigError for a search of anything but orders, and for too few of them."""
    if list(config.space) != [ORDER]:
        raise ConfigError(f"the score is of orders alone; search nothing but {ORDER}, such as configs/tune/prediction.yaml does.")
    whole = [candidate for candidate in candidates if set(config.seeds) <= set(candidate.finished())]
    if len(whole) < 3:
        raise ConfigError(
            f"{len(whole)} orders were trained with every seed; run `cleave tune curriculum` first, with leaders as many as candidates."
        )
    return whole


def judged(config: CurriculumSearchConfig, whole: Sequence[Candidate], scores: Mapping[Order, float]) -> dict[str, Any]:
    """All figures of one score."""
    sign = -1.0 if mode_of(config.metric) == "min" else 1.0
    known = [scores[candidate.point[ORDER]] for candidate in whole]
    values = [[sign * candidate.outcomes[seed].values[config.metric] for seed in config.seeds] for candidate in whole]
    floors = {"f_score": collapse_floor(len(config.skills)), "average_accuracy": 1 / len(config.skills)}
    floor = floors.get(config.metric, -math.inf)
    found: Prediction = predict(known, values, floor=floor)
    figures = asdict(found)
    if len(config.seeds) > 1:
        replays = compare(known, values, seeded=max(1, len(whole) // _SEEDED))
        figures |= {"trials_seeded": replays.medians[0], "trials_random": replays.medians[1], "trials_ratio": replays.ratio}
    return figures


def show(found: Mapping[str, Mapping[str, Any]], metric: str) -> None:
    """The judgement as a table: a line per figure, a column per score."""
    first = next(iter(found.values()))
    rows = [
        ["ρ with interval", *(f"{one['rho']['value']:.2f} [{one['rho']['low']:.2f}, {one['rho']['high']:.2f}]" for one in found.values())]
    ]
    for k in first["recall"]:
        cells = [one["recall"][k] for one in found.values()]
        rows.append([f"recall@{k} (chance, p)", *(f"{cell['value']:.2f} ({cell['expected']:.2f}, {cell['p']:.3f})" for cell in cells)])
    for name in ("ceiling", "reliability", "floor_share", "trials_seeded", "trials_random", "trials_ratio"):
        if name in first:
            rows.append([name.replace("_", " "), *(f"{one[name]:.2f}" for one in found.values())])
    title = f"{first['orders']} orders with {first['seeds']} seeds: does the score predict {metric.replace('_', ' ')}?"
    print_table(["", *found], rows, title=title, numbers=list(found))
