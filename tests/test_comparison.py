"""Two versions on the same problems: flips count what they say, McNemar's test is exact, and `cleave compare` judges by them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

import cleave.__main__ as command_line
from cleave.comparison import ALL, Limits, compare
from cleave.config.base import dump, validate
from cleave.config.evaluate import EvaluateConfig
from cleave.errors import ConfigError
from cleave.flips import Flips
from cleave.runs import CONFIG, RunFolder
from cleave.traces import TRACES, ScoredTrace, write_traces
from cleave.types import Problem, Trace

GOLD = "8"
answers = st.sampled_from([GOLD, "8.0", "7", "9", None])
versions = st.lists(st.tuples(answers, answers), min_size=1, max_size=40)


def row(index: int, answer: str | None, **changes: Any) -> dict[str, Any]:
    outcome = "right" if answer is not None and float(answer) == 8 else "wrong"
    costs = {"prompt_tokens": 10, "completion_tokens": 4, "model_seconds": 0.5, "price": None}
    named = {"task": "t", "index": index, "problem_id": f"p{index}", "problem_key": f"k{index}", "question": "?", "gold": GOLD}
    return named | costs | {"answer": answer, "outcome": outcome} | changes


def flips_of(pairs: list[tuple[str | None, str | None]]) -> Flips:
    old, new = zip(*pairs, strict=True)
    return compare(*(iter([row(i, answer) for i, answer in enumerate(each)]) for each in (old, new))).tasks[ALL]


@given(versions)
def test_every_problem_is_counted_once_and_in_the_right_place(pairs: list[tuple[str | None, str | None]]) -> None:
    found, value = flips_of(pairs), [tuple(answer if answer is None else float(answer) for answer in pair) for pair in pairs]
    assert found.n == len(pairs)
    assert found.nfr == pytest.approx(sum(old == 8 != new for old, new in value) / len(pairs))
    assert found.nfr_mc == pytest.approx(sum(new not in (8, old) for old, new in value) / len(pairs))
    assert found.new().value - found.old().value == pytest.approx(found.gain().value)


@given(versions)
def test_the_way_back_loses_what_the_way_there_won(pairs: list[tuple[str | None, str | None]]) -> None:
    there, back = flips_of(pairs), flips_of([(new, old) for old, new in pairs])
    assert (there.won, there.lost, there.both, there.changed, there.p_value) == (back.lost, back.won, back.both, back.changed, back.p_value)


@given(versions)
def test_a_version_does_not_flip_against_itself(pairs: list[tuple[str | None, str | None]]) -> None:
    same = flips_of([(old, old) for old, _ in pairs])
    assert (same.nfr, same.nfr_mc, same.p_value, same.gain().value) == (0, 0, 1, 0)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test_of_the_flips(won: int, lost: int) -> None:
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert Flips(n=200, won=won, lost=lost).p_value == pytest.approx(expected)


def test_thousands_of_flips_are_no_overflow() -> None:
    assert 0 < Flips(n=9000, won=3000, lost=2900).p_value < 1
    assert math.isnan(Flips().nfr)


def test_only_shared_problems_count_and_others_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(iter([row(0, GOLD), row(1, "7")]), iter([row(1, GOLD, model_seconds=1.5), row(2, GOLD), row(3, GOLD)]))
    assert (found.tasks[ALL].n, found.tasks[ALL].won) == (1, 1)
    assert (found.costs["old"]["model_seconds"], found.costs["new"]["model_seconds"]) == (0.5, 1.5)
    assert "1 problems of the old run and 2 of the new one are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("new", "message"),
    [([row(5, GOLD)], "share no problem"), ([row(0, GOLD, problem_key="other")], "another problem in the other run")],
)
def test_runs_that_do_not_fit_are_refused(new: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(iter([row(0, GOLD)]), iter(new))


@pytest.mark.parametrize(("limits", "broken"), [(Limits(0.1, 0.0), 0), (Limits(0.04), 1), (Limits(None, 0.06), 1), (Limits(0.04, 0.06), 2)])
def test_limits_are_judged_on_all_problems(limits: Limits, broken: int) -> None:
    assert len(limits.broken_by(Flips(n=100, won=10, lost=5))) == broken


def evaluated(storage: Path, name: str, replies: list[str | None], **changes: Any) -> str:
    folder = RunFolder.open(str(storage), name)
    data = {"name": name, "tasks": [{"task": "arithmetic", "label": "t"}], **changes}
    config = validate(EvaluateConfig, data, "the test")
    traces = [Trace(Problem(f"p{i}", "How many?", answer=GOLD), "static", answer=reply) for i, reply in enumerate(replies)]
    variant = next(iter(config.strategies()))
    rows = [ScoredTrace(variant, "t", i, trace, correct=trace.answer == GOLD) for i, trace in enumerate(traces)]
    write_traces(folder, TRACES, rows)
    folder.write_text(CONFIG, dump(config))
    return folder.location


def test_an_upgrade_within_the_limits_passes_and_one_beyond_them_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = evaluated(tmp_path, "old", [GOLD, GOLD, "7", "7", "7"])
    new = evaluated(tmp_path, "new", [GOLD, "9", GOLD, GOLD, "7"])
    assert command_line.main(["compare", old, new, "--max-nfr", "20"]) == 0
    assert "p1" in capsys.readouterr().out
    assert command_line.main(["compare", old, new, "--max-nfr", "10", "--json"]) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert (found["tasks"]["all"]["nfr"], [lost["problem"] for lost in found["lost"]]) == (0.2, ["p1"])
    assert "20.0 % of the problems are lost, at most 10 % may be" in found["refused"][0]
    assert "refused:" in shown.err


def test_several_variants_ask_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = {"variants": {"a": {"strategy": "static"}, "b": {"strategy": "direct"}}}
    runs = [evaluated(tmp_path, name, [GOLD, "7"], **several) for name in ("old", "new")]
    assert command_line.main(["compare", *runs]) == 2
    assert "choose one of them by --variant" in capsys.readouterr().err
    assert command_line.main(["compare", *runs, "--variant", "c"]) == 2
    assert command_line.main(["compare", *runs, "--variant", "a"]) == 0
