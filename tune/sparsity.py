"""`cleave tune sparsity CONFIG`: search how sparse a role can be, accuracy against what the sliced model costs, on Ray Tune.

    cleave tune sparsity configs/tune/sparsity.yaml searcher=random select.max_latency=0.6 select.max_loss=null

A candidate is a training with `prune:`; poor ones end early, those that may be chosen are trained with further seeds. Of the front one is
kept: its config as best.yaml, its weights as checkpoint/. A stopped search goes on with the same command; a finished one chooses anew where
`select` has changed. Left out: the front (pareto.py), who ends trials (pareto_halving.py), the files at the end (sparsity_results.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleave.config.base import dump
from cleave.config.distill import DistillConfig
from cleave.config.sparsity import SparsitySearchConfig
from cleave.console import say
from cleave.runs import RunFolder
from tune.candidates import Candidate, read_candidates, standings
from tune.learning_curve import Figures, learning_curve
from tune.pareto import is_whole, layers
from tune.pareto_halving import PLANNED
from tune.rounds import example, round_of, run_rounds, size
from tune.search_folder import RESULT, open_search, start
from tune.search_results import COSTS
from tune.sparsity_results import mark_of, publish, show_result, wanted

if TYPE_CHECKING:
    from tune.search import Round

DENSE = "dense.json"


def main(config: SparsitySearchConfig, *, dry_run: bool = False, as_json: bool = False) -> int:
    """Search for each role, or go on; returns the exit code: 1 where a search has no candidate as wanted. Raises CleaveError for what the
    user has to put right."""
    searches = config.by_role()
    if dry_run:
        from tune.placement import planned

        for one in searches.values():
            say(f"{check(one)}; {planned(one)}; nothing was started.")
        print(json.dumps(config.model_dump(mode="json")) if as_json else dump(config), end="\n" if as_json else "")
        return 0
    codes = [search(one) for one in searches.values()]
    finished = {role: folder for role, one in searches.items() if (folder := open_search(one)).exists(RESULT)}
    show_result(finished, as_json=as_json)
    return max(codes)


def search(config: SparsitySearchConfig) -> int:
    """Search for one role, and choose. A finished search only chooses."""
    folder = open_search(config)
    whole = folder.exists(RESULT)
    if not whole:
        say(check(config))
        start(config, folder)
        dense_figures(config, folder)
        weights = unit_weights(config)
        whole = run_rounds(config, lambda place: left(config, folder, place, weights))
    chosen = publish(config, folder, read_candidates(folder), dense_figures(config, folder), finished=whole)
    if not whole:
        say("time_budget_s ran out; run the same command again to go on.")
    return 0 if chosen or not whole else 1


def left(config: SparsitySearchConfig, folder: RunFolder, place: int, weights: Mapping[str, float]) -> Round:
    """What is left to do with the seed at a place."""

    def lead(candidates: Sequence[Candidate], seeds: Sequence[int], count: int) -> list[Candidate]:
        return leaders(config, candidates, seeds, count, dense_figures(config, folder))

    def beside(training: DistillConfig) -> Figures:
        return known_figures(training, weights)

    return round_of(config, folder, place, lead=lead, share_prefixes=False, cost=config.against, beside=beside)


def leaders(
    config: SparsitySearchConfig, candidates: Sequence[Candidate], seeds: Sequence[int], count: int, dense: Figures
) -> list[Candidate]:
    """Of those that finished with each of `seeds` the ones that `select` would keep, one after another: whether the choice was luck is what
    further seeds are to say. Where nothing more is within its limit, the better layers of the front, in a layer the more accurate."""
    left = [one for one in candidates if set(seeds) <= set(one.finished()) and is_whole(mark_of(config, one, config.against))]
    found: list[Candidate] = []
    while left and len(found) < count:
        one = wanted(config, left, dense)
        if one is None:
            by_layer = dict(zip((one.key for one in left), layers([mark_of(config, one, config.against) for one in left]), strict=True))
            one = min(standings(left, config.metric), key=lambda one: by_layer[one.key])
        found.append(one)
        left.remove(one)
    return found


def known_figures(training: DistillConfig, weights: Mapping[str, float]) -> Figures:
    """What is known before training: the share of the layers' parameters that is to stay, and that a dense model costs what it costs."""
    if training.prune is None:
        return {PLANNED: 1.0} | dict.fromkeys(COSTS, 1.0)
    sparsity = training.prune.sparsity
    inside = sum(weights[kind] * share for kind, share in sparsity.items() if kind != "layers")
    return {PLANNED: (1 - sparsity.get("layers", 0.0)) * (1 - inside)}


def unit_weights(config: SparsitySearchConfig) -> dict[str, float]:
    """By kind of unit inside a layer, its share of the layer's parameters."""
    from cleave.pruning.units import Anatomy
    from pipelines.preflight import skeleton

    trial = sparsest(config)
    model, _ = skeleton(trial)
    units = Anatomy.of(model, trial.prune.block if trial.prune else 1).units
    return {kind: one.count * one.parameters / units["layers"].parameters for kind, one in units.items() if kind != "layers"}


def dense_figures(config: SparsitySearchConfig, folder: RunFolder) -> Figures:
    """Accuracy of the dense model before training, on the same held-out examples, measured once; empty for random weights."""
    trial = example(config)
    if trial.init.model is None:
        return {}
    if not folder.exists(DENSE):
        from pipelines.assembly import build_trainer

        trainer, _ = build_trainer(trial.model_copy(update={"prune": None}), Path(folder.path("dense")))
        assert trainer.measure is not None
        model: Any = trainer.model
        measured = trainer.measure(model.train(False))
        row = {"step": 0} | {f"eval_{name}": value for name, value in measured.items()}
        folder.write_text(DENSE, json.dumps(learning_curve([row])[0]) + "\n")
        folder.remove(["dense"])
    figures: Figures = json.loads(folder.read_text(DENSE))
    return figures


def sparsest(config: SparsitySearchConfig) -> DistillConfig:
    """One trial of the search, as sparse as any."""
    space = config.domains.items()
    point = {key: max(domain.examples) if key.startswith("prune.sparsity.") else domain.examples[0] for key, domain in space}
    return config.trial(point, config.seeds[0])


def check(config: SparsitySearchConfig) -> str:
    """Check that a trial fits, and do once what trials would each do at their start; returns what would be trained."""
    from pipelines import distill
    from pipelines.capture import capture
    from pipelines.reconstruction import score_traces

    trial = sparsest(config)
    text = distill.check(trial)
    score_traces(trial)
    capture(trial)
    return f"{config.name}: {size(config)} against {config.against}; each: {text.partition(': ')[2]}"
