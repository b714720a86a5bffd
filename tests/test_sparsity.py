"""`cleave tune sparsity`: the front, who ends trials, what Optuna is told, what is chosen, and a whole search with tiny models."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from cleave.config.base import load, validate
from cleave.config.distill import DistillConfig
from cleave.config.sparsity import SparsitySearchConfig
from cleave.errors import ConfigError, TrainingError
from cleave.lm.checkpoint import load_checkpoint
from cleave.runs import RunFolder
from tests.test_prune_distill import SHAPE
from tune.candidates import Candidate, note_trial, trial_folder
from tune.outcome import Outcome
from tune.pareto import Mark, cheapest, front_of, goes_on, layers, most_accurate
from tune.pareto_figure import pareto_figure
from tune.pareto_halving import PLANNED, ParetoHalving
from tune.rounds import key_of
from tune.search import scheduler_of, searcher_of, tell_scheduler
from tune.space import Space
from tune.sparsity import dense_figures, known_figures, leaders, left, main, unit_weights
from tune.sparsity_results import choose, publish

HEADS, NEURONS = "prune.sparsity.heads", "prune.sparsity.neurons"
DISTILL: dict[str, Any] = {
    "role": "decomposer",
    "tasks": ["lookup"],
    "init": {"fresh": SHAPE},
    "prune": {"block": 8, "latency_tokens": 1},
    "train": {"max_steps": 6, "per_device_train_batch_tokens": 300, "gradient_accumulation_steps": 1, "logging_steps": 1},
    "evaluation": {"eval_steps": 3, "examples": 4, "generate": 0},
    "num_threads": 1,
}


def make_search(folder: Path | str = "runs", **changes: Any) -> SparsitySearchConfig:
    data: dict[str, Any] = {
        "name": "search",
        "storage_path": str(folder),
        "distill": DISTILL,
        "space": {HEADS: [0.0, 0.5], NEURONS: [0.0, 0.5]},
        "searcher": "grid",
        "num_samples": None,
        "metric": "loss",
        "against": "parameters",
        "select": {"max_latency": 10.0},
    }
    return validate(SparsitySearchConfig, data | changes, "the test")


def candidate(key: str, gain: float, cost: float, seeds: int = 1, **values: float) -> Candidate:
    found = Outcome("finished", {"exact_match": gain, "seconds_32": cost, "step": 6} | values)
    return Candidate(key, 0, {HEADS: 0.5, NEURONS: 0.5}, {HEADS: 0, NEURONS: 1}, dict.fromkeys(range(seeds), found))


# The front

MARKS = st.lists(st.builds(Mark, st.integers(0, 4).map(float), st.integers(0, 4).map(float)), min_size=1, max_size=12)


@given(MARKS)
def test_each_layer_is_dominated_by_the_one_before_and_not_from_within(marks: list[Mark]) -> None:
    found = layers(marks)
    for mark, layer in zip(marks, found, strict=True):
        beating = {found[k] for k, other in enumerate(marks) if other.dominates(mark)}
        assert max(beating, default=-1) == layer - 1
    front = [marks[k] for k in front_of(marks)]
    assert set(front) == {mark for mark, layer in zip(marks, found, strict=True) if layer == 0}
    assert [mark.gain for mark in front] == sorted({mark.gain for mark in front}), "the dearer, the better"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12, unique=True), st.sampled_from([2.0, 3.0, 4.0]))
def test_at_equal_cost_it_is_successive_halving(gains: list[float], factor: float) -> None:
    """The best 1 / factor go on, as in ASHA."""
    marks = [Mark(gain, 0.5) for gain in gains]
    on = [mark for mark in marks if goes_on(marks, mark, factor)]
    assert {mark.gain for mark in on} == set(sorted(gains, reverse=True)[: math.ceil(len(gains) / factor)])


def test_what_is_chosen_meets_the_limit() -> None:
    marks = [Mark(0.9, 1.0), Mark(0.89, 0.7), Mark(0.8, 0.5), Mark(0.8, 0.6)]
    assert most_accurate(marks, max_cost=0.7) == Mark(0.89, 0.7)
    assert most_accurate(marks, max_cost=0.4) is None
    assert cheapest(marks, min_gain=0.8) == Mark(0.8, 0.5)
    assert cheapest(marks, min_gain=0.95) is None


# Who ends trials


def test_a_sparse_trial_is_not_ended_for_being_less_accurate_than_a_dense_one() -> None:
    """What Ray's ASHA on accuracy alone would do; a trial that is worse than one as sparse is ended."""
    halving = ParetoHalving(metric="exact_match", mode="max", max_t=8, grace_period=2, reduction_factor=2)

    def decide(name: str, accuracy: float, planned: float, step: int = 2) -> str:
        return halving.on_trial_result(None, SimpleNamespace(trial_id=name), {"exact_match": accuracy, PLANNED: planned, "step": step})

    assert decide("dense", 0.9, 1.0) == "CONTINUE"
    assert decide("sparse", 0.6, 0.4) == "CONTINUE"
    assert decide("as sparse", 0.4, 0.4) == "STOP"
    assert decide("dense", 0.1, 1.0, step=3) == "CONTINUE", "a trial is looked at once per rung"
    assert decide("sparse", 0.7, 0.4, step=5) == "CONTINUE"
    assert decide("dense", 0.6, 1.0, step=4) == "STOP"
    assert halving.on_trial_result(None, SimpleNamespace(trial_id="new"), {"exact_match": 0.1, "step": 2}) == "CONTINUE"


