"""Searches without a cluster: configs, spaces, proposals, learning curves, trials with shared beginnings, racing, tables, figures."""

import json
import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from cleave.config.base import load, validate
from cleave.config.distill import DistillConfig
from cleave.config.tune import ORDER, CurriculumSearchConfig, DomainConfig
from cleave.errors import ConfigError, TrainingError
from cleave.runs import RunFolder
from tests.test_distill import SHAPE
from tune.candidates import Candidate, leaders, note_trial, standings, trial_folder
from tune.curriculum import as_line, designed_orders, main, scored_orders
from tune.learning_curve import learning_curve, read_curve
from tune.outcome import Outcome
from tune.parallel_coordinates import field_axes, number_axis, parallel_coordinates
from tune.prediction import main as judge
from tune.prefixes import Prefixes, prefix_key, shared_ends
from tune.rounds import key_of
from tune.search_folder import check_same
from tune.search_results import publish
from tune.searcher import proposals
from tune.space import Space
from tune.table import Line, as_tsv
from tune.trial import run_trial

SKILLS = ("one", "two", "three")
DISTILL: dict[str, Any] = {
    "role": "decomposer",
    "tasks": [{"task": "arithmetic", "label": label, "dials": {"depths": [k + 1]}} for k, label in enumerate(SKILLS)],
    "curriculum": {"mixture": "ordered"},
    "init": {"fresh": SHAPE},
    "train": {"max_steps": 9, "per_device_train_batch_tokens": 400, "gradient_accumulation_steps": 1, "logging_steps": 1},
    "evaluation": {"eval_steps": 2, "examples": 6, "generate": 0, "skill_examples": 4},
    "num_threads": 1,
}


def make_search(folder: Path | str = "runs", **changes: Any) -> CurriculumSearchConfig:
    data: dict[str, Any] = {
        "name": "search",
        "storage_path": str(folder),
        "distill": DISTILL,
        "space": {ORDER: {"permutations": []}},
        "num_samples": 4,
        "metric": "loss",
    }
    return validate(CurriculumSearchConfig, data | changes, "the test")


def make_trial(folder: Path, name: str, order: tuple[str, ...], **changes: Any) -> DistillConfig:
    curriculum = DISTILL["curriculum"] | {"order": order}
    return validate(DistillConfig, DISTILL | {"curriculum": curriculum, "name": name, "storage_path": str(folder)} | changes, "the test")


def make_candidate(key: str, place: int, values: dict[int, float], **point: Any) -> Candidate:
    outcomes = {seed: Outcome("finished", {"loss": value, "step": 9}) for seed, value in values.items()}
    return Candidate(key, place, point, {}, outcomes)


# Configs


def test_a_list_is_a_choice_and_permutations_are_of_the_runs_skills() -> None:
    config = make_search(space={ORDER: {"permutations": []}, "curriculum.mixture": ["ordered", "cumulative"]})
    assert config.domains[ORDER].permutations == SKILLS
    assert config.domains["curriculum.mixture"] == DomainConfig(choice=("ordered", "cumulative"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"curriculum.ordre": {"permutations": []}}}, "ordre"),
        ({"space": {"train.learning_rate": {"uniform": [2, 1]}}}, "is no range"),
        ({"space": {"train.learning_rate": {"uniform": [1, 2], "choice": [1]}}}, "one of choice"),
        ({"space": {"train.learning_rate": {"uniform": [-1.0, 1.0]}}}, "learning_rate"),
        ({"space": {ORDER: {"permutations": ["one", "one"]}}}, "twice"),
        ({"searcher": "grid", "space": {"train.learning_rate": {"uniform": [1, 2]}}}, "a grid has no place"),
        ({"num_samples": None}, "only a grid has an end"),
        ({"seeds": [0, 1]}, "numbers of leaders"),
        ({"seeds": [0, 1, 2], "leaders": [2, 3]}, "do not grow"),
        ({"seeds": [1, 1], "leaders": [2]}, "occurs twice"),
        ({"distill": DISTILL | {"name": "x"}}, "the search's business"),
        ({"distill": DISTILL | {"tasks": [{"task": "arithmetic", "eval_split": "test"}]}}, "not be those of a test split"),
        ({"metric": "exact_match"}, "set distill.evaluation.generate"),
        ({"metric": "f_score", "space": {"curriculum.mixture": ["ordered", "shuffled"]}}, "f_score needs stages"),
        ({"searcher": "designer", "space": {"curriculum.mixture": ["ordered"]}}, "the designer makes orders"),
        ({"distill": DISTILL | {"curriculum": {"mixture": "ordered", "skills": "depth"}}}, "name them once"),
        ({"resources_per_trial": {"CPU": 0}}, "reserves something"),
        ({"num_sample": 3}, "did you mean 'num_samples'"),
    ],
)
def test_mistakes_name_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_search(**changes)


