"""Judging recorded samples anew, and the study of verifiers on the shipped solver with a student of three steps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cleave.config.base import validate
from cleave.config.evaluate import EvaluateConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.config.verifier_study import VerifierStudyConfig
from cleave.errors import ConfigError
from cleave.intervals import Interval
from cleave.pair_table import Difference, PairRow
from cleave.reasoning import judge, reason
from cleave.runs import RunFolder
from cleave.traces import read_traces
from cleave.types import Failure, Problem, Trace, Usage
from cleave.verifier_figures import gains
from pipelines import evaluate, verifier_study
from pipelines.evaluation_folder import EvaluationFolder
from pipelines.verifier_study import conclusion
from tests.answering import Answering

PROBLEM = Problem("p", "How many in all?", answer="8")
VOTE = ReasoningConfig.model_validate({"strategy": "static", "n": 4, "temperature": 1.0, "selection": "majority"})
BEST = VOTE.model_copy(update={"selection": "rr_all"})
SAMPLES: dict[str, list[str | None]] = {"static": ["7", "8", "7", None]}


async def test_judging_a_trace_anew_is_reasoning_with_another_verifier() -> None:
    drawn = await reason(PROBLEM, Answering(SAMPLES).roles, VOTE)
    assert drawn.answer == "7"
    cast = Answering(SAMPLES, scores={"7": 0.2, "8": 0.9})
    again = await judge(drawn, cast.roles, BEST)
    assert (again.answer, again.chosen, cast.solved, cast.planned) == ("8", 1, [], [])
    online = await reason(PROBLEM, Answering(SAMPLES, scores={"7": 0.2, "8": 0.9}).roles, BEST)
    assert replace(again, timings={}, models={}) == replace(online, timings={}, models={})
    assert again.models["verifier"].name == "verifies"
    assert again.models["solver"] == drawn.models["solver"]
    twice = await judge(again, Answering(SAMPLES, scores={"7": 0.8, "8": 0.1}).roles, BEST)
    assert (twice.answer, twice.usage) == ("7", again.usage), "the verdicts before are gone, and their cost"


async def test_what_failed_before_stays_unless_it_was_the_verifiers_fault() -> None:
    drawn = await reason(PROBLEM, Answering(SAMPLES).roles, VOTE)
    cast = Answering(SAMPLES, scores={"7": 0.2, "8": 0.9})
    broken = replace(drawn, error=Failure("BudgetExceeded", "the limit", "solver"))
    assert (await judge(broken, cast.roles, BEST)).error == broken.error
    for error in (Failure("GenerationError", "no verdict", "verifier"), Failure("Abstained", "too unsure")):
        assert (await judge(replace(drawn, error=error), cast.roles, BEST)).error is None
    unsure = await judge(drawn, cast.roles, BEST.model_copy(update={"abstain_below": 0.99}))
    assert unsure.error is not None
    assert (unsure.error.type, unsure.answer, unsure.chosen) == ("Abstained", None, 1)
    empty = await judge(Trace(PROBLEM, "static", error=Failure("ParseError", "no plan", "decomposer")), cast.roles, BEST)
    assert (empty.answer, empty.error and empty.error.role, empty.usage) == (None, "decomposer", {})


TASK = {"task": "arithmetic", "split": "validation", "problems": 8}


def samples(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "samples",
        "storage_path": str(folder),
        "backend": "inline",
        "report": False,
        "tasks": [TASK],
        "reasoning": {"strategy": "static", "n": 3, "temperature": 1.5, "selection": "majority"},
    } | changes


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with three samples of each of eight problems."""
    folder = tmp_path_factory.mktemp("drawn")
    assert evaluate.main(validate(EvaluateConfig, samples(folder), "test"), quiet=True) == 0
    return folder


