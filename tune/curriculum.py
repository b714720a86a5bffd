"""`cleave tune curriculum CONFIG`: search the order, pacing and mixture of a training's curriculum on Ray Tune.

    cleave tune curriculum configs/tune/curriculum.yaml searcher=optuna

Every candidate is trained with the first seed, the leaders with the others too; the best config is left as best.yaml, ready for
`cleave distill`. A stopped search goes on with the same command, and what was trained is never trained again. Left out: the trials
(trial.py), which are left (rounds.py), how Ray Tune runs them (search.py), the files at the end (search_results.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from cleave.config.base import dump
from cleave.config.tune import ORDER, STAGED, CurriculumSearchConfig
from cleave.console import say
from cleave.runs import RunFolder
from tune.candidates import Candidate, read_candidates
from tune.rounds import best_config, example, round_of, run_rounds, size
from tune.search_folder import RESULT, open_search, start
from tune.search_results import publish, show_result
from tune.searcher import Order
from tune.table import Line

DESIGNER, CONTROL = "designer.json", "designer-control.json"


def main(config: CurriculumSearchConfig, *, dry_run: bool = False, as_json: bool = False) -> int:
    """Search, or go on; returns the exit code. Raises CleaveError for what the user has to put right."""
    if dry_run:
        return plan(config, as_json=as_json)
    folder = open_search(config)
    if folder.exists(RESULT):
        say(f"{folder.location} is finished; use another name to search again.")
        return show_result(folder, as_json=as_json)
    say(check(config))
    start(config, folder)
    orders = designed_orders(config, folder)
    whole = search(config, folder, list(orders))
    found = [as_line(config, candidate, orders) for candidate in read_candidates(folder)]
    publish(config, folder, found, metric=config.metric, best=lambda point: best_config(config, point), finished=whole)
    if not whole:
        say("time_budget_s ran out; run the same command again to go on.")
    return show_result(folder, as_json=as_json) if whole else 0


def search(config: CurriculumSearchConfig, folder: RunFolder, orders: list[Order]) -> bool:
    """Train what is left, seed after seed. Returns whether nothing is left; time may run out before."""
    return run_rounds(config, lambda place: round_of(config, folder, place, orders, share_prefixes=config.share_prefixes))


def designed_orders(config: CurriculumSearchConfig, folder: RunFolder) -> dict[Order, float]:
    """Every order with the designer's score, the best first; none where nobody asks for it."""
    return scored_orders(config, folder) if config.by_designer or config.designed else {}


def scored_orders(config: CurriculumSearchConfig, folder: RunFolder, *, random_weights: bool = False) -> dict[Order, float]:
    """Every order with its score, the best first, measured once. `random_weights`: by a model that knows nothing, the control."""
    name = CONTROL if random_weights else DESIGNER
    if not folder.exists(name):
        from cleave.curriculum.designer import ranking
        from pipelines.design import checked, distances

        trial = example(config)
        skills, designer = checked(trial)
        if random_weights:
            designer = designer.model_copy(update={"random_weights": True})
        orders, scores = ranking(distances(trial, skills, designer))
        found = [{"order": [skills[k] for k in order], "score": float(score)} for order, score in zip(orders, scores, strict=True)]
        folder.write_text(name, json.dumps(found) + "\n")
    return {tuple(one["order"]): one["score"] for one in json.loads(folder.read_text(name))}


def check(config: CurriculumSearchConfig) -> str:
    """Check that a trial fits, and do once what trials would each do at their start; returns what would be trained."""
    from pipelines import distill
    from pipelines.capture import capture
    from pipelines.reconstruction import score_traces

    trial = example(config)
    text = distill.check(trial)
    score_traces(trial)
    capture(trial)
    return f"{config.name}: {size(config)}; each: {text.partition(': ')[2]}"


def plan(config: CurriculumSearchConfig, *, as_json: bool) -> int:
    """What a search would do, for --dry-run."""
    from pipelines import distill
    from tune.placement import planned

    each = distill.check(example(config)).partition(": ")[2]
    say(f"{config.name}: {size(config)}; {planned(config)}; each: {each}; nothing was started.")
    print(json.dumps(config.model_dump(mode="json")) if as_json else dump(config), end="\n" if as_json else "")
    return 0


def as_line(config: CurriculumSearchConfig, candidate: Candidate, orders: Mapping[Order, float]) -> Line:
    """A candidate with what has an effect in it."""
    trial = config.trial(candidate.point, 0)
    staged = trial.curriculum is not None and trial.curriculum.mixture in STAGED
    idle = () if staged else tuple(key for key in candidate.point if key == ORDER or key.startswith("curriculum.pacing"))
    fields = {key: None if key in idle else value for key, value in candidate.point.items()}
    return Line(candidate, fields, orders.get(tuple(fields.get(ORDER) or ())))