def test_what_a_mixture_does_not_have_is_left_out() -> None:
    config = make_search(space={ORDER: {"permutations": []}, "curriculum.mixture": ["cumulative", "shuffled"]}, metric="average_accuracy")
    points = [{ORDER: order, "curriculum.mixture": mixture} for mixture in ("cumulative", "shuffled") for order in (SKILLS, SKILLS[::-1])]
    assert config.trial(points[1], 5).curriculum.order == SKILLS[::-1]  # type: ignore[union-attr]
    assert config.trial(points[1], 5).seed == 5
    keys = [key_of(config, point) for point in points]
    assert len(set(keys)) == 3, "both shuffled points train the same"
    lines = [as_line(config, Candidate("k", 0, point, {}), {SKILLS: 2.5}) for point in points]
    assert [line.fields[ORDER] for line in lines] == [SKILLS, SKILLS[::-1], None, None]
    assert [line.designer for line in lines] == [2.5, None, None, None]


# Spaces and searchers

DOMAINS = {
    ORDER: DomainConfig(permutations=SKILLS),
    "a": DomainConfig(choice=("x", 3, None)),
    "b": DomainConfig(uniform=(-1.0, 2.0)),
    "c": DomainConfig(log_uniform=(1e-4, 1.0)),
}


@given(st.integers(0, 10_000))
def test_points_survive_plain_numbers(seed: int) -> None:
    space = Space(DOMAINS)
    point = space.draw(random.Random(seed))
    numbers = space.encode(point)
    assert set(numbers) == set(space.dimensions())
    assert space.decode(numbers) == point
    for name, dimension in space.dimensions().items():
        assert (0 <= numbers[name] < dimension.choices) if dimension.choices else (dimension.low <= numbers[name] <= dimension.high)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_any_numbers_are_an_order(numbers: list[float]) -> None:
    order = Space({ORDER: DOMAINS[ORDER]}).decode({f"{ORDER}.{k}": number for k, number in enumerate(numbers)})[ORDER]
    assert sorted(order) == sorted(SKILLS)
    assert all(numbers[SKILLS.index(a)] <= numbers[SKILLS.index(b)] for a, b in pairwise(order))


def test_a_grid_has_every_combination() -> None:
    points = list(Space({ORDER: DOMAINS[ORDER], "a": DOMAINS["a"]}).grid())
    assert len(points) == 18
    assert len({(point[ORDER], point["a"]) for point in points}) == 18


def proposed(orders: Any = (), **changes: Any) -> list[dict[str, Any]]:
    config = make_search(**changes)
    return proposals(config, Space(config.domains), list(orders), lambda point: key_of(config, point))


def test_proposals_are_distinct_and_the_same_again() -> None:
    everything = proposed(searcher="random", num_samples=50)
    assert sorted(point[ORDER] for point in everything) == sorted(point[ORDER] for point in Space({ORDER: DOMAINS[ORDER]}).grid())
    assert proposed(searcher="random", num_samples=4) == everything[:4], "a longer search begins like a shorter one"
    assert proposed(searcher="random", num_samples=4, seed=1) != everything[:4]
    assert len(proposed(searcher="grid", num_samples=None)) == 6


def test_the_designers_orders_come_first() -> None:
    ranked = [("three", "one", "two"), ("two", "three", "one"), *(point[ORDER] for point in Space({ORDER: DOMAINS[ORDER]}).grid())]
    space = {ORDER: {"permutations": []}, "train.learning_rate": {"log_uniform": [1e-4, 1e-2]}}
    assert [point[ORDER] for point in proposed(ranked, searcher="designer", num_samples=3)] == [*ranked[:2], SKILLS]
    designer = proposed(ranked, searcher="designer", num_samples=9, space=space)
    assert [point[ORDER] for point in designer[:8]] == ranked
    some = proposed(ranked, searcher="random", designed=2, num_samples=5)
    assert [point[ORDER] for point in some[:2]] == ranked[:2]
    assert len(some) == 5
    assert [point[ORDER] for point in proposed(ranked, searcher="optuna", designed=2)] == ranked[:2], "the rest is Optuna's own"


