"""What a search for sparsity leaves: the table, the Pareto front as a figure, the page, the chosen config and checkpoint, and the result.

Left out: which candidates there are (sparsity.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cleave.config.sparsity import SparsitySearchConfig
from cleave.console import print_table, say
from cleave.errors import TrainingError
from cleave.manifest import manifest
from cleave.runs import MANIFEST, METRICS, RunFolder
from tune.candidates import Candidate, mode_of, standings, trial_folder
from tune.learning_curve import Figures
from tune.pareto import Mark, cheapest, front_of, is_whole, most_accurate
from tune.pareto_figure import pareto_figure
from tune.rounds import best_config
from tune.search_folder import BEST, RESULT, TABLE
from tune.search_results import figure, measured, report
from tune.table import Line, as_rows, as_tsv, shown

PARETO = "pareto.svg"
CHECKPOINT = "checkpoint"


def publish(config: SparsitySearchConfig, folder: RunFolder, candidates: Sequence[Candidate], dense: Figures, *, finished: bool) -> bool:
    """Write all files; whether a candidate is as `select` wants it. Raises TrainingError where no trial came to its end."""
    lines = [Line(candidate, candidate.point) for candidate in standings(candidates, config.metric)]
    folder.write_lines(METRICS, as_rows(sorted(lines, key=lambda line: line.candidate.place)))
    columns = measured(lines, config.metric)
    folder.write_text(TABLE, as_tsv(lines, columns))
    folder.write_text(MANIFEST, json.dumps(manifest(program="tune", seed=config.seed), indent=2) + "\n")
    ended = [line.candidate for line in lines if is_whole(mark_of(config, line.candidate, config.against))]
    if not ended:
        reason = next((line.reason for line in lines if line.reason), "")
        if finished:
            raise TrainingError(f"no trial came to its end ({reason.rstrip('.') or 'all were stopped'}); see {folder.location}/{TABLE}.")
        return False
    front = [ended[k] for k in front_of([mark_of(config, one, config.against) for one in ended])]
    chosen = choose(config, ended, dense)
    if chosen is not None:
        keep(config, folder, chosen)
    else:
        folder.remove([BEST, CHECKPOINT])
    svg = drawn(config, ended, front, dense, chosen)
    folder.write_text(PARETO, svg + "\n")
    report(config, folder, lines, columns, config.metric, {"accuracy against cost": svg, "every candidate": figure(lines, config.metric)})
    if finished:
        folder.remove(["tune"])
        result = result_of(config, folder, lines, front, dense, chosen)
        folder.write_text(RESULT, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return chosen is not None


def mark_of(config: SparsitySearchConfig, candidate: Candidate, cost: str) -> Mark:
    """Accuracy, the larger the better, and a cost; nan where one was not measured."""
    sign = 1 if mode_of(config.metric) == "max" else -1
    return Mark(sign * candidate.value(config.metric), candidate.value(cost))


def choose(config: SparsitySearchConfig, ended: Sequence[Candidate], dense: Figures) -> Candidate | None:
    """What `select` wants, of those with the most seeds: a lead of one seed is partly luck."""
    seeds = max(len(one.finished()) for one in ended)
    return wanted(config, [one for one in ended if len(one.finished()) == seeds], dense)


def wanted(config: SparsitySearchConfig, candidates: Sequence[Candidate], dense: Figures) -> Candidate | None:
    """What `select` wants; None where nothing is within its limit."""
    select = config.select
    marks = [mark_of(config, one, config.against if select.max_latency is None else config.time) for one in candidates]
    if select.max_latency is not None:
        found = most_accurate(marks, max_cost=select.max_latency)
    else:
        assert select.max_loss is not None
        found = cheapest(marks, min_gain=dense[config.metric] - select.max_loss / 100 - 1e-9)
    return None if found is None else candidates[marks.index(found)]


def keep(config: SparsitySearchConfig, folder: RunFolder, chosen: Candidate) -> None:
    """best.yaml, and the weights of its first seed: to take the best seed's would choose by luck."""
    folder.write_text(BEST, best_config(config, chosen.point))
    trained = Path(trial_folder(folder, chosen.key, min(chosen.finished(), key=config.seeds.index)).path(CHECKPOINT))
    folder.remove([CHECKPOINT])
    shutil.copytree(trained, folder.path(CHECKPOINT))


