"""Orders by design: the authors' own scores, the formula spelled out, searches against all orders, states and distances by hand."""

import importlib.util
import itertools
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from cleave.config.base import validate
from cleave.config.distill import DistillConfig
from cleave.curriculum.designer import beam_order, designer_scores, every_order, greedy_order, normalised, ranking
from cleave.curriculum.distances import skill_distances
from cleave.curriculum.prototypes import hidden_states
from cleave.errors import CleaveError, ConfigError, DataError
from cleave.examples import Example
from pipelines.design import Ranked, as_section, design, rank

DATA = os.environ.get("CLEAVE_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="set CLEAVE_DATA to the folder with curriculum_designer/cifar5.json")
needs_pot = pytest.mark.skipif(importlib.util.find_spec("ot") is None, reason="install POT to measure optimal transport")

# The cosine distances of five classes of CIFAR10 in the authors' code, to six places: airplane, automobile, bird, cat, deer.
CIFAR5 = [
    [0, 0.150466, 0.205000, 0.305760, 0.338773],
    [0.102763, 0, 0.277641, 0.252853, 0.366744],
    [0.282685, 0.560576, 0, 0.078698, 0.078041],
    [0.369643, 0.447581, 0.068995, 0, 0.113781],
    [0.330036, 0.523139, 0.055135, 0.091690, 0],
]


def make_distances(n: int, seed: int = 0) -> np.ndarray:
    """Symmetric distances between random points."""
    points = np.random.default_rng(seed).normal(size=(n, 3))
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def by_hand(distances: Any, order: tuple[int, ...]) -> float:
    """The formula of the paper's code, with places counted from 1."""
    near, spread = normalised(distances)
    n = len(order)
    c = dict(enumerate(order, start=1))
    rounds = next(t for t in itertools.count() if 1 + 2 * t >= n)
    score = 1 - spread[c[1]]
    for t in range(1, rounds + 1):
        score += (1 - near[c[t], c[n + 1 - t]]) + near[c[t], c[t + 1]]
    return float(score)


def test_the_authors_variances_and_extreme_orders() -> None:
    assert normalised(CIFAR5)[1] == pytest.approx([0.1021, 0.1205, 0.2891, 0.2166, 0.2717], abs=1e-4)
    orders, scores = ranking(CIFAR5)
    assert (orders[0].tolist(), orders[-1].tolist()) == ([0, 4, 1, 3, 2], [4, 2, 3, 1, 0])
    assert (scores[0], scores[-1]) == pytest.approx((3.463114, 1.971509), abs=1e-5)


@needs_data
def test_all_scores_that_the_authors_released() -> None:
    known = json.loads((Path(DATA or "") / "curriculum_designer" / "cifar5.json").read_text())
    orders = [[int(c) for c in name.split(",")] for name in known["cd_score"]]
    assert len(orders) == 120
    scores = designer_scores(known["row_normalised_distance"], orders)
    np.testing.assert_allclose(scores, list(known["cd_score"].values()), atol=1e-9, rtol=0)
    np.testing.assert_allclose(normalised(known["row_normalised_distance"])[1], known["normalised_row_variance"], atol=1e-12, rtol=0)


@given(st.integers(2, 7), st.integers(0, 20), st.randoms())
def test_scores_follow_the_formula_and_ignore_the_unit_of_each_row(n: int, seed: int, rng: Any) -> None:
    distances = make_distances(n, seed)
    orders = [tuple(rng.sample(range(n), n)) for _ in range(5)]
    scores = designer_scores(distances, orders)
    assert scores == pytest.approx([by_hand(distances, order) for order in orders])
    scaled = distances * np.array([[1.0 + rng.random()] for _ in range(n)])
    assert designer_scores(scaled, orders) == pytest.approx(scores)


@given(st.integers(3, 6), st.integers(0, 20), st.randoms())
def test_renaming_skills_renames_orders(n: int, seed: int, rng: Any) -> None:
    distances, new = make_distances(n, seed), rng.sample(range(n), n)
    renamed = np.empty_like(distances)
    renamed[np.ix_(new, new)] = distances
    orders = every_order(n)
    assert designer_scores(renamed, np.array(new)[orders]) == pytest.approx(designer_scores(distances, orders))


def test_all_orders_of_seven_skills_are_ranked_at_once() -> None:
    started = time.perf_counter()
    orders, scores = ranking(make_distances(7))
    assert time.perf_counter() - started < 1.0
    assert len({tuple(order) for order in orders.tolist()}) == math.factorial(7)
    assert (np.diff(scores) <= 0).all()


@given(st.integers(2, 6), st.integers(0, 30))
def test_a_beam_that_drops_nothing_finds_the_best_order(n: int, seed: int) -> None:
    distances = make_distances(n, seed)
    best = ranking(distances)[1][0]
    assert designer_scores(distances, [beam_order(distances, width=10_000)])[0] == pytest.approx(best)
    assert designer_scores(distances, [greedy_order(distances)])[0] <= best + 1e-12


def test_the_greedy_order_goes_far_in_front_and_stays_near_at_the_back() -> None:
    points = np.array([[0.0], [1.0], [3.0], [7.0], [15.0]])
    distances = np.abs(points - points.T)
    near, spread = normalised(distances)
    order = greedy_order(distances)
    assert order[0] in np.argsort(spread)[:2]
    others = [c for c in range(5) if c != order[0]]
    assert order[-1] == min(others, key=lambda c: near[order[0], c])
    assert order[1] == max(others, key=lambda c: near[order[0], c])
    left = [c for c in others if c not in (order[1], order[-1])]
    assert order[3] == min(left, key=lambda c: near[order[1], c])


def test_many_skills_are_designed_in_a_moment() -> None:
    distances = make_distances(16)
    started = time.perf_counter()
    order = beam_order(distances)
    assert time.perf_counter() - started < 10.0
    assert sorted(order) == list(range(16))
    scores = designer_scores(distances, [order, greedy_order(distances)])
    assert scores[0] >= scores[1]


@pytest.mark.parametrize(
    ("distances", "orders", "message"),
    [
        ([[0.0]], [[0]], "one skill has no order"),
        ([[0, 0], [0, 0]], [[0, 1]], "no distance to any other"),
        ([[0, 1, 0], [1, 0, 0]], [[0, 1]], "square table"),
        ([[0, math.nan], [1, 0]], [[0, 1]], "finite"),
        ([[0, -1], [1, 0]], [[0, 1]], "not negative"),
        ([[0.1, 1], [1, 0]], [[0, 1]], "0 from a skill to itself"),
        (CIFAR5, [[0, 1, 2, 3, 4], [0, 1, 2, 3, 3]], r"\[0, 1, 2, 3, 3\] repeats or misses a skill"),
        (CIFAR5, [[0, 1, 2, 3]], "names all 5 skills once"),
        (CIFAR5, [[0, 1, 2, 3, 5]], "repeats or misses"),
        (CIFAR5, [[0, 1], [0]], "different lengths"),
    ],
)
def test_bad_input_of_the_scorer(distances: Any, orders: Any, message: str) -> None:
    with pytest.raises(CleaveError, match=message):
        designer_scores(distances, orders)


def test_too_many_skills_to_rank() -> None:
    with pytest.raises(ConfigError, match=r"8 skills .*`cleave curriculum design`"):
        ranking(make_distances(8))


STATES = {"a": np.array([[2.0, 0.0], [0.0, 0.0]]), "b": np.array([[0.0, 3.0]]), "c": np.array([[4.0, 4.0], [2.0, 2.0]])}


def test_distances_between_mean_states() -> None:
    cosine, euclidean = skill_distances(STATES, "cosine"), skill_distances(STATES, "euclidean")
    half = 1 - 1 / math.sqrt(2)
    np.testing.assert_allclose(cosine, [[0, 1, half], [1, 0, half], [half, half, 0]], atol=1e-12)
    root = math.sqrt(13)
    np.testing.assert_allclose(euclidean, [[0, math.sqrt(10), root], [math.sqrt(10), 0, 3], [root, 3, 0]], atol=1e-12)
    longer = {name: 5 * each for name, each in STATES.items()}
    np.testing.assert_allclose(skill_distances(longer, "cosine"), cosine, atol=1e-12)
    np.testing.assert_allclose(skill_distances(longer, "euclidean"), 5 * euclidean, atol=1e-12)


@needs_pot
def test_transport_moves_sets_of_states() -> None:
    moved = {"a": np.array([[0.0, 0.0], [1.0, 0.0]]), "b": np.array([[1.0, 2.0], [0.0, 2.0]]), "c": np.array([[0.5, 9.0]])}
    table = skill_distances(moved, "transport")
    assert table[0, 1] == pytest.approx(2.0)  # each state goes straight up
    assert table[0, 2] == pytest.approx(math.hypot(0.5, 9.0))
    np.testing.assert_allclose(table, table.T)


@pytest.mark.skipif(importlib.util.find_spec("ot") is not None, reason="POT is installed")
def test_transport_without_its_package_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match="pip install"):
        skill_distances(STATES, "transport")


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"a": STATES["a"]}, "one skill has no order"),
        ({**STATES, "d": np.zeros((0, 2))}, "'d' has no examples"),
        ({**STATES, "d": STATES["b"].repeat(3, axis=0)}, "'b' and 'd' look the same"),
        ({**STATES, "d": np.full((2, 2), np.inf)}, "not all finite"),
        ({**STATES, "d": np.zeros((2, 2))}, "has no direction"),
    ],
)
def test_skills_that_cannot_be_told_apart(states: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        skill_distances(states, "cosine")


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


def make_examples(count: int) -> list[Example]:
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(count):
        size, start = int(rng.integers(4, 40)), int(rng.integers(2, 4))
        examples.append(Example(tuple(rng.integers(2, 200, size).tolist()), tuple(k >= start for k in range(size))))
    return examples


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_states_are_those_of_each_example_alone(model: Any, layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cleave.curriculum.prototypes._BATCH_TOKENS", 100)
    examples = make_examples(12)
    with torch.no_grad():
        alone = [model(torch.tensor([each.input_ids]), output_hidden_states=True).hidden_states[layer][0] for each in examples]
    starts = [each.loss_mask.index(True) for each in examples]
    expected = {
        "mean": [states.mean(0) for states in alone],
        "prompt": [states[:start].mean(0) for states, start in zip(alone, starts, strict=True)],
        "last": [states[start - 1] for states, start in zip(alone, starts, strict=True)],
    }
    for pooling, states in expected.items():
        found = hidden_states(model, examples, layer=layer, pooling=pooling)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, torch.stack(states).numpy(), atol=1e-5)


def test_no_examples_no_states_and_no_such_layer(model: Any) -> None:
    assert hidden_states(model, []).shape == (0, 32)
    with pytest.raises(ConfigError, match="no layer 3; choose one from 0"):
        hidden_states(model, make_examples(1), layer=3)


def make_config(folder: Path, tiny_model_dir: Path, **changes: Any) -> DistillConfig:
    """Five skills of the reference tasks, seen by a tiny random model."""
    data: dict[str, Any] = {
        "name": "tiny",
        "role": "decomposer",
        "tasks": ["lookup", "reading", *({"task": "arithmetic", "label": f"depth{k}", "dials": {"depths": [k]}} for k in (1, 2, 3))],
        "init": {"model": f"hf:{tiny_model_dir}"},
        "curriculum": {"designer": {"examples": 4}},
        "storage_path": str(folder),
    }
    return validate(DistillConfig, data | changes, "the test")


def test_the_commands_rank_and_design(tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(tmp_path, tiny_model_dir)
    assert rank(config, as_json=True) == 0
    ranked = json.loads(capsys.readouterr().out)
    assert ranked["skills"] == ["lookup", "reading", "depth1", "depth2", "depth3"]
    assert len(ranked["orders"]) == 120
    assert design(config, as_json=True) == 0
    designed = json.loads(capsys.readouterr().out)
    assert designed["order"] == ranked["orders"][0]["order"]
    assert designed["distances"] == ranked["distances"], "the same examples each time"
    assert {one["method"] for one in designed["found"]} == {"best of all", "greedy"}
    assert rank(config) == design(config) == 0
    shown = capsys.readouterr().out
    assert " → ".join(designed["order"]) in shown
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_the_designed_section_trains_in_that_order(tmp_path: Path, tiny_model_dir: Path) -> None:
    order = ("depth3", "lookup", "depth1", "reading", "depth2")
    section = yaml.safe_load(as_section(make_config(tmp_path, tiny_model_dir), Ranked(order, 1.0)))
    curriculum = make_config(tmp_path, tiny_model_dir, **section).curriculum
    assert curriculum is not None
    assert (curriculum.mixture, curriculum.order) == ("cumulative", order)


def test_random_weights_are_another_model(tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = []
    for random_weights in (False, True, True):
        section = {"designer": {"examples": 4, "random_weights": random_weights}}
        design(make_config(tmp_path, tiny_model_dir, curriculum=section, seed=7), as_json=True)
        tables.append(json.loads(capsys.readouterr().out)["distances"])
    assert tables[0] != tables[1]
    assert tables[1] == tables[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["lookup"]}, "'lookup' is the only skill"),
        ({"init": {"fresh": {}}}, "curriculum.designer.model"),
        ({"curriculum": {"designer": {"model": "openai:m@http://x/v1"}}}, "does not show its hidden states"),
        ({"curriculum": {"skills": "depth"}, "tasks": ["arithmetic", "lookup", "reading"]}, "too many orders to rank"),
        ({"curriculum": {"designer": {"layer": 9, "examples": 2}}}, "no layer 9"),
    ],
)
def test_mistakes_have_a_remedy(tmp_path: Path, tiny_model_dir: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CleaveError, match=message):
        rank(make_config(tmp_path, tiny_model_dir, **changes))


def test_a_dry_run_checks_everything_and_shows_no_order(tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert design(make_config(tmp_path, tiny_model_dir), dry_run=True) == 0
    out, err = capsys.readouterr()
    assert "5 skills: lookup, reading" in err
    assert not out
    with pytest.raises(ConfigError, match="no checkpoint folder /no/such/folder"):
        design(make_config(tmp_path, tiny_model_dir, curriculum={"designer": {"model": "hf:/no/such/folder"}}), dry_run=True)
