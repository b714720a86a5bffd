"""`cleave tasks list | show | export`: what is printed, what is written, and what a wrong request says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cleave.errors import ConfigError, StorageError
from cleave.tasks.listing import export, list_tasks, print_list, print_show
from cleave.tasks.registry import REFERENCE, get_task, names
from cleave.types import Problem, from_json


def test_list_names_every_task(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLEAVE_DATA", raising=False)
    print_list()
    shown = capsys.readouterr().out
    assert all(name in shown for name in names())
    print_list(as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == json.loads(json.dumps(list_tasks()))
    available = {row["name"]: row["available"] for row in rows}
    assert available == {name: name in REFERENCE for name in names()}


def test_list_finds_the_bbh_tasks_that_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bbh").mkdir()
    (tmp_path / "bbh" / "dates.json").write_text("{}")
    monkeypatch.setenv("CLEAVE_DATA", str(tmp_path))
    available = {row["name"]: row["available"] for row in list_tasks()}
    assert available["bbh:dates"]
    assert not available["svamp"]


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    print_show("arithmetic", split="test", limit=2)
    shown = capsys.readouterr().out
    first, second = get_task("arithmetic").problems("test", 2)
    for problem in (first, second):
        assert problem.question in shown
        assert f"answer: {problem.answer}" in shown
    assert first.gold_plan is not None
    assert first.gold_plan.steps[0].question in shown
    print_show("arithmetic", split="test", limit=2, as_json=True)
    assert [from_json(Problem, line) for line in capsys.readouterr().out.splitlines()] == [first, second]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["arithmetic", "lookup", "reading"])
def test_exported_problems_come_back_whole(tmp_path: Path, name: str, suffix: str) -> None:
    file = tmp_path / f"problems.{suffix}"
    assert export(name, file, split="test", limit=40, seed=3) == 40
    back = get_task(f"{suffix}:{file}").problems("all")
    assert [replace(problem, task=name) for problem in back] == list(get_task(name).problems("test", 40, 3))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_export_refuses_what_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"name it \.jsonl or \.parquet"):
        export("arithmetic", tmp_path / "problems.csv", limit=1)
    with pytest.raises(ConfigError, match="has no end"):
        export("arithmetic", tmp_path / "problems.jsonl")
    with pytest.raises(ConfigError, match="no split"):
        export("arithmetic", tmp_path / "problems.jsonl", split="nowhere", limit=1)
    with pytest.raises(StorageError, match="choose another place"):
        export("arithmetic", tmp_path / "no" / "such" / "problems.jsonl", limit=1)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    source, target = tmp_path / "bad.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"question": "a", "answer": "1"}\nnonsense\n')
    target.write_text("old")
    with pytest.raises(Exception, match="line 2"):
        export(f"jsonl:{source}", target)
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "out.jsonl"]