def drawn(
    config: SparsitySearchConfig, ended: Sequence[Candidate], front: Sequence[Candidate], dense: Figures, chosen: Candidate | None
) -> str:
    """The Pareto figure."""
    keys = [one.key for one in ended]
    return pareto_figure(
        [(one.value(config.against), one.value(config.metric)) for one in ended],
        [keys.index(one.key) for one in front],
        cost=config.against,
        metric=config.metric,
        dense=dense.get(config.metric),
        chosen=None if chosen is None else keys.index(chosen.key),
    )


def result_of(
    config: SparsitySearchConfig,
    folder: RunFolder,
    lines: Sequence[Line],
    front: Sequence[Candidate],
    dense: Figures,
    chosen: Candidate | None,
) -> dict[str, Any]:
    """result.json. Figures of the chosen one flatter: it was chosen by them."""
    ended = [outcome.status for line in lines for outcome in line.candidate.outcomes.values()]
    return {
        "name": config.name,
        "metric": config.metric,
        "against": config.against,
        "select": config.select.model_dump(exclude_none=True),
        "dense": dict(dense),
        "front": [as_point(config, one) for one in front],
        "chosen": None if chosen is None else as_point(config, chosen),
        "candidates": len(lines),
        "trials": {status: ended.count(status) for status in ("finished", "pruned", "failed")},
        "config": f"{folder.location}/{BEST}" if chosen else None,
        "checkpoint": f"{folder.location}/{CHECKPOINT}" if chosen else None,
    }


def as_point(config: SparsitySearchConfig, candidate: Candidate) -> dict[str, Any]:
    """A candidate as plain JSON, its figures as means over its seeds."""
    names = {name for outcome in candidate.finished().values() for name in outcome.values} & {config.metric, config.against, config.time}
    figures = {name: candidate.value(name) for name in sorted(names)}
    return {"key": candidate.key, "seeds": len(candidate.finished()), **figures, "point": dict(candidate.point)}


def show_result(finished: Mapping[str, RunFolder], *, as_json: bool) -> None:
    """The fronts of finished searches on stdout, by role."""
    results = {role: json.loads(folder.read_text(RESULT)) for role, folder in finished.items()}
    if as_json:
        print(json.dumps(results, ensure_ascii=False))
        return
    for role, result in results.items():
        metric, cost = result["metric"], result["against"]
        fields = list(dict.fromkeys(key for one in result["front"] for key in one["point"]))
        key = (result["chosen"] or {}).get("key")
        rows = [
            ["chosen" if one["key"] == key else "", f"{one[metric]:.4f}", f"{one[cost]:.3f}", str(one["seeds"])]
            + [shown(one["point"].get(name)) for name in fields]
            for one in result["front"]
        ]
        dense = f"; dense {result['dense'][metric]:.4f}" if metric in result["dense"] else ""
        title = f"{role}: the front of {result['candidates']} candidates{dense}"
        print_table(["", metric, cost, "seeds", *fields], rows, title=title, numbers=[metric, cost, "seeds"])
        say(sentence(result, finished[role]))


def sentence(result: Mapping[str, Any], folder: RunFolder) -> str:
    """What was chosen, or what to do where nothing was."""
    (wanted, limit), *_ = result["select"].items()
    asked = f"{wanted} {limit:g}"
    if result["chosen"] is None:
        return f"no candidate is within {asked}; all are in {folder.location}/{TABLE}; search other sparsities, or set another {wanted}."
    return f"chosen within {asked}: {result['checkpoint']}; cleave distill {result['config']} trains it anew"
