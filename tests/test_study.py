"""`cleave study`: the figures of the pair table, and the whole loop on the shipped teachers with a student of three steps."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cleave.advice import advise, verdict
from cleave.config.base import validate
from cleave.config.study import StudyConfig
from cleave.errors import ConfigError, DataError
from cleave.intervals import Interval, difference_p, over_seeds_and_problems, wilson
from cleave.pair_figures import accuracy_against_cost, differences, pareto_front
from cleave.pair_table import Difference, Measured, PairRow, PairTable
from cleave.types import Usage
from pipelines.study import gather, main


def measured(solved: str, **usage: Usage) -> Measured:
    """`solved` has a character per problem: + solved, - not; `usage` is of each role on each problem."""
    places = [("arithmetic" if k % 2 else "lookup", k) for k in range(len(solved))]
    return Measured({place: char == "+" for place, char in zip(places, solved, strict=True)}, dict.fromkeys(places, usage))


def pair(decomposer: str, solver: str) -> dict[str, str]:
    return {"decomposer": decomposer, "solver": solver}


def test_differences_are_paired_with_the_other_rows_mean_over_seeds() -> None:
    table = PairTable()
    table.add("T", pair("T", "T"), [measured("++--")], against="T")
    table.add("S", pair("S", "T"), [measured("+---"), measured("+++-")], against="T")
    table.add("U", pair("U", "T"), [measured("++")], against="S")
    base, student, few = table.rows()
    assert base.difference is None
    assert base.accuracy == wilson(2, 4)
    assert student.accuracy.value == pytest.approx(0.5)
    assert student.difference is not None
    assert student.difference.interval.value == pytest.approx(0.0)
    assert student.by_task["arithmetic"].value == pytest.approx(0.25)
    assert (student.n, student.seeds) == (4, 2)
    assert few.difference is not None
    assert (few.difference.against, few.difference.n) == ("S", 2)
    assert few.difference.interval.value == pytest.approx(1 - 0.75)


def test_cost_is_money_where_everybody_has_a_price_else_flops() -> None:
    teacher = {"decomposer": Usage(2, 10, 10, 1.0, 80.0, 0.4), "solver": Usage(2, 10, 10, 1.0, 100.0, 0.6)}
    table = PairTable()
    table.add("T", pair("T", "T"), [measured("++++", **teacher)], against="T")
    cheap = teacher | {"decomposer": Usage(2, 10, 10, 1.0, 8.0, 0.1)}
    table.add("priced", pair("S", "T"), [measured("++", **cheap), measured("++", **cheap)], against="T")
    assert table.unit == "price"
    _, priced = table.rows()
    assert priced.difference is not None
    assert priced.difference.cost == pytest.approx({"all": 0.7, "decomposer": 0.25, "solver": 1.0})
    assert (priced.asked, priced.total.prompt_tokens) == (4, 80)
    free = teacher | {"decomposer": Usage(2, 10, 10, 1.0, 8.0)}
    table.add("free", pair("S", "T"), [measured("++", **free)], against="T")
    assert table.unit == "flops"
    *_, unpriced = table.rows()
    assert unpriced.difference is not None
    assert unpriced.difference.cost["all"] == pytest.approx(108 / 180)
    table.add("unknown", pair("S", "T"), [measured("++", solver=Usage(1, 10, 10))], against="T")
    assert table.unit is None
    assert all(row.difference is None or not row.difference.cost for row in table.rows())


def test_students_may_learn_from_collections_that_are_there(tmp_path: Path) -> None:
    data = {
        "name": "noise",
        "storage_path": str(tmp_path),
        "models": {"base": "reference:base"},
        "distill": {"role": "solver", "tasks": ["lookup"], "init": {"model": "reference:base"}},
        "students": {"S": {"collection": {"path": "runs/elsewhere"}}},
        "evaluate": {"tasks": ["lookup"]},
        "rows": {"gold → S": {"decomposer": "gold", "solver": "S"}},
        "baseline": "gold → S",
    }
    config = validate(StudyConfig, data, "test")
    student = config.student("S", 0)
    assert student.collection is not None
    assert student.collection.path == "runs/elsewhere"
    assert gather(config) == 0
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"name one by collection\.path"):
        validate(StudyConfig, data | {"students": {"S": {}}}, "test")


def test_a_row_may_ask_a_role_otherwise() -> None:
    data = {
        "name": "s",
        "models": {"T": {"decomposer": {"model": "reference:decomposer", "max_tokens": 99}, "solver": "reference:solver"}},
        "distill": {"role": "decomposer", "source": "gold", "tasks": ["lookup"], "init": {"model": "reference:base"}},
        "students": {"S": {}},
        "evaluate": {"tasks": ["lookup"]},
        "rows": {
            "T": {"decomposer": "T", "solver": "T"},
            "T again": {"decomposer": "T", "solver": "T", "roles": {"decomposer": {"redraws": 4}}},
            "S": {"decomposer": "S", "solver": "T", "roles": {"decomposer": {"redraws": 2, "batching": {"max_batch_size": 8}}}},
        },
        "baseline": "T",
    }
    config = validate(StudyConfig, data, "test")
    rows = {name: config.row(name, 0, {"S": "runs/s"}).roles.decomposer for name in config.rows}
    assert [rows[name].redraws for name in rows] == [0, 4, 2]
    assert (rows["T again"].max_tokens, rows["S"].batching.max_batch_size, rows["S"].model.short) == (99, 8, "hf:runs/s")
    assert config.first_like("T again") == "T again"
    wrong = data["rows"] | {"T": {"decomposer": "T", "solver": "T", "roles": {"solver": {"redraws": 4}}}}  # type: ignore[operator]
    with pytest.raises(ConfigError, match="redraws"):
        validate(StudyConfig, data | {"rows": wrong}, "test")


def test_seeds_of_different_problems_are_refused() -> None:
    with pytest.raises(DataError, match="different problems"):
        PairTable().add("S", pair("S", "T"), [measured("++"), measured("+++")], against="S")


def test_p_is_small_only_where_there_is_a_difference() -> None:
    rng = np.random.default_rng(1)
    noise = rng.choice([-1.0, 0.0, 1.0], size=(1, 500), p=[0.1, 0.8, 0.1])
    assert difference_p(noise) > 0.05
    assert difference_p(noise + 0.1) < 0.01
    assert difference_p(np.zeros((2, 10))) == 1.0
    assert difference_p(noise) == pytest.approx(difference_p(-noise), abs=0.1)


def row(name: str, accuracy: float, flops: float, difference: Interval | None = None) -> PairRow:
    found = None if difference is None else Difference("T → T", 500, difference, 0.5, {"decomposer": 0.11, "solver": 0.12, "all": 0.3})
    usage = {"solver": Usage(500, 1000, 1000, 1.0, flops * 500)}
    return PairRow(name, pair("S", "T"), 500, 1, Interval(accuracy, accuracy - 0.02, accuracy + 0.02), {}, usage, 500, found)


def test_advice_says_what_the_whole_interval_says() -> None:
    good, bad, open_ = Interval(-0.004, -0.019, 0.01), Interval(-0.23, -0.26, -0.2), Interval(-0.01, -0.03, 0.01)
    rows = {"decomposer": row("S → T", 0.8, 1e6, good), "solver": row("T → S", 0.6, 1e6, bad)}
    assert advise(rows, 0.02, "price") == (
        "Distil the decomposer: −0.4 points [−1.9, +1.0] at 11 % of its price (S → T); "
        "do not distil the solver: −23.0 points [−26.0, −20.0] at 12 % of its price (T → S)."
    )
    assert advise({"solver": row("T → S", 0.6, 1e6, open_)}, 0.02, "flops") == (
        "Whether to distil the solver is open: −1.0 points [−3.0, +1.0] at 12 % of its compute (T → S); measure more problems or seeds."
    )
    assert verdict(Interval(0, -0.02, 0.01), 0.02) == "distil"
    assert advise({}, 0.02, None) == ""


def test_the_front_holds_what_nothing_beats_at_its_cost() -> None:
    rows = [row("dear", 0.9, 9e6), row("beaten", 0.5, 5e6), row("cheap", 0.6, 1e6), row("same", 0.6, 1e6 + 1)]
    assert [found.name for found in pareto_front(rows, "flops")] == ["cheap", "dear"]
    drawn = accuracy_against_cost(rows, "flops")
    assert all(f">{found.name}<" in drawn for found in rows)
    assert accuracy_against_cost(rows, None) == ""
    whole, part = ({task: Interval(0.5, 0.4, 0.6) for task in tasks} for tasks in (("arithmetic", "lookup"), ("lookup",)))
    mixed = accuracy_against_cost([replace(row("whole", 0.5, 2), by_task=whole), replace(row("easy part", 1.0, 1), by_task=part)], "flops")
    assert ">whole<" in mixed
    assert "easy part" not in mixed, "other problems are no better pair"
    assert "<script" not in differences([row("<script>", 0.5, 1, Interval(0, -0.1, 0.1))])


def test_the_figure_says_with_what_a_row_is_compared() -> None:
    rows = [row(name, 0.5, 1, Interval(0, -0.1, 0.1)) for name in ("first", "apart", "last")]
    assert rows[1].difference is not None
    rows[1] = replace(rows[1], difference=replace(rows[1].difference, against="another"))
    drawn = differences(rows)
    assert ">apart, against another<" in drawn
    assert drawn.index(">first<") < drawn.index(">last<") < drawn.index(">apart, against another<")
    assert "than T → T, or" in drawn


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
            "again": {"decomposer": "S_D-T", "solver": "T", "against": "gold → T"},
            "direct": {"solver": "T", "reasoning": {"strategy": "direct"}, "problems": 2, "against": "S_D-T → T"},
        },
        "baseline": "T → T",
        "advice": {"decomposer": "S_D-T → T"},
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
    assert set(rows["direct"]["usage"]) == {"solver"}
    assert (rows["direct"]["difference"]["against"], rows["direct"]["difference"]["n"]) == ("S_D-T → T", 2)
    assert json.loads(out)["advice"].endswith(".")
    report = (tmp_path / "which" / "report.html").read_text()
    assert json.loads(out)["advice"] in report
    assert all(name in report for name in config.rows)
    assert not re.search(r"""(src|href)=["']http""", report.replace('xlink:href="#', ""))
    assert rows["again"]["accuracy"] == rows["S_D-T → T"]["accuracy"]
    assert not list((tmp_path / "which").glob("row-again*")), "what was measured is not measured again"
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "which").rglob("*.parquet")}
    assert main(config, as_json=True) == 0
    assert capsys.readouterr().out == out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "which").rglob("*.parquet")} == times


