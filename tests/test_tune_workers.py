"""Trials on several workers: what is refused, how many fit, and on a cluster of their own the figures of plain trials and a tidy end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cleave.config.tune import DRIVER, CurriculumSearchConfig
from cleave.demands import demands_of, shortages
from cleave.errors import ConfigError
from cleave.runs import RunFolder
from tests.test_tune import DISTILL, ORDER, SKILLS, make_candidate, make_search, make_trial
from tests.test_tune_ray import ROOT, make_round
from tune.candidates import note_trial, trial_folder
from tune.outcome import Outcome
from tune.placement import check_placement, places_left, planned, room, slots
from tune.prefixes import ending, shared_ends
from tune.rounds import key_of
from tune.search import scheduler_of
from tune.search_folder import check_same
from tune.space import Space
from tune.trial import run_trial
from tune.workers import sweep

ON_TWO = DISTILL | {"backend": "ray", "num_workers": 2}
LIKE_TWO = DISTILL["train"] | {"gradient_accumulation_steps": 2}
"""What one worker does for a step of two."""
PATIENCE_S = 1500
"""A trial takes a minute or two, on a busy machine many."""


# Configs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": DISTILL | {"backend": "ray"}}, "remove distill.backend, or set num_workers above 1"),
        ({"distill": ON_TWO | {"num_workers": [1, 2]}}, "a fixed number"),
        ({"distill": ON_TWO, "resources_per_trial": {"CPU": 2}}, "set distill.resources_per_worker"),
        ({"distill": ON_TWO, "space": {"num_workers": [2, 4]}}, "move num_workers from space to distill"),
        ({"distill": ON_TWO, "space": {"resources_per_worker.CPU": [1, 2]}}, "move resources_per_worker.CPU"),
    ],
)
def test_mistakes_name_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_search(**changes)


def test_workers_may_have_other_resources_when_a_search_goes_on(tmp_path: Path) -> None:
    before, after = (make_search(tmp_path, distill=ON_TWO | {"resources_per_worker": {"CPU": cpus}}) for cpus in (1, 0.5))
    folder = RunFolder.open(str(tmp_path), "search")
    folder.write_text("config.yaml", json.dumps(before.model_dump(mode="json")))
    check_same(after, folder)
    point = {ORDER: SKILLS}
    assert key_of(before, point) == key_of(after, point)
    assert key_of(before, point) != key_of(make_search(), point)
    with pytest.raises(ConfigError, match=r"distill\.num_workers=2, not 4"):
        check_same(make_search(tmp_path, distill=ON_TWO | {"num_workers": 4}), folder)


def test_stages_end_where_the_workers_steps_say(tmp_path: Path) -> None:
    alone, two = make_trial(tmp_path, "a", SKILLS, train=LIKE_TWO), make_trial(tmp_path, "b", SKILLS, backend="ray", num_workers=2)
    [end] = shared_ends(two)
    total = 9 * 800
    for tokens in range(0, total, 100):
        assert ending(alone, tokens) == ending(two, tokens) == ([0] if tokens < end * total <= tokens + 800 + 512 else [])


def test_asha_counts_the_steps_of_all_workers(tmp_path: Path) -> None:
    train = {key: value for key, value in DISTILL["train"].items() if key != "max_steps"} | {"max_tokens": 8000}
    config = make_search(tmp_path, distill=ON_TWO | {"train": train}, scheduler={"grace_period": 9})
    with pytest.raises(ConfigError, match="a trial has 10 steps, so none"):
        scheduler_of(
            make_search(scheduler={"grace_period": 10}).scheduler,  # type: ignore[arg-type]
            make_round(config, RunFolder.open(str(tmp_path), "search")),
        )


# Placement


def node(**resources: float) -> dict[str, float]:
    return resources


@pytest.mark.parametrize(
    ("nodes", "workers", "each", "fit"),
    [
        ([node(CPU=4)], 2, {"CPU": 1}, 1),  # two would leave nothing for their drivers
        ([node(CPU=4)], 2, {"CPU": 0.9}, 2),
        ([node(CPU=2)], 2, {"CPU": 1}, 0),
        ([node(CPU=2.1)], 2, {"CPU": 1}, 1),
        ([node(CPU=2), node(CPU=2)], 2, {"CPU": 1}, 1),
        ([node(CPU=1.5), node(CPU=1.5)], 2, {"CPU": 1}, 1),
        ([node(CPU=1.5), node(CPU=1.5)], 2, {"CPU": 0.7}, 1),  # both drivers may be on one node, and leave it one place
        ([node(CPU=1.6), node(CPU=1.6)], 2, {"CPU": 0.7}, 2),
        ([node(CPU=8, GPU=4)], 2, {"GPU": 1}, 2),
        ([node(CPU=0.5), node(GPU=8)], 2, {"GPU": 1}, 4),
        ([node(CPU=0.2), node(GPU=8)], 2, {"GPU": 1}, 2),  # the drivers' CPUs are what is scarce
        ([node(GPU=8)], 2, {"GPU": 1}, 0),
    ],
)
def test_trials_fit_wherever_their_drivers_are(nodes: Any, workers: int, each: dict[str, float], fit: int) -> None:
    config = make_search(distill=ON_TWO | {"num_workers": workers, "resources_per_worker": each})
    assert room(config, nodes) == fit


def test_drivers_are_where_they_are_most_in_the_way() -> None:
    nodes = [node(CPU=2.0), node(CPU=1.95), node(CPU=0.3)]
    assert places_left(nodes, {"CPU": 0.65}, 2) == [6, 5, 4], "the second node loses a place at once, and so does the first"
    assert places_left([node(CPU=1.0)], {"CPU": 0.1}, 3) == [10, 9, 8, 7]


def test_what_cannot_be_placed_is_refused_with_the_remedy() -> None:
    config = make_search(distill=ON_TWO, max_concurrent_trials=2)
    with pytest.raises(ConfigError) as refused:
        slots(config, [node(CPU=4)])
    assert str(refused.value) == (
        "2 trials at a time need 4 workers with 1 CPU each, and 0.1 CPU for each trial's driver, the cluster has 4 CPU free and room for "
        "1 of them; set max_concurrent_trials=1, or distill.resources_per_worker.CPU=0.95, or add nodes."
    )
    assert room(make_search(distill=ON_TWO | {"resources_per_worker": {"CPU": 0.95}}), [node(CPU=4)]) == 2
    with pytest.raises(ConfigError, match=r"need 2 workers .* room for 0 of them; set distill\.resources_per_worker\.CPU=0\.95, or"):
        slots(make_search(distill=ON_TWO), [node(CPU=2)])


@pytest.mark.ray
def test_without_a_dashboard_such_trials_are_refused(ray_session: None) -> None:
    with pytest.raises(ConfigError, match=r"hangs \(there is none.*--include-dashboard=true\), or remove distill\.backend"):
        check_placement(make_search(distill=ON_TWO))


def test_a_plan_says_how_many_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.placement.ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("tune.placement.this_machine", lambda: node(CPU=8))
    assert planned(make_search()) == "8 trials at a time"
    assert planned(make_search(distill=ON_TWO)) == "3 trials at a time"
    assert planned(make_search(distill=ON_TWO, max_concurrent_trials=1)) == "1 trial at a time"
    refused = planned(make_search(distill=ON_TWO | {"resources_per_worker": {"CPU": 8}}))
    assert refused.startswith("here they would be refused: 1 trials at a time need 2 workers with 8 CPU each")


def test_the_doctor_knows_what_such_a_search_needs() -> None:
    config = make_search(distill=ON_TWO, max_concurrent_trials=2)
    assert [str(one) for one in demands_of(config)["search"]] == ["4 workers with 1 CPU each", "2 drivers of trials with 0.1 CPU each"]
    assert not shortages(demands_of(config), [node(CPU=4 + 2 * DRIVER["CPU"])])
    assert [one.demand.what for one in shortages(demands_of(config), [node(CPU=4)])] == ["drivers of trials"]


def test_only_what_ended_is_swept(tmp_path: Path) -> None:
    for name in ("ended", "goes on"):
        (tmp_path / name / "ray" / "checkpoint").mkdir(parents=True)
    (tmp_path / "ended" / "outcome.json").write_text("{}")
    sweep(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/ray")) == ["goes on/ray"]


# On a cluster with a dashboard, in a process of its own

SEARCH = """
import json, sys, time
import ray
from ray._private.worker import get_dashboard_url
from ray.util import placement_group_table
from ray.util.state import list_actors
from cleave.config.base import load
from cleave.config.tune import CurriculumSearchConfig
from tune.curriculum import main