def test_halving_knows_what_was_measured_before(tmp_path: Path) -> None:
    config = make_search(tmp_path, scheduler={"grace_period": 3})
    folder = RunFolder.open(config.storage_path, config.name)
    scheduler = scheduler_of(config.scheduler, left(config, folder, 0, {"heads": 0.4, "neurons": 0.6}))  # type: ignore[arg-type]
    assert isinstance(scheduler, ParetoHalving)
    tell_scheduler(scheduler, "known", [{"step": 3, "loss": 1.0, PLANNED: 0.5}])
    result = {"step": 3, "loss": 2.0, PLANNED: 0.5}
    assert scheduler.on_trial_result(None, SimpleNamespace(trial_id="new"), result) == "STOP"


def test_optuna_is_told_both_figures_and_takes_ended_trials_for_poor(tmp_path: Path) -> None:
    config = make_search(tmp_path, searcher="optuna", num_samples=9)
    folder = RunFolder.open(config.storage_path, config.name)
    outcomes = [
        Outcome("finished", {"loss": 1.0, "parameters": 0.6}),
        Outcome("pruned", {"loss": 2.0}),
        Outcome("failed", {}, "it diverged."),
    ]
    for k, outcome in enumerate(outcomes):
        point = {HEADS: 0.5, NEURONS: (0.0, 0.5)[k % 2]}
        note_trial(folder, f"k{k}", 0, k, point, Space(config.domains).encode(point))
        outcome.write(trial_folder(folder, f"k{k}", 0))
    searcher = searcher_of(left(config, folder, 0, {}))
    study = searcher._ot_study
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert [trial.state for trial in study.trials] == states
    assert study.trials[0].values == [1.0, 0.6]
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE"]
    for name, result in (
        ("whole", {"loss": 1.5, "parameters": 0.5}),
        ("ended", {"loss": 1.5, "parameters": math.inf}),
        ("nan", {"loss": math.nan, "parameters": math.nan}),
    ):
        assert set(searcher.suggest(name)) == {HEADS, NEURONS}
        searcher.on_trial_result(name, result)
        searcher.on_trial_complete(name, result)
    assert [trial.state for trial in study.trials[3:]] == states
    for k in range(12):  # past the estimator's random start, with trials of all states
        searcher.suggest(f"more{k}")
        searcher.on_trial_complete(f"more{k}", {"loss": 1.0 + k, "parameters": 0.5})


# The config


def test_a_point_without_sparsity_is_the_dense_model(tmp_path: Path) -> None:
    config = make_search(tmp_path, space={HEADS: [0.0, 0.5], NEURONS: [0.0, 0.5], "prune.sparsity_ramp": [[0.0, 0.1], [0.1, 0.4]]})
    points = list(Space(config.domains).grid())
    assert config.trial(points[0], 0).prune is None
    assert len({key_of(config, point) for point in points}) == 7, "ramps are nothing to a dense model"
    weights = unit_weights(config)
    assert sum(weights.values()) == pytest.approx(1, abs=0.1)
    assert known_figures(config.trial(points[0], 0), weights) == {
        PLANNED: 1.0, "seconds_1": 1.0, "seconds_32": 1.0, "parameters": 1.0, "flops": 1.0
    }  # fmt: skip
    assert known_figures(config.trial(points[-1], 0), weights)[PLANNED] == pytest.approx(1 - sum(weights.values()) / 2)
    again = validate(SparsitySearchConfig, config.model_dump(mode="json"), "again")
    assert again == config
    assert Space(again.domains).encode(points[-1]) == Space(config.domains).encode(points[-1])


def test_each_role_has_a_search_of_its_own(root: Path) -> None:
    config = load(SparsitySearchConfig, root / "configs" / "tune" / "sparsity.yaml")
    found = config.by_role()
    assert list(found) == ["decomposer", "solver"]
    for role, one in found.items():
        trial = one.trial({HEADS: 0.3}, 5)
        assert (trial.role, trial.init.model.short, trial.prune.sparsity["heads"]) == (role, f"reference:{role}", 0.3)  # type: ignore[union-attr]
        assert one.folder == f"runs/tune-sparsity/{role}"