def test_an_evaluation_can_take_its_samples_from_another(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"name": "likely", "samples": str(drawn / "samples"), "tasks": [TASK | {"problems": 5}]}
    roles = {"verifier": {"model": "reference:base", "scoring": "likelihood"}}
    config = validate(EvaluateConfig, samples(drawn, roles=roles, **changes), "test")
    assert evaluate.main(config, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["traces"] == 5
    before = {row.index: row.trace for row in read_traces(RunFolder.at(str(drawn / "samples")))}
    after = {row.index: row.trace for row in read_traces(RunFolder.at(str(drawn / "likely")))}
    assert sorted(after) == list(range(5))
    for index, trace in after.items():
        assert (trace.solutions, trace.plans) == (before[index].solutions, before[index].plans)
        assert {role: trace.usage.get(role) for role in ("decomposer", "solver")} == {
            role: before[index].usage.get(role) for role in ("decomposer", "solver")
        }
        assert trace.usage.get("verifier", Usage()).prompt_tokens > 0
        assert len(trace.verdicts) == 3
    folder = EvaluationFolder.claim(config)
    assert folder.complete
    assert json.loads((drawn / "likely/manifest.json").read_text())["models"]["solver"]["name"] == "not asked"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": "nowhere"}, "there is no run folder at nowhere"),
        ({"reasoning": {"strategy": "static", "n": 2, "temperature": 1.5}}, r"drawn with n=3 \(static\), not 2; set reasoning\.n"),
        ({"reasoning": {"strategy": "single", "n": 3, "temperature": 1.5}}, "has no variant 'single'; there are static"),
        ({"tasks": ["reading"]}, "has no task 'reading'; there are arithmetic"),
        ({"tasks": [TASK | {"split": "test"}]}, "arithmetic is another task than in"),
    ],
)
def test_samples_that_are_other_ones_are_refused(drawn: Path, changes: dict[str, Any], message: str) -> None:
    data = samples(drawn, name="wrong", samples=str(drawn / "samples")) | changes
    with pytest.raises(ConfigError, match=message):
        evaluate.main(validate(EvaluateConfig, data, "test"))


def study(folder: Path, **changes: Any) -> dict[str, Any]:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    reasoning = {"strategy": "static", "n": 4, "temperature": 1.5}
    collected = {"task": "arithmetic", "problems": 24}
    return {
        "name": "which",
        "storage_path": str(folder),
        "collect": {"tasks": [collected], "backend": "inline", "leakage": {"problems": 20}, "reasoning": reasoning},
        "distill": {
            "role": "verifier",
            "prompts": "reference-v4",
            "tasks": ["arithmetic"],
            "collection": {"held_out": 0.3},
            "init": {"fresh": shape},
            "train": {"max_steps": 3, "per_device_train_batch_tokens": 800, "gradient_accumulation_steps": 1},
            "evaluation": {"examples": 0},
        },
        "verifiers": {"likelihood": {"model": "reference:base", "scoring": "likelihood"}},
        "students": {"trained": {}},
        "samples": {"tasks": [TASK], "backend": "inline", "reasoning": reasoning},
        "rules": ["first", "majority", "rr_all", "weighted"],
        "seeds": [0, 1],
    } | changes


