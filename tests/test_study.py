"""`cleave study`: the figures of the pair table, and the whole loop on the shipped teachers with a student of three steps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cleave.config.base import validate
from cleave.config.study import StudyConfig
from cleave.errors import ConfigError, DataError
from cleave.intervals import over_seeds_and_problems, wilson
from cleave.pair_table import Measured, PairTable
from cleave.types import Usage
from pipelines.study import main


def measured(solved: str, **usage: Usage) -> Measured:
    """`solved` has a character per problem: + solved, - not."""
    return Measured({("arithmetic" if k % 2 else "lookup", k): char == "+" for k, char in enumerate(solved)}, usage)


def test_differences_are_paired_with_the_baselines_mean_over_seeds() -> None:
    table = PairTable("T")
    table.add("T", "T", "T", [measured("++--")])
    table.add("S", "S", "T", [measured("+---"), measured("+++-")])
    base, student = table.rows()
    assert base.difference is None
    assert base.accuracy == wilson(2, 4)
    assert student.accuracy.value == pytest.approx(0.5)
    assert student.difference is not None
    assert student.difference.value == pytest.approx(0.0)
    assert student.by_task["arithmetic"].value == pytest.approx(0.25)
    assert (student.n, student.seeds) == (4, 2)


def test_cost_is_money_where_there_is_any_else_flops() -> None:
    table = PairTable("T")
    table.add("T", "T", "T", [measured("++", decomposer=Usage(2, 10, 10, 1.0, 80.0, 0.4), solver=Usage(2, 10, 10, 1.0, 100.0, 0.6))])
    table.add("priced", "S", "T", [measured("++", decomposer=Usage(2, 10, 10, 1.0, 8.0, 0.1), solver=Usage(2, 10, 10, 1.0, 100.0, 0.6))])
    table.add("free", "S", "T", [measured("++", decomposer=Usage(2, 10, 10, 1.0, 8.0), solver=Usage(2, 10, 10, 1.0, 100.0))])
    _, priced, free = table.rows()
    assert table.relative_cost(priced) == pytest.approx(0.7)
    assert table.relative_cost(priced, "decomposer") == pytest.approx(0.25)
    assert table.relative_cost(free) == pytest.approx(108 / 180)
    assert priced.cost["decomposer"].prompt_tokens == 5


def test_seeds_of_different_problems_are_refused() -> None:
    with pytest.raises(DataError, match="different problems"):
        PairTable("T").add("S", "S", "T", [measured("++"), measured("+++")])


def test_the_interval_covers_what_varies() -> None:
    rng = np.random.default_rng(0)
    same = np.full((3, 40), 0.5)
    flat = over_seeds_and_problems(same)
    assert (flat.low, flat.high) == (pytest.approx(0.5), pytest.approx(0.5))
    problems = (rng.random((1, 400)) < 0.5).astype(float)
    one, bounds = over_seeds_and_problems(problems), wilson(int(problems.sum()), 400)
    assert (one.low, one.high) == (pytest.approx(bounds.low, abs=0.01), pytest.approx(bounds.high, abs=0.01))
    seeds = np.repeat([[0.2], [0.5], [0.8]], 400, axis=1)
    spread = over_seeds_and_problems(seeds)
    assert spread.low < 0.3 < 0.7 < spread.high


def study(folder: Path, **changes: Any) -> dict[str, Any]:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    return {
        "name": "which",
        "storage_path": str(folder),
        "models": {"T": {"decomposer": {"model": "reference:decomposer"}, "solver": {"model": "reference:solver"}}},
        "teacher": "T",
        "collect": {"tasks": [{"task": "lookup", "problems": 12}], "backend": "inline", "leakage": {"problems": 20}},
        "distill": {
            "tasks": ["lookup"],
            "init": {"fresh": shape},
            "train": {"max_steps": 3, "per_device_train_batch_tokens": 200, "gradient_accumulation_steps": 1},
            "evaluation": {"examples": 0},
        },
        "students": {"S_D-T": {"role": "decomposer", "collection": {"keep": "all"}}},
        "evaluate": {"tasks": [{"task": "lookup", "problems": 4}], "backend": "inline", "report": False},
        "rows": {
            "T → T": {"decomposer": "T", "solver": "T"},
            "gold → T": {"decomposer": "gold", "solver": "T"},
            "S_D-T → T": {"decomposer": "S_D-T", "solver": "T"},
            "direct": {"solver": "T", "reasoning": {"strategy": "direct"}},
        },
        "baseline": "T → T",
        "seeds": [0, 1],
    } | changes


def test_the_whole_loop_ends_in_a_table_and_is_not_done_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = validate(StudyConfig, study(tmp_path), "test")
    assert main(config, as_json=True) == 0
    out = capsys.readouterr().out
    rows = {row["row"]: row for row in json.loads(out)["rows"]}
    assert list(rows) == list(config.rows)
    assert rows["T → T"]["difference"] is None
    assert rows["S_D-T → T"]["seeds"] == 2
    assert rows["S_D-T → T"]["relative_cost"]["decomposer"] < 1
    assert set(rows["direct"]["cost"]) == {"solver"}
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "which").rglob("*.parquet")}
    assert main(config, as_json=True) == 0
    assert capsys.readouterr().out == out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "which").rglob("*.parquet")} == times


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "X"}, "the teacher 'X' is none of the models: T"),
        ({"baseline": "X"}, "the baseline 'X' is no row"),
        ({"rows": {"T → T": {"decomposer": "X", "solver": "T"}}}, "'X' is no model and no student; there are T, S_D-T"),
        ({"students": {"S": {"role": "decomposer", "train": {"speed": 1}}}}, r"students\.S\.train\.speed"),
        ({"evaluate": {"tasks": ["lookup"], "typo": 1}}, r"rows\.T → T\.typo"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(StudyConfig, study(tmp_path, **changes), "test")
