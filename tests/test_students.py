"""Several students in one job: what they share, in which order they train, what a failure of one means to the others."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cleave.config.base import validate
from cleave.config.distill import DistillConfig
from cleave.config.students import StudentsConfig, load_distill
from cleave.errors import ConfigError, TrainingError
from pipelines import distill, students
from pipelines.students import main
from tests.test_distill import SHAPE

TRAIN = {"max_steps": 2, "per_device_train_batch_tokens": 200, "gradient_accumulation_steps": 1, "logging_steps": 1}


def job(folder: Path, **changes: Any) -> StudentsConfig:
    data: dict[str, Any] = {
        "name": "both",
        "storage_path": str(folder),
        "distill": {"tasks": ["lookup"], "init": {"fresh": SHAPE}, "train": TRAIN, "evaluation": {"examples": 0}},
        "students": {"decomposer": {"role": "decomposer"}, "solver": {"role": "solver", "train": {"max_steps": 3}}},
    }
    return validate(StudentsConfig, data | changes, "the test")


def test_a_student_is_what_all_share_and_what_it_adds(tmp_path: Path) -> None:
    config = job(tmp_path)
    decomposer, solver = config.student("decomposer"), config.student("solver")
    assert (decomposer.role, decomposer.train.max_steps) == ("decomposer", 2)
    assert (solver.role, solver.train.max_steps) == ("solver", 3)
    assert solver.train.per_device_train_batch_tokens == decomposer.train.per_device_train_batch_tokens == 200
    assert solver.storage_path == f"{tmp_path}/both"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"students": {"solver": {"role": "solver", "trian": {}}}}, r"students\.solver\.trian"),
        ({"students": {"a/b": {"role": "solver"}}}, r"students\.a/b\.name"),
        ({"students": {}}, "at least 1"),
        ({"students": {"a": {"role": "solver"}, "b": {"role": "solver", "backend": "ray"}}}, "set one backend"),
        ({"students": {name: {"role": "solver", "output_dir": "out"} for name in "ab"}}, "the same output_dir"),
        ({"studens": {}}, "did you mean 'students'"),
    ],
)
def test_mistakes_name_the_student(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job(tmp_path, **changes)


def test_a_file_is_read_as_what_it_is(tmp_path: Path) -> None:
    several, one = job(tmp_path), job(tmp_path).student("solver")
    for name, config in (("several", several), ("one", one)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert isinstance(load_distill(tmp_path / "one.yaml"), DistillConfig)
    changed = load_distill(tmp_path / "several.yaml", ["students.solver.seed=7", "max_concurrent=1"])
    assert isinstance(changed, StudentsConfig)
    assert changed.student("solver").seed == 7


def test_students_train_one_after_another_and_only_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = job(tmp_path)
    assert main(config, dry_run=True) == 0
    assert not (tmp_path / "both").exists()
    capsys.readouterr()
    assert main(config, as_json=True) == 0
    results = json.loads(capsys.readouterr().out)
    assert {name: result["steps"] for name, result in results.items()} == {"decomposer": 2, "solver": 3}
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "both").rglob("*.safetensors"))]
    assert main(config, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == results
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "both").rglob("*.safetensors"))] == times


def test_all_students_are_checked_before_the_first_starts(tmp_path: Path) -> None:
    students = {"good": {"role": "solver"}, "bad": {"role": "solver", "tasks": ["no-such-task"]}}
    with pytest.raises(ConfigError, match="no-such-task"):
        main(job(tmp_path, students=students))
    assert not (tmp_path / "both").exists()


def test_a_student_that_stops_stops_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def stopped(config: DistillConfig, **options: Any) -> int:
        trained.append(config.name)
        return 130

    monkeypatch.setattr(distill, "main", stopped)
    assert main(job(tmp_path)) == 130
    assert trained == ["decomposer"]


def test_inline_students_train_before_those_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    inline, on_ray = (job(tmp_path, distill=job(tmp_path).distill | {"backend": backend}) for backend in ("inline", "ray"))
    monkeypatch.setattr(students, "one_after_another", lambda some: trained.append([student.backend for student in some]))
    monkeypatch.setattr(students, "at_the_same_time", lambda some, most: trained.append(([student.backend for student in some], most)))
    students.train([on_ray.student("solver"), inline.student("solver"), on_ray.student("decomposer")], 3)
    assert trained == [["inline"], (["ray", "ray"], 3)]
    trained.clear()
    students.train([inline.student("solver")])
    assert trained == [["inline"]], "no cluster is wanted for that"


@pytest.mark.ray
@pytest.mark.slow
def test_students_train_at_the_same_time_and_one_that_fails_does_not_stop_the_other(tmp_path: Path, ray_session: None) -> None:
    config = job(tmp_path)
    options = {"backend": "ray", "resources_per_worker": {"CPU": 1}}
    bad = {"role": "solver", "train": {"learning_rate": 1e30, "max_steps": 6}}
    several = job(tmp_path, distill=config.distill | options, students={"bad": bad, "good": {"role": "decomposer"}})
    with pytest.raises(TrainingError, match="is not finite"):
        main(several)
    folder = tmp_path / "both"
    assert json.loads((folder / "good" / "result.json").read_text())["steps"] == 2
    assert not (folder / "bad" / "result.json").exists()
    firsts = [json.loads((folder / name / "metrics.jsonl").read_text().splitlines()[0])["time"] for name in ("bad", "good")]
    created = [(folder / name / "config.yaml").stat().st_mtime for name in ("bad", "good")]
    assert max(created) < min(firsts), "neither waited for the other"