ACCURATE = {"metric": "exact_match", "distill": DISTILL | {"evaluation": DISTILL["evaluation"] | {"generate": 2}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"train.learning_rate": [1e-3]}}, "the space says nothing of prune"),
        ({"space": {"prune.sparsity.head": [0.5]}}, "head"),
        ({"space": {HEADS: [0.5, 1.0]}}, "something has to stay"),
        ({"space": {HEADS: [0.5], "prune.freeze": [0.9, 0.45], "prune.sparsity_ramp": [[0, 0.4], [0, 0.5]]}}, "ends before freeze"),
        ({"scheduler": {"grace_period": 2}}, "before step 3 trials are not as sparse"),
        ({"select": {"max_loss": 1.0}}, "max_loss counts points below the accuracy of init.model"),
        (ACCURATE | {"select": {"max_loss": 1.0}}, "max_loss counts points below the accuracy of init.model"),
        ({"select": {}}, "one of max_latency"),
        ({"metric": "exact_match"}, "exact_match is not measured"),
        ({"metric": "average_accuracy"}, "average_accuracy is not measured"),
        ({"distill": DISTILL | {"prune": {"block": 8, "latency_tokens": 0}}}, "latency is not measured"),
        ({"searcher": "designer"}, "searcher"),
        ({"designed": 2}, "no order to design"),
        ({"roles": {"solver": {"int": 1}}}, "int"),
    ],
)
def test_mistakes_name_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_search(**changes)


# What is left at the end


def test_those_with_most_seeds_are_chosen_from(tmp_path: Path) -> None:
    config = make_search(tmp_path, **ACCURATE, against="seconds_32", select={"max_latency": 0.7})
    found = [candidate("lucky", 0.95, 0.5), candidate("best", 0.9, 0.6, 2), candidate("dear", 0.92, 0.8, 2), candidate("poor", 0.5, 0.3, 2)]
    assert choose(config, found, {}).key == "best"  # type: ignore[union-attr]
    assert [one.key for one in leaders(config, found, [0, 1], 3, {})] == ["best", "poor", "dear"], "first those within the limit"
    strict = config.model_copy(update={"select": config.select.model_copy(update={"max_latency": None, "max_loss": 5.0})})
    assert choose(strict, found, {"exact_match": 0.94}).key == "best"  # type: ignore[union-attr]
    assert choose(strict, found, {"exact_match": 0.98}) is None


def test_nothing_finished_is_an_error(tmp_path: Path) -> None:
    config, folder = make_search(tmp_path), RunFolder.open(str(tmp_path), "search")
    folder.write_text("config.yaml", "")
    failed = Candidate("a", 0, {HEADS: 0.5}, {}, {0: Outcome("failed", {}, "it diverged.")})
    with pytest.raises(TrainingError, match="it diverged"):
        publish(config, folder, [failed], {}, finished=True)


def test_the_figure_shows_front_dense_and_chosen() -> None:
    drawn = pareto_figure([(0.5, 0.8), (0.7, 0.9), (0.8, 0.7)], [0, 1], cost="seconds_32", metric="exact_match", dense=0.91, chosen=1)
    assert all(f">{text}<" in drawn for text in ("Pareto front", "dense, before training", "chosen", "exact match, %"))
    assert pareto_figure([], [], cost="flops", metric="loss") == ""


def test_the_dense_model_is_measured_once(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = make_search(
        tmp_path, distill=DISTILL | {"init": {"model": f"hf:{tiny_model_dir}"}, "prune": {"block": 8, "latency_tokens": 1}}
    )
    folder = RunFolder.open(str(tmp_path), "search")
    found = dense_figures(config, folder)
    assert found["loss"] > 0
    folder.write_text("dense.json", '{"loss": 1.0}')
    assert dense_figures(config, folder) == {"loss": 1.0}
    assert dense_figures(make_search(tmp_path), folder) == {}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("searcher", ["grid", "optuna"])
def test_a_search_from_its_config_to_the_chosen_checkpoint(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str], searcher: str
) -> None:
    options = {"grid": {}, "optuna": {"searcher": "optuna", "num_samples": 4, "space": {HEADS: [0.5], NEURONS: {"uniform": [0.3, 0.8]}}}}
    config = make_search(tmp_path, scheduler={"grace_period": 3}, max_concurrent_trials=2, **options[searcher])
    assert main(config, as_json=True) == 0
    result = json.loads(capsys.readouterr().out)["decomposer"]
    folder = tmp_path / "search"
    assert result["candidates"] == 4
    assert result["trials"]["failed"] == 0
    costs = [one["parameters"] for one in result["front"]]
    assert costs == sorted(costs)
    chosen = result["chosen"]
    best = load(DistillConfig, folder / "best.yaml")
    kept = load_checkpoint(str(folder / "checkpoint")).model
    if best.prune is not None:
        details = json.loads((folder / "checkpoint" / "pruned.json").read_text())
        assert sum(part.numel() for part in kept.parameters()) == details["sliced"]["parameters"]
        assert chosen["parameters"] == pytest.approx(details["sliced"]["parameters"] / details["dense"]["parameters"])
    assert (folder / "pareto.svg").read_text().startswith("<svg")
    assert "seconds_32" in (folder / "table.tsv").read_text()
    if searcher == "grid":
        again = config.model_copy(update={"select": config.select.model_copy(update={"max_latency": 1e-6})})
        assert main(again) == 1, "another select chooses anew, without training"
        assert "no candidate is within max_latency" in capsys.readouterr().err
        assert not (folder / "best.yaml").exists()
