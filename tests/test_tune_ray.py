"""Searches on Ray Tune: from the config to the best candidate, going on after an interruption, trials that die, what cannot be placed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cleave.config.base import load, validate
from cleave.config.distill import DistillConfig
from cleave.config.tune import ORDER, AshaConfig, CurriculumSearchConfig
from cleave.errors import ConfigError
from cleave.runs import RunFolder
from tests.test_tune import DISTILL, make_candidate, make_search
from tune.candidates import read_candidates
from tune.curriculum import main
from tune.outcome import Outcome
from tune.placement import check_placement
from tune.rounds import key_of, round_of
from tune.search import Round, run_round, scheduler_of, tell_scheduler
from tune.space import Space

ROOT = Path(__file__).resolve().parents[1]
PAIR = DISTILL | {"tasks": DISTILL["tasks"][:2], "train": DISTILL["train"] | {"max_steps": 4}}


def outcomes(folder: Path) -> dict[str, float]:
    """When each trial's outcome was written."""
    return {path.parent.name: path.stat().st_mtime for path in folder.glob("trials/*/outcome.json")}


@pytest.mark.ray
def test_a_search_from_its_config_to_the_best_one(tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    space = {ORDER: {"permutations": []}, "train.learning_rate": [1e30, 1e-3]}
    config = make_search(tmp_path, distill=PAIR, space=space, searcher="grid", num_samples=None, max_concurrent_trials=1)
    assert main(config, as_json=True) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trials"] == {"finished": 2, "pruned": 0, "failed": 2}
    assert result["best"]["point"]["train.learning_rate"] == 1e-3
    folder = tmp_path / "search"
    best = load(DistillConfig, folder / "best.yaml")
    assert (best.name, best.train.learning_rate) == ("search-best", 1e-3)
    assert list(best.curriculum.order) == result["best"]["point"][ORDER]  # type: ignore[union-attr]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["failed", "finished", "failed", "finished"], "the search goes on after a failure"
    assert all(("not finite" in row["reason"]) == (row["status"] == "failed") for row in rows)


@pytest.mark.ray
@pytest.mark.slow
def test_leaders_get_another_seed_and_what_is_lost_is_trained_again(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"searcher": "grid", "num_samples": None, "seeds": [0, 1], "leaders": [1], "max_concurrent_trials": 1}
    config = make_search(tmp_path, distill=PAIR, **options)
    assert main(config, as_json=True) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trials"] == {"finished": 3, "pruned": 0, "failed": 0}
    assert set(result["best"]["by_seed"]) == {"0", "1"}
    folder = tmp_path / "search"
    before = outcomes(folder)
    lost = f"{result['best']['key']}-seed1"
    (folder / "result.json").unlink()
    (folder / "trials" / lost / "outcome.json").unlink()
    assert main(config, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == result
    after = outcomes(folder)
    assert [name for name in after if after[name] != before[name]] == [lost]


@pytest.mark.ray
def test_what_cannot_be_placed_is_refused(tmp_path: Path, ray_session: None) -> None:
    assert check_placement(make_search(resources_per_trial={"CPU": 2})) == 2
    with pytest.raises(ConfigError, match=r"room for 4 of them; set max_concurrent_trials=4, or resources_per_trial\.CPU=0\.5"):
        check_placement(make_search(max_concurrent_trials=8))
    with pytest.raises(ConfigError, match=r"room for 0 of them; set resources_per_trial\.GPU=0"):
        main(make_search(tmp_path, resources_per_trial={"CPU": 1, "GPU": 1}))


@pytest.mark.ray
def test_a_search_that_runs_out_of_time_is_not_finished(tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_search(tmp_path, distill=PAIR, time_budget_s=1e-6)
    assert main(config) == 0
    assert "run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "search" / "result.json").exists()
    assert not outcomes(tmp_path / "search")


def make_round(config: CurriculumSearchConfig, folder: RunFolder, **changes: Any) -> Round:
    this = round_of(config, folder, 0, [])
    return Round(**{name: getattr(this, name) for name in this.__dataclass_fields__} | changes)


def test_asha_knows_what_was_measured_before(tmp_path: Path) -> None:
    """Of two known curves the better one sets the mark that a new trial has to reach."""
    folder = RunFolder.open(str(tmp_path), "search")
    scheduler = scheduler_of(AshaConfig(grace_period=2), make_round(make_search(tmp_path), folder))
    for name, loss in (("a", 1.0), ("b", 2.0)):
        tell_scheduler(scheduler, name, [{"step": step, "loss": loss} for step in (2, 4, 8)])
    for name, loss, decision in (("good", 0.9, "CONTINUE"), ("poor", 2.5, "STOP")):
        trial: Any = type("Trial", (), {"trial_id": name})
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {"step": 2, "loss": loss}) == decision
    with pytest.raises(ConfigError, match="9 steps, so none would be ended early"):
        scheduler_of(AshaConfig(grace_period=9), make_round(make_search(tmp_path), folder))


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_whose_process_dies_starts_again_and_the_search_goes_on(tmp_path: Path, ray_session: None) -> None:
    config = make_search(tmp_path, distill=PAIR, searcher="grid", num_samples=None)
    folder = RunFolder.open(str(tmp_path), "search")
    folder.prepare()
    driver, marks = os.getpid(), tmp_path / "marks"
    marks.mkdir()

    def build(point: dict[str, Any], seed: int, name: str, place: str) -> DistillConfig:
        """Dies in the trial's process: once for one order, always for the other."""
        mark = marks / point[ORDER][0]
        if os.getpid() != driver and not (mark.exists() and point[ORDER][0] == "one"):
            mark.touch()
            os._exit(1)
        return config.trial(point, seed, name, place)

    run_round(make_round(config, folder, build=build), slots=1, seconds=None, scheduled=False)
    found = {candidate.point[ORDER][0]: candidate.outcomes[0] for candidate in read_candidates(folder)}
    assert {order: outcome.status for order, outcome in found.items()} == {"one": "finished", "two": "failed"}
    assert found["two"].reason


@pytest.mark.ray
@pytest.mark.slow
def test_optuna_learns_from_what_is_known_and_asha_ends_trials(tmp_path: Path, ray_session: None) -> None:
    space = {ORDER: {"permutations": []}, "train.learning_rate": {"log_uniform": [1e-5, 1e-2]}}
    options = {"searcher": "optuna", "num_samples": 5, "max_concurrent_trials": 1, "scheduler": {"grace_period": 2}}
    config = make_search(tmp_path, distill=PAIR | {"train": PAIR["train"] | {"max_steps": 8}}, space=space, **options)
    folder = RunFolder.open(str(tmp_path), "search")
    assert main(config) == 0
    result = json.loads(folder.read_text("result.json"))
    assert result["candidates"] == 5
    assert result["trials"]["pruned"] >= 1
    folder.remove(["result.json", f"trials/{result['best']['key']}-seed0"])
    assert round_of(config, folder, 0, []).samples == 1
    assert main(config) == 0
    again = read_candidates(folder)
    assert len(again) == 5
    assert all(set(candidate.given) == set(Space(config.domains).dimensions()) for candidate in again)


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    config = make_search(tmp_path, distill=PAIR, searcher="grid", num_samples=None, max_concurrent_trials=1)
    file = tmp_path / "search.yaml"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "cleave", "tune", "curriculum", str(file), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 200
        while not outcomes(tmp_path / "search") and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = outcomes(tmp_path / "search")
    assert done
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["trials"] == {"finished": 2, "pruned": 0, "failed": 0}
    after = outcomes(tmp_path / "search")
    assert {name: after[name] for name in done} == done


def test_a_failed_candidate_is_known_to_optuna_without_a_figure(tmp_path: Path) -> None:
    from tune.search import searcher_of

    config = make_search(tmp_path, searcher="optuna", num_samples=6)
    known = [make_candidate(str(k), k, {0: 1.0 + k}, **{ORDER: ("one", "two", "three")}) for k in range(3)]
    for candidate in known:
        candidate.given = Space(config.domains).encode(candidate.point)
    known[2].outcomes[0] = Outcome("failed", {}, "it diverged.")
    this = make_round(config, RunFolder.open(str(tmp_path), "search"), known=known)
    study = searcher_of(this)._ot_study
    assert [trial.value for trial in study.trials] == [1.0, 2.0, None]
    point = this.space.decode(searcher_of(this).suggest("next"))
    assert key_of(config, point)
    assert validate(CurriculumSearchConfig, config.model_dump(mode="json"), "again") == config