def test_exploratory_students_have_one_seed(tmp_path: Path) -> None:
    students = {"A": {"role": "decomposer"}, "B": {"role": "solver"}}
    rows = {
        "T → T": {"decomposer": "T", "solver": "T"},
        "A → T": {"decomposer": "A", "solver": "T"},
        "A → B": {"decomposer": "A", "solver": "B"},
    }
    config = validate(StudyConfig, study(tmp_path, students=students, rows=rows, advice={}, one_seed=["B"]), "test")
    assert [config.seeds_of(name) for name in "AB"] == [(0, 1), (0,)]
    assert [config.row_seeds(name) for name in rows] == [(0,), (0, 1), (0,)]
    with pytest.raises(ConfigError, match="one_seed: 'C' is no student"):
        validate(StudyConfig, study(tmp_path, one_seed=["C"]), "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "X"}, "the teacher 'X' is none of the models: T"),
        ({"baseline": "X"}, "the baseline 'X' is no row"),
        ({"advice": {"solver": "X"}}, r"advice\.solver: 'X' is no row"),
        ({"prices": {"X": {"prompt": 1}}}, "prices: 'X' is no model and no student"),
        ({"rows": {"T → T": {"decomposer": "T", "solver": "T", "against": "X"}}, "advice": {}}, r"rows\.T → T\.against: 'X' is no row"),
        ({"rows": {"T → T": {"decomposer": "X", "solver": "T"}}, "advice": {}}, "'X' is no model and no student; there are T, S_D-T"),
        ({"students": {"S": {"role": "decomposer", "train": {"speed": 1}}}}, r"students\.S\.train\.speed"),
        ({"evaluate": {"tasks": ["lookup"], "typo": 1}}, r"rows\.T → T\.typo"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(StudyConfig, study(tmp_path, **changes), "test")
