"""Run folders and trace files: whole or not at all, on a disk or behind a URL, with failures in one sentence."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from cleave.errors import ConfigError, StorageError
from cleave.runs import RunFolder
from cleave.traces import Positions, ScoredTrace, merge, read_traces, shard_names, write_shard
from cleave.types import Failure, Plan, Problem, Solution, SolutionStep, Step, Trace, Usage


class FullDisk(MemoryFileSystem):  # type: ignore[misc]
    """Accepts folders, and runs out of space on every file but the probe."""

    protocol = "fulldisk"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "wb" and "probe" not in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super()._open(path, mode, **options)


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunFolder]:
    storage = str(tmp_path) if request.param == "disk" else f"memory://runs-{tmp_path.name}"
    found = RunFolder.open(storage, "demo")
    found.prepare()
    yield found
    MemoryFileSystem.store.clear()


def trace(index: int, text: str = "2 + 2 = 4") -> Trace:
    solution = Solution((SolutionStep(1, text, "4"),), "4", f"1. {text}\nThe answer is: 4", -0.25, Usage(1, 3, 5))
    return Trace(
        Problem(f"p{index}", "what is 2 + 2?", answer="4", skills=("add",), depth=1),
        "static",
        seed=7,
        plans=(Plan((Step(1, "2 + 2?"),)),),
        solutions=(solution,),
        answer="4",
        chosen=0,
        confidence=0.5,
        usage={"solver": Usage(1, 3, 5, 0.25, 10.0, 0.0)},
        timings={"total": 0.5},
        error=Failure("GenerationError", "half a reply", "verifier") if index % 2 else None,
    )


def rows(*indices: int, variant: str = "static") -> list[ScoredTrace]:
    return [ScoredTrace(variant, "arithmetic", i, trace(i), i % 3 == 0, True) for i in indices]


def test_text_survives_and_partial_files_do_not_appear(folder: RunFolder) -> None:
    folder.write_text("a/b.txt", "größe\n")
    assert folder.read_text("a/b.txt") == "größe\n"
    with pytest.raises(TypeError), folder.writing("a/c.txt") as stream:
        stream.write("no bytes")  # type: ignore[arg-type]
    assert folder.names("a") == ["a/b.txt"]
    assert not folder.exists("a/c.txt")
    folder.remove(["a", "missing"])
    assert folder.names("a") == []


def test_traces_come_back_as_they_went(folder: RunFolder) -> None:
    written = rows(0, 1, 2, 3)
    write_shard(folder, "000", written[:3])
    write_shard(folder, "001", written[3:])
    assert list(read_traces(folder, shard_names(folder))) == written


def test_merge_keeps_the_first_row_of_a_problem(folder: RunFolder) -> None:
    write_shard(folder, "000", rows(0, 1))
    write_shard(folder, "001", rows(1, 2) + rows(1, variant="direct"))
    assert merge(folder) == 4
    assert [(row.variant, row.index) for row in read_traces(folder)] == [("static", 0), ("static", 1), ("static", 2), ("direct", 1)]


def test_lone_surrogates_of_a_model_survive(folder: RunFolder) -> None:
    odd = ScoredTrace("static", "t", 0, trace(0, text="\ud800 2"), None, None)
    write_shard(folder, "000", [odd])
    (back,) = read_traces(folder, shard_names(folder))
    assert back.trace.solutions[0].steps[0].text == "\ud800 2"


def test_flat_columns_serve_tables(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder = RunFolder.open(str(tmp_path), "demo")
    write_shard(folder, "000", rows(0, 1))
    table = pq.read_table(tmp_path / "demo" / "shards" / "000.parquet").to_pylist()
    assert [row["outcome"] for row in table] == ["right", "wrong"]  # an answer stays one, whatever happened to the verifier
    assert table[1]["error_role"] == "verifier"
    assert table[0]["completion_tokens"] == 5


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 200))))
def test_positions_are_a_set(keys: list[tuple[str, str, int]]) -> None:
    positions, reference = Positions(), set[tuple[str, str, int]]()
    for key in keys:
        assert positions.add(*key) == (key not in reference)
        reference.add(key)
        assert key in positions
    assert len(positions) == len(reference)
    assert all((key in positions) == (key in reference) for key in [("a", "x", 0), ("b", "y", 7), ("a", "y", 300)])


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 200])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a run"):
        RunFolder.open("runs", name)


def test_unknown_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="use a local path"):
        RunFolder.open("nosuch://bucket", "demo")


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write to .*file/runs/demo .*set storage_path elsewhere\.$"):
        RunFolder.open(str(tmp_path / "file" / "runs"), "demo").prepare()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_read_only_folder_is_a_storage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="check the path and its permissions"):
        RunFolder.open(str(tmp_path), "demo").prepare()


def test_full_disk_is_a_storage_error() -> None:
    fsspec.register_implementation("fulldisk", FullDisk, clobber=True)
    folder = RunFolder.open("fulldisk://runs", "demo")
    with pytest.raises(StorageError, match="no space left for fulldisk://runs/demo"):
        write_shard(folder, "000", rows(0))


def test_damaged_shard_names_the_file(folder: RunFolder) -> None:
    folder.write_text("shards/000.parquet", "not parquet")
    with pytest.raises(StorageError, match=r"shards/000\.parquet.*delete it and run the same command again"):
        list(read_traces(folder, shard_names(folder)))


def test_missing_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run folder"):
        RunFolder.at(str(tmp_path / "none"))