ray.init(address="local", num_cpus=3, include_dashboard=True, log_to_driver=False, object_store_memory=200 * 2**20, _temp_dir=sys.argv[2])
code = main(load(CurriculumSearchConfig, sys.argv[1]))
dashboard, until = f"http://{get_dashboard_url()}", time.monotonic() + 30
while True:
    alive = [actor.class_name for actor in list_actors(address=dashboard, filters=[("state", "!=", "DEAD")])]
    alive.remove("_AutoscalingCoordinatorActor")  # Ray's own, one for all runs
    groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    if not (alive or groups) or time.monotonic() > until:
        break
    time.sleep(0.2)
ray.shutdown()
print(json.dumps({"code": code, "alive": alive, "groups": len(groups)}))
"""


def start(config: CurriculumSearchConfig, temporary: Path) -> subprocess.Popen[str]:
    """A search on a small cluster, whose processes are a group."""
    file = Path(config.storage_path) / "search.yaml"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    names = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "RAY_DASHBOARD_STARTUP_TIMEOUT_S")
    patient = dict.fromkeys(names, "900")  # on a busy machine a second try is no faster
    command, environment = [sys.executable, "-c", SEARCH, str(file), str(temporary)], os.environ | patient | {"PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def search(config: CurriculumSearchConfig, temporary: Path) -> dict[str, Any]:
    """Run a search to its end; what is left of it."""
    process = start(config, temporary)
    try:
        out, said = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(end(process)[-3000:]) from None
    assert process.returncode == 0, said[-3000:]
    left: dict[str, Any] = json.loads(out.splitlines()[-1])
    return left


def end(process: subprocess.Popen[str]) -> str:
    """Kill a search with its cluster, unless it has ended; what it said."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[1]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(2.5 * PATIENCE_S)
