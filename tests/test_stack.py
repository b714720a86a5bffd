"""Collections that are larger than memory: the same problems as from memory, window by window, from a file that is made once."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cleave import problem_file
from cleave.collection import Collection
from cleave.config.screening import CollectionConfig
from cleave.errors import DataError, StorageError
from cleave.problem_file import ProblemFile, write_problems
from cleave.runs import RunFolder
from cleave.tasks.reference.task import reference_task
from cleave.traces import ScoredTrace
from cleave.types import Plan, Problem, Solution, SolutionStep, Step, Trace
from pipelines import sources
from pipelines.screened import Shelves, collected
from pipelines.skills import part_of
from pipelines.sources import Supply

COUNT = 40
WINDOW = 5
TASK = reference_task("lookup")


def row(index: int, answer: str = "4") -> ScoredTrace:
    problem = Problem(f"p{index}", f"What is 2 + 2, for the {index}th time?", answer="4", task="lookup", depth=index % 2)
    plan = Plan((Step(1, "What is two and two?"),))
    solution = Solution((SolutionStep(1, f"2 + 2 = {answer}", answer),), answer, f"1. 2 + 2 = {answer}")
    return ScoredTrace("teacher", "lookup", index, Trace(problem, "static", plans=(plan,), solutions=(solution,), answer=answer))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A collection; every fifth answer is wrong."""
    there = Collection(RunFolder.open(str(tmp_path), "teacher"))
    there.write(there.register({"teacher": "known"}), "rows", [row(k, "5" if k % 5 == 0 else "4") for k in range(COUNT)])
    return tmp_path / "teacher"


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (problem_file, sources):
        monkeypatch.setattr(module, "GROUP", 2)


def taken(path: Path, **changes: Any) -> Shelves:
    return collected(CollectionConfig.model_validate({"path": str(path), "held_out": 0.2} | changes), "lookup", TASK)


def windows(supply: Supply, epoch: int = 0) -> list[list[Problem]]:
    indices = range(epoch * supply.windows, (epoch + 1) * supply.windows)
    return [list(supply.problems(index, random.Random(index))) for index in indices]


def ids(parts: Iterable[Iterable[Problem]]) -> list[str]:
    return sorted(problem.id for part in parts for problem in part)


def test_an_epoch_is_every_problem_once_in_windows_that_fit(path: Path) -> None:
    whole, stacked = taken(path), taken(path, max_in_memory=WINDOW)
    assert stacked.counts == whole.counts
    epochs = [windows(stacked.trained, epoch) for epoch in range(2)]
    for epoch in epochs:
        assert len(epoch) > 3
        assert max(map(len, epoch)) <= WINDOW
        assert ids(epoch) == ids(windows(whole.trained))
    assert epochs[0] != epochs[1], "each epoch has an order of its own"
    assert windows(stacked.trained) == epochs[0], "the same index gives the same problems"


def test_what_is_held_out_is_the_same(path: Path) -> None:
    whole, stacked = taken(path, max_in_memory=COUNT), taken(path, max_in_memory=16)
    assert whole.held_out is not None
    assert stacked.held_out is not None
    assert ids(windows(stacked.held_out)) == ids(windows(whole.held_out))
    assert not set(ids(windows(stacked.trained))) & set(ids(windows(stacked.held_out)))


def test_a_skill_is_its_part_of_every_window(path: Path) -> None:
    odd = part_of(taken(path, max_in_memory=WINDOW).trained, "depth", 1)
    expected = [problem.id for problem in taken(path).trained.problems(0, random.Random(0)) if problem.depth == 1]
    assert ids(windows(odd)) == sorted(expected)


def test_the_file_is_made_once_and_anew_for_other_rules_or_traces(path: Path) -> None:
    first = taken(path, max_in_memory=WINDOW)
    made = sorted(path.glob("problems/*/*.parquet"))
    assert [file.name for file in made] == ["held_out.parquet", "trained.parquet"]
    before = [file.stat().st_mtime_ns for file in made]
    assert taken(path, max_in_memory=WINDOW + 1).counts == first.counts
    assert [file.stat().st_mtime_ns for file in made] == before
    assert taken(path, max_in_memory=WINDOW, keep="all").counts.kept == COUNT > first.counts.kept
    assert len(list(path.glob("problems/*"))) == 2
    there = Collection(RunFolder.at(str(path)))
    there.write(there.only_recipe(), "more", [row(COUNT + 1)])
    assert taken(path, max_in_memory=WINDOW).counts.kept == first.counts.kept + 1


def test_a_stop_while_the_file_is_made_leaves_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(problem: Problem) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(problem_file, "to_dict", stop)
        with pytest.raises(KeyboardInterrupt):
            taken(path, max_in_memory=WINDOW)
    assert not [file for file in path.glob("problems/**/*") if file.is_file()]
    assert taken(path, max_in_memory=WINDOW).trained.windows > 1


def test_nothing_kept_is_said_as_before(path: Path) -> None:
    with pytest.raises(DataError, match="has no traces of chess"):
        collected(CollectionConfig(path=str(path), max_in_memory=WINDOW), "chess", TASK)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = RunFolder.open(str(tmp_path), "c")
    problem = Problem("p", "lone \ud800 surrogate", answer="4")
    write_problems(folder, "problems.parquet", [problem], dict)
    assert ProblemFile(folder, "problems.parquet").group(0) == [problem]
    (tmp_path / "c" / "problems.parquet").write_bytes(b"not Parquet")
    with pytest.raises(StorageError, match=r"problems\.parquet"):
        ProblemFile(folder, "problems.parquet")