def test_strata_are_of_the_whole_ranking() -> None:
    ranked = [point[ORDER] for point in Space({ORDER: DOMAINS[ORDER]}).grid()]
    drawn = [point[ORDER] for point in proposed(ranked, searcher="stratified", num_samples=3)]
    assert [ranked.index(order) // 2 for order in drawn] == [0, 1, 2]
    assert [point[ORDER] for point in proposed(ranked, searcher="stratified", num_samples=6)] == ranked


# Learning curves


def row(step: int, stages: int, **accuracy: float) -> dict[str, float]:
    skills = {f"eval_exact_match/{skill}": value for skill, value in accuracy.items()}
    return {"step": step, "eval_loss": 3.0 / step, "eval_stages": stages, **skills}


def test_learning_curve_by_hand() -> None:
    rows = [{"step": 5, "loss": 1.0}, row(10, 0, a=0.4, b=0.0), row(20, 1, a=0.8, b=0.2), row(40, 2, a=0.2, b=0.6)]
    curve = learning_curve(rows, "a")
    assert [point["step"] for point in curve] == [10, 20, 40]
    assert [point["average_accuracy"] for point in curve] == pytest.approx([0.2, 0.5, 0.4])
    assert curve[-1]["area_under_curve"] == pytest.approx((10 * 0.35 + 20 * 0.45) / 30)
    assert [point["forgetting"] for point in curve] == pytest.approx([0.0, 0.0, 0.6])
    assert curve[-1]["f_score"] == pytest.approx(2 * 0.4 / (0.4 * 0.6 + 1))
    assert "f_score" not in learning_curve(rows)[0]


# Trials


def weights(config: DistillConfig) -> dict[str, Any]:
    return load_file(Path(config.storage_path) / config.name / "checkpoint" / "model.safetensors")


def test_a_trial_that_starts_where_another_parted_ends_at_the_same_weights(tmp_path: Path) -> None:
    prefixes = Prefixes(tmp_path / "prefixes")
    told: list[dict[str, float]] = []
    first = make_trial(tmp_path, "first", ("two", "one", "three"))
    shared, alone = (make_trial(tmp_path, name, ("two", "three", "one")) for name in ("shared", "alone"))
    run_trial(first, lambda figures: None, prefixes)
    [kept] = [path for path in (tmp_path / "prefixes").iterdir() if not path.name.startswith(".")]
    assert kept == prefixes.folder_of(shared, 0)
    outcome = run_trial(shared, told.append, prefixes)
    whole = run_trial(alone, lambda figures: None)
    assert outcome.values == whole.values
    assert [point["step"] for point in told] == [point["step"] for point in read_curve(tmp_path / "alone" / "metrics.jsonl")]
    lines = [json.loads(line) for line in (tmp_path / "shared" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "tokens" in line] == list(range(1, 10))
    assert sorted(path.name for path in (tmp_path / "shared").glob("*.json")) == ["manifest.json", "outcome.json", "result.json"]
    mine, theirs = weights(shared), weights(alone)
    assert mine.keys() == theirs.keys()
    assert all((mine[name] == theirs[name]).all() for name in mine)
    assert any((mine[name] != other).any() for name, other in weights(first).items())


def test_what_decides_a_training_decides_where_it_is_shared(tmp_path: Path) -> None:
    base = make_trial(tmp_path, "a", ("one", "two", "three"))
    assert len(shared_ends(base)) == 1
    assert prefix_key(base, 0) == prefix_key(make_trial(tmp_path, "b", ("one", "three", "two")), 0)
    assert prefix_key(base, 0) != prefix_key(make_trial(tmp_path, "a", ("two", "one", "three")), 0)
    assert prefix_key(base, 0) != prefix_key(make_trial(tmp_path, "a", ("one", "two", "three"), seed=1), 0)
    lower = DISTILL["train"] | {"learning_rate": 1e-5}
    assert prefix_key(base, 0) != prefix_key(make_trial(tmp_path, "a", ("one", "two", "three"), train=lower), 0)
    assert shared_ends(make_search().trial({"curriculum.mixture": "shuffled"}, 0)) == []


def test_a_trial_has_one_outcome_and_then_only_tells_it(tmp_path: Path) -> None:
    config = make_trial(tmp_path, "once", SKILLS)
    folder = RunFolder.open(str(tmp_path), "once")
    folder.prepare()
    Outcome("pruned", {"loss": 2.0, "step": 4}).write(folder)
    Outcome("finished", {"loss": 1.0, "step": 9}).write(folder)
    told: list[dict[str, float]] = []
    assert run_trial(config, told.append).status == "pruned"
    assert told == [{"loss": 2.0, "step": 4}]
    assert not (tmp_path / "once" / "metrics.jsonl").exists()


def test_a_trial_that_diverges_leaves_its_reason(tmp_path: Path) -> None:
    config = make_trial(tmp_path, "wild", SKILLS, train=DISTILL["train"] | {"learning_rate": 1e30})
    with pytest.raises(TrainingError, match="not finite"):
        run_trial(config, lambda figures: None)
    outcome = Outcome.read(RunFolder.open(str(tmp_path), "wild"))
    assert outcome is not None
    assert outcome.status == "failed"
    assert "not finite" in outcome.reason
    with pytest.raises(TrainingError, match="not finite"):
        run_trial(config, lambda figures: None)


# Racing, tables, figures


def test_leaders_are_the_best_of_those_that_went_as_far() -> None:
    candidates = [
        make_candidate("a", 0, {0: 1.0}),
        make_candidate("b", 1, {0: 0.5, 1: 0.9}),
        make_candidate("c", 2, {0: 0.6, 1: 0.7}),
        Candidate("d", 3, {}, {}, {0: Outcome("pruned", {"loss": 0.1})}),
    ]
    assert [one.key for one in leaders(candidates, "loss", [0], 2)] == ["c", "b"], "those that have begun the next seed stay in"
    assert [one.key for one in leaders(candidates, "loss", [0, 1], 5)] == ["c", "b"]
    assert [one.key for one in standings(candidates, "loss")] == ["c", "b", "a", "d"]
    flipped = [make_candidate("a", 0, {0: 1.0}), make_candidate("b", 1, {0: 0.5})]
    for one in flipped:
        one.outcomes = {0: Outcome("finished", {"f_score": one.outcomes[0].values["loss"]})}
    assert [one.key for one in standings(flipped, "f_score")] == ["a", "b"]


def test_a_search_is_published_with_its_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_search(tmp_path)
    folder = RunFolder.open(str(tmp_path), "search")
    folder.write_text("config.yaml", yaml.safe_dump(config.model_dump(mode="json")))
    good = [make_candidate(str(k), k, {0: 1.0 - k / 10}, **{ORDER: order}) for k, order in enumerate((SKILLS, SKILLS[::-1]))]
    bad = Candidate("bad", 2, {ORDER: SKILLS}, {}, {0: Outcome("failed", {}, "the loss is nan; <lower> it.")})
    lines = [Line(one, one.point) for one in (*good, bad)]
    publish(config, folder, lines, metric="loss", best=lambda point: " → ".join(point[ORDER]), finished=True)
    result = json.loads(folder.read_text("result.json"))
    assert result["trials"] == {"finished": 2, "pruned": 0, "failed": 1}
    assert (result["best"]["key"], result["best"]["loss"]) == ("1", 0.9)
    assert folder.read_text("best.yaml") == "three → two → one"
    table = [line.split("\t") for line in folder.read_text("table.tsv").splitlines()]
    assert [len(line) for line in table] == [len(table[0])] * 4
    assert table[-1][-1] == "the loss is nan; <lower> it."
    assert "&lt;lower&gt;" in folder.read_text("report.html")
    rows = [json.loads(line) for line in folder.read_text("metrics.jsonl").splitlines()]
    assert [row["key"] for row in rows] == ["0", "1", "bad"]
    assert main(config) == 0
    assert "three → two → one" in capsys.readouterr().out
    with pytest.raises(TrainingError, match="no trial came to its end"):
        publish(config, folder, [lines[-1]], metric="loss", best=lambda point: "", finished=True)


def test_the_designers_score_is_judged_beside_its_control(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_search(tmp_path, seeds=[0, 1], leaders=[6], num_samples=6)
    folder = RunFolder.open(str(tmp_path), "search")
    folder.write_text("config.yaml", yaml.safe_dump(config.model_dump(mode="json")))
    orders = [point[ORDER] for point in Space({ORDER: DOMAINS[ORDER]}).grid()]
    for name, sign in (("designer.json", -1.0), ("designer-control.json", 0.0)):
        folder.write_text(name, json.dumps([{"order": order, "score": sign * k} for k, order in enumerate(orders)]))
    with pytest.raises(ConfigError, match="0 orders were trained"):
        judge(config)
    for k, order in enumerate(orders):
        for seed in (0, 1):
            note_trial(folder, str(k), seed, k, {ORDER: order}, {})
            Outcome("finished", {"loss": float(k), "step": 9}).write(trial_folder(folder, str(k), seed))
    assert judge(config, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["designer"]["rho"]["value"] == pytest.approx(1.0), "a low loss is a high value"
    assert math.isnan(found["random weights"]["rho"]["value"])
    assert found["designer"]["trials_seeded"] == 1
    assert judge(config) == 0
    assert "does the score predict loss?" in capsys.readouterr().out


def test_another_search_does_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    folder = RunFolder.open(str(tmp_path), "search")
    folder.write_text("config.yaml", yaml.safe_dump(make_search(tmp_path).model_dump(mode="json")))
    check_same(make_search(tmp_path, max_concurrent_trials=7, time_budget_s=5), folder)
    with pytest.raises(ConfigError, match=r"distill\.train\.max_steps=9, not 8"):
        check_same(make_search(tmp_path, distill=DISTILL | {"train": DISTILL["train"] | {"max_steps": 8}}), folder)


def test_axes_of_parallel_coordinates() -> None:
    points = [{ORDER: ("a", "b"), "x": 1.0, "same": 1}, {ORDER: ("b", "a"), "x": 3.0, "same": 1}, {ORDER: None, "x": 2.0, "same": 1}]
    axes = field_axes(points)
    assert [axis.name for axis in axes] == ["1.", "2.", "x"], "what never differs has no axis"
    assert axes[0].heights[:2] == (0.0, 1.0)
    assert math.isnan(axes[0].heights[2])
    assert axes[2].heights == (0.0, 1.0, 0.5)
    assert number_axis("n", [2.0, 2.0]).heights == (0.5, 0.5)
    drawn = parallel_coordinates(points, [0.1, 0.3, math.nan], "average_accuracy")
    assert drawn.startswith("<svg")
    assert "average accuracy" in drawn
    assert parallel_coordinates(points, [math.nan] * 3, "loss") == ""


def test_columns_that_nobody_has_are_not_shown() -> None:
    text = as_tsv([Line(make_candidate("a", 0, {0: 1.0}), {"x": None}, 3.25)], ["loss"])
    assert text.splitlines()[0] == "place\tloss\tdesigner\tstatus\tx\tkey\tsteps\tseconds\treason"
    assert text.splitlines()[1].startswith("1\t1.0000\t3.2500\t1 seed\t-\ta\t9")


def test_a_search_can_be_planned(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = load(CurriculumSearchConfig, root / "configs" / "tune" / "smoke.yaml", [f"storage_path={tmp_path}"])
    assert main(config, dry_run=True, as_json=True) == 0
    assert validate(CurriculumSearchConfig, json.loads(capsys.readouterr().out), "the plan") == config
    assert not list(tmp_path.iterdir())


def test_orders_are_scored_once_and_the_control_knows_nothing(tmp_path: Path, tiny_model_dir: Path) -> None:
    curriculum = {"mixture": "ordered", "designer": {"examples": 3}}
    distill = DISTILL | {"init": {"model": f"hf:{tiny_model_dir}"}, "curriculum": curriculum}
    config, folder = make_search(tmp_path, searcher="designer", distill=distill, seeds=[1]), RunFolder.open(str(tmp_path), "search")
    orders = designed_orders(config, folder)
    assert len(orders) == 6
    assert sorted(orders.values(), reverse=True) == list(orders.values())
    assert scored_orders(config, folder, random_weights=True) != orders
    assert designed_orders(make_search(tmp_path), folder) == {}
    folder.write_text("designer.json", json.dumps([{"order": SKILLS, "score": 9.0}]))
    assert designed_orders(config, folder) == {SKILLS: 9.0}