def test_the_study_ends_in_a_table_and_is_not_done_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = validate(VerifierStudyConfig, study(tmp_path), "test")
    assert verifier_study.main(config, as_json=True) == 0
    out = capsys.readouterr().out
    figures = json.loads(out)["figures"]
    rows = {row["row"]: row for row in figures if row["kind"] == "pair"}
    arms = {row["name"]: row for row in figures if row["kind"] == "verifier"}
    scored = [f"{arm}: {rule}" for arm in ("likelihood", "trained") for rule in ("rr_all", "weighted")]
    assert list(rows) == ["first", "majority", "majk@n", "pass@n", *scored]
    assert rows["majority"]["difference"] is None
    assert rows["pass@n"]["accuracy"]["value"] >= max(row["accuracy"]["value"] for row in rows.values())
    assert (rows["trained: weighted"]["seeds"], rows["likelihood: weighted"]["seeds"]) == (2, 1)
    assert "verifier" in rows["trained: weighted"]["usage"]
    assert "verifier" not in rows["majority"]["usage"]
    assert set(arms) == {"likelihood", "trained"}
    assert 0 <= arms["trained"]["auc"] <= 1
    assert arms["trained"]["tokens"] > 0
    report = (tmp_path / "which/report.html").read_text()
    assert json.loads(out)["conclusion"] in report
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "which").rglob("*.parquet")}
    assert verifier_study.main(config, as_json=True) == 0
    assert capsys.readouterr().out == out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "which").rglob("*.parquet")} == times
    assert verifier_study.main(config) == 0
    shown = capsys.readouterr().out
    assert "trained: weighted" in shown
    assert "What the verifiers know" in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "weighted"}, "the baseline 'weighted' needs a verifier"),
        ({"students": {}, "verifiers": {}}, "there is no verifier to compare"),
        ({"students": {"likelihood": {}}}, "'likelihood' is in verifiers and in students"),
        ({"collect": None}, "say what to collect"),
        ({"students": {"S": {"role": "solver", "prompts": "reference-v1"}}}, r"students\.S is trained as another role"),
        ({"students": {"S": {"init": {"student": "X"}}}}, r"students\.S\.init\.student: 'X' is no student before it; there are none"),
        ({"samples": {"tasks": [TASK]}}, r"set samples\.reasoning\.n to 2 or more"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(VerifierStudyConfig, study(tmp_path, **changes), "test")


def row(arm: str, rule: str, gain: float, p: float, seeds: int = 3) -> PairRow:
    found = Difference("majority", 900, Interval(gain, gain - 0.01, gain + 0.01), p, {})
    return PairRow(f"{arm}: {rule}", {"verifier": arm, "selection": rule}, 900, seeds, Interval(0.5, 0.4, 0.6), {}, {}, 900, found)


def test_the_conclusion_is_the_largest_sure_gain_of_rows_with_all_seeds() -> None:
    rows = [
        row("-", "pass@n", 0.3, 0.001),
        row("A", "rr_all", 0.05, 0.02),
        row("A", "weighted", 0.03, 0.01),
        row("B", "weighted", 0.9, 0.001, 1),
    ]
    assert conclusion(rows, "majority") == "Choose by A: rr_all: +5.0 [+4.0, +6.0] points above majority, the most of 2 compared here."
    unsure = [*rows, row("C", "rr_all", 0.02, 0.5)]
    assert conclusion(unsure, "majority").startswith("Choose by A: weighted"), "with three compared, 0.02 is not enough"
    assert conclusion([row("A", "rr_all", 0.005, 0.2)], "majority").startswith("No verifier is above majority beyond doubt (1 compared)")


def test_the_figure_names_every_verifier_and_escapes_it() -> None:
    drawn = gains([row("small <b>", "weighted", 0.03, 0.01), row("large", "rr_all", 0.01, 0.4), row("-", "pass@n", 0.1, 0.01)], "majority")
    assert "large" in drawn
    assert "<b>" not in drawn
    assert "pass@n" not in drawn
    assert gains([], "majority") == ""


def test_a_student_starts_where_another_ended(tmp_path: Path) -> None:
    students = {"first": {}, "second": {"init": {"student": "first", "add_layers": 1}}}
    config = validate(VerifierStudyConfig, study(tmp_path, students=students), "test")
    init = config.student("second", 1).init
    assert init.model is not None
    assert (init.model.short, init.add_layers) == (f"hf:{tmp_path}/which/first-seed1/checkpoint", 1)
    more = students | {"third": {"init": {"student": "second"}}, "apart": {}, "beside": {"init": {"student": "first"}}}
    config = validate(VerifierStudyConfig, study(tmp_path, students=more), "test")
    assert config.generations() == [["first", "apart"], ["second", "beside"], ["third"]]
    with pytest.raises(ConfigError, match="'second' starts from 'first', which has fewer seeds"):
        validate(VerifierStudyConfig, study(tmp_path, students=students, one_seed=["first"]), "test")