def test_trials_of_two_workers_end_where_plain_ones_do(tmp_path: Path, short_tmp: Path) -> None:
    """The second order begins with the stage that the first one trained, is killed with the whole search, and goes on."""
    orders = [("two", "one", "three"), ("two", "three", "one")]
    options: dict[str, Any] = {"searcher": "grid", "num_samples": None, "max_concurrent_trials": 1}
    config = make_search(tmp_path, distill=ON_TWO | {"train": DISTILL["train"] | {"save_steps": 4}}, space={ORDER: orders}, **options)
    first, second = (tmp_path / "search" / "trials" / f"{key_of(config, {ORDER: order})}-seed0" for order in orders)
    process, until = start(config, short_tmp / "killed"), time.monotonic() + PATIENCE_S
    while not list(second.glob("ray/**/checkpoint-4/cleave_state.json")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    said = end(process)
    assert (first / "outcome.json").exists(), said[-3000:]
    assert (second / "trainer" / "checkpoint-2").exists(), "it began where the first one parted"
    assert not (second / "outcome.json").exists()
    assert search(config, short_tmp / "again") == {"code": 0, "alive": [], "groups": 0}
    for order in orders:
        plain = run_trial(make_trial(tmp_path / "plain", "-".join(order), order, train=LIKE_TWO), lambda figures: None)
        folder = trial_folder(RunFolder.open(str(tmp_path), "search"), key_of(config, {ORDER: order}), 0)
        outcome = Outcome.read(folder)
        assert outcome is not None
        assert outcome.values == pytest.approx(plain.values, abs=1e-5)
        rows = [json.loads(line) for line in folder.read_text("metrics.jsonl").splitlines()]
        assert [row["step"] for row in rows if "tokens" in row] == list(range(1, 10))
        assert not folder.exists("ray")
        assert not folder.exists("trainer")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1.5 * PATIENCE_S)
def test_a_trial_that_is_ended_early_leaves_no_actor(tmp_path: Path, short_tmp: Path) -> None:
    """A good candidate is known from before, so the other one ends at its first look, with almost all of its training before it."""
    train = DISTILL["train"] | {"max_steps": 100_000}
    options: dict[str, Any] = {"searcher": "grid", "num_samples": None, "scheduler": {"grace_period": 2}}
    distill, space = ON_TWO | {"tasks": DISTILL["tasks"][:2], "train": train}, {"train.learning_rate": [1e-3, 1e-12]}
    config = make_search(tmp_path, distill=distill, space=space, **options)
    folder, (good, poor) = RunFolder.open(str(tmp_path), "search"), Space(config.domains).grid()
    folder.prepare()
    key = key_of(config, good)
    note_trial(folder, key, 0, 0, good, {})
    known = trial_folder(folder, key, 0)
    known.write_lines("metrics.jsonl", [{"step": step, "eval_loss": 0.1} for step in (2, 4, 8)])
    make_candidate(key, 0, {0: 0.1}).outcomes[0].write(known)
    assert search(config, short_tmp / "ended") == {"code": 0, "alive": [], "groups": 0}
    ended = trial_folder(folder, key_of(config, poor), 0)
    outcome = Outcome.read(ended)
    assert outcome is not None
    assert outcome.status == "pruned"
    assert 2 <= outcome.values["step"] < 1000
    assert not ended.exists("ray")
