"""docs/own-models.md as a user follows it: the shipped configs, changed in model names, URL, folders and sizes only."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cleave.__main__ as command_line
from cleave.lm.checkpoint import load_checkpoint
from tests.teacher import Lesson, Teacher, teaching, write_gsm8k

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "configs" / "examples"
SMALL = ("train.max_tokens=3000", "train.per_device_train_batch_tokens=1000", "evaluation.examples=4", "evaluation.generate=1")


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Lesson]]:
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEAVE_DATA", str(folder))
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield write_gsm8k(folder)


@pytest.fixture(scope="module")
def teacher(lessons: dict[str, Lesson]) -> Iterator[Teacher]:
    with teaching(lessons) as teacher:
        yield teacher


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, teacher: Teacher) -> Path:
    """Where the example's runs are, with the collection in it."""
    folder = tmp_path_factory.mktemp("runs")
    teachers = [f"roles.{role}.model.short={teacher.model}" for role in ("decomposer", "solver")]
    assert cleave("collect", "gsm8k-collect", folder, *teachers, "tasks.0.problems=30") == 0
    return folder


def cleave(command: str, config: str, folder: Path, *overrides: str) -> int:
    """`cleave COMMAND configs/examples/CONFIG.yaml storage_path=FOLDER OVERRIDES`."""
    return command_line.main([command, str(EXAMPLES / f"{config}.yaml"), f"storage_path={folder}", *overrides])


def figures(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_teacher_is_asked_and_paid(runs: Path, capsys: pytest.CaptureFixture[str], teacher: Teacher) -> None:
    asked = len(teacher.asked)
    assert asked == 30 * 2
    teachers = [f"roles.{role}.model.short={teacher.model}" for role in ("decomposer", "solver")]
    assert cleave("collect", "gsm8k-collect", runs, *teachers, "tasks.0.problems=30", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["traces"] == 30
    assert len(teacher.asked) == asked, "what is there is not asked again"


def test_a_student_with_adapters_learns_the_plans_and_is_measured(runs: Path, tiny_model_dir: Path, teacher: Teacher) -> None:
    student = (f"init.model=hf:{tiny_model_dir}", f"collection.path={runs}/gsm8k-teacher", *SMALL)
    assert cleave("distill", "gsm8k-decomposer", runs, *student) == 0
    manifest = json.loads((runs / "gsm8k-decomposer" / "manifest.json").read_text())
    assert manifest["screening"]["gsm8k"]["kept"] == 30
    checkpoint = runs / "gsm8k-decomposer" / "checkpoint"
    assert load_checkpoint(str(checkpoint)).model.num_parameters() == load_checkpoint(str(tiny_model_dir)).model.num_parameters()
    assert json.loads((checkpoint / "cleave.json").read_text())["prompts"] == "reference-v1"
    models = (f"roles.decomposer.model=hf:{checkpoint}", f"roles.solver.model.short={teacher.model}")
    assert cleave("evaluate", "gsm8k-evaluate", runs, *models, "tasks.0.problems=4", "roles.decomposer.max_tokens=8") == 0
    alone = (f"roles.decomposer.model={teacher.model}", "roles.decomposer.prompts=instruct-v1", "name=gsm8k-teacher-alone")
    assert cleave("evaluate", "gsm8k-evaluate", runs, *alone, models[1], "tasks.0.problems=4") == 0
    solved = [row for row in figures(runs / "gsm8k-teacher-alone") if row["kind"] == "accuracy" and row["by"] == "overall"]
    assert [row["accuracy"] for row in solved] == [1.0]
    assert (runs / "gsm8k-student" / "report.html").is_file()


def test_gold_plans_need_no_teacher(runs: Path, tiny_model_dir: Path, teacher: Teacher) -> None:
    asked = len(teacher.asked)
    small = [option for option in SMALL if option.startswith("train.")]
    assert cleave("distill", "gsm8k-socratic", runs, f"init.model=hf:{tiny_model_dir}", *small) == 0
    assert len(teacher.asked) == asked
    result = json.loads((runs / "gsm8k-socratic" / "result.json").read_text())
    assert result["tokens"] >= 3000
    assert load_checkpoint(result["checkpoint"])


def test_both_students_of_one_collection_in_one_job(runs: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [f"distill.{option}" for option in SMALL]
    students = (f"distill.init.model=hf:{tiny_model_dir}", f"distill.collection.path={runs}/gsm8k-teacher", *common)
    assert cleave("distill", "gsm8k-students", runs, *students, "students.solver.train.max_tokens=3000", "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["role"] for result in results.values()] == ["decomposer", "solver"]
    assert {Path(result["checkpoint"]) for result in results.values()} == {
        runs / "gsm8k-students" / name / "checkpoint" for name in ("decomposer", "solver")
    }


def test_the_walk_through_names_files_and_commands_that_exist() -> None:
    text = (ROOT / "docs" / "own-models.md").read_text(encoding="utf-8")
    named = set(re.findall(r"configs/examples/[\w.-]+\.yaml", text))
    assert {ROOT / path for path in named} == set(EXAMPLES.glob("*.yaml"))
    commands = [line.split("  #")[0] for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines() if line.strip()]
    for command in (shlex.split(command) for command in commands):
        assert command[0] in ("cleave", "export"), command
        if command[0] == "cleave":
            assert command_line.main([command[1], "--help"]) == 0
