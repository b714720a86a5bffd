"""`cleave replay`: equal where nothing changed; what changed is named, be it the model, the data or an answer; on recordings."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipelines.session
from cleave.__main__ import main as cleave
from cleave.config.base import validate
from cleave.config.evaluate import EvaluateConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.errors import ConfigError
from cleave.reasoning import reason
from cleave.replay import circumstances, compare
from cleave.roles import Roles
from cleave.tasks.reference.task import reference_task
from cleave.tasks.registry import get_task
from cleave.traces import ScoredTrace
from cleave.types import ModelInfo, Plan, Problem, Step, Trace
from pipelines import evaluate
from pipelines.replay import main
from tests.scripted import ScriptedModel, record

VARIANTS = ("static", "direct")
COUNT = 12
PROBLEMS = list(reference_task("arithmetic").problems("test", limit=COUNT))


class OtherModel(ScriptedModel):
    info = ModelInfo("scripted", "2", "float32", 1000)


def record_all(path: Path, model: ScriptedModel | None = None) -> None:
    path.unlink(missing_ok=True)
    record(path, PROBLEMS, [ReasoningConfig(strategy=name) for name in VARIANTS], model)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "calls.jsonl"
    record_all(path)
    return path


@pytest.fixture
def calls(recording: Path, tmp_path: Path) -> Path:
    """A recording that a test may replace."""
    return Path(shutil.copy(recording, tmp_path / "calls.jsonl"))


@pytest.fixture
def run(calls: Path, tmp_path: Path) -> Path:
    """A finished evaluation."""
    role = {"model": f"recorded:{calls}", "prompts": "reference-v1"}
    data: dict[str, Any] = {
        "name": "demo",
        "storage_path": str(tmp_path / "runs"),
        "backend": "inline",
        "tasks": [{"task": "arithmetic", "problems": COUNT}],
        "roles": {"decomposer": role, "solver": role},
        "variants": dict.fromkeys(VARIANTS),
        "report": False,
    }
    assert evaluate.main(validate(EvaluateConfig, data, "test"), quiet=True) == 0
    return tmp_path / "runs" / "demo"


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Replay with --json: the exit code and what was printed."""

    def replay(run: Path, *overrides: str, **options: Any) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main(str(run), overrides, as_json=True, **options)
        return code, json.loads(capsys.readouterr().out)

    return replay


def test_a_replay_of_the_same_is_equal(run: Path, told: Callable[..., Any]) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    code, found = told(run)
    assert (code, found["equal"], found["asked"]) == (0, True, COUNT * len(VARIANTS))
    assert found["differences"] == []
    assert found["circumstances"] == []
    assert found["replay"] == str(run) + "-replay"
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_another_model_is_named_and_so_is_what_it_answers_differently(run: Path, calls: Path, told: Callable[..., Any]) -> None:
    record_all(calls, OtherModel(PROBLEMS, wrong_every=1))
    code, found = told(run)
    assert (code, found["equal"]) == (1, False)
    revisions = {"what": "models.solver.revision", "then": "1", "now": "2"}
    assert revisions in found["circumstances"]
    assert {one["now"] for one in found["differences"]} == {"wrong"}
    assert all(one["then"] != "wrong" and "answer" in one["differs"] for one in found["differences"])
    assert found["counts"]["plans"] == found["counts"]["problem"] == 0
    assert 0 < found["counts"]["answer"] == len(found["differences"]) < COUNT * len(VARIANTS)


def test_a_finished_replay_is_followed_by_a_new_one(run: Path, calls: Path, told: Callable[..., Any]) -> None:
    assert told(run)[0] == 0
    record_all(calls, ScriptedModel(PROBLEMS, wrong_every=1))
    assert told(run)[0] == 1


def test_one_problem_is_asked_alone_and_nothing_is_written(run: Path, calls: Path, told: Callable[..., Any]) -> None:
    problem = PROBLEMS[5]
    there = sorted(run.parent.iterdir())
    code, found = told(run, problem=problem.id)
    assert (code, found["asked"], found["circumstances"]) == (0, len(VARIANTS), [])
    assert sorted(run.parent.iterdir()) == there
    record_all(calls, OtherModel(PROBLEMS, wrong_every=1))
    right = next(one for one in PROBLEMS if told(run, problem=one.id)[0] == 1)
    _, found = told(run, problem=right.id)
    then, now = (found["traces"][when]["arithmetic/static"] for when in ("then", "now"))
    assert then["problem"]["id"] == now["problem"]["id"] == right.id
    assert {"what": "models.solver.revision", "then": "1", "now": "2"} in found["circumstances"]


def test_tables_for_people_name_problem_and_answers(run: Path, calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_all(calls, OtherModel(PROBLEMS, wrong_every=1))
    assert cleave(["replay", str(run)]) == 1
    shown = capsys.readouterr()
    assert "models.solver.revision" in shown.out
    assert "answer now" in shown.out
    assert "differ" in shown.err
    assert cleave(["replay", str(run), "--problem", PROBLEMS[0].id]) in (0, 1)
    assert "static, then" in capsys.readouterr().out


def test_problems_that_are_others_today_are_not_taken_for_other_answers(tmp_path: Path, told: Callable[..., Any]) -> None:
    own, calls = f"jsonl:{tmp_path / 'own.jsonl'}", tmp_path / "calls.jsonl"

    def write(second: str) -> None:
        rows = [{"id": "a", "question": PROBLEMS[0].text, "answer": PROBLEMS[0].answer}, {"id": "b", "question": PROBLEMS[1].text}]
        rows[1]["answer"] = second
        (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(str(PROBLEMS[1].answer))
    record(calls, list(get_task(own).problems("all")), [ReasoningConfig(strategy="direct")], ScriptedModel(PROBLEMS))
    role = {"model": f"recorded:{calls}", "prompts": "reference-v1"}
    data: dict[str, Any] = {
        "name": "own",
        "storage_path": str(tmp_path / "runs"),
        "backend": "inline",
        "tasks": [{"task": own, "label": "own", "split": "all", "problems": None}],
        "roles": {"decomposer": role, "solver": role},
        "report": False,
    }
    data["reasoning"] = {"strategy": "direct"}
    assert evaluate.main(validate(EvaluateConfig, data, "test"), quiet=True) == 0
    write("another")
    code, found = told(tmp_path / "runs" / "own")
    assert code == 1
    assert [(one["problem_id"], one["differs"]) for one in found["differences"]] == [("b", ["problem"])]
    assert [one["what"] for one in found["circumstances"]] == ["data.own"]


def test_a_stopped_replay_goes_on(run: Path, told: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def watched(problem: Problem, roles: Roles, strategy: ReasoningConfig) -> Trace:
        asked.append(problem.id)
        if len(asked) == 8:
            raise KeyboardInterrupt
        return await reason(problem, roles, strategy)

    monkeypatch.setattr(pipelines.session, "reason", watched)
    assert main(str(run), ["max_in_flight=1", "flush_traces=1"]) == 130
    code, found = told(run)
    assert (code, found["equal"]) == (0, True)
    assert len(asked) == COUNT * len(VARIANTS) + 1, "only the problem in flight is asked twice"


@pytest.mark.parametrize(
    ("overrides", "problem", "word"),
    [
        (["reasoning.temperature=0.5"], None, "reasoning.temperature"),
        (["tasks.0.problems=3"], None, "tasks.0.problems"),
        (["name=other"], None, "name"),
        ([], "no-such-problem", "no-such-problem"),
    ],
)
def test_what_would_be_another_run_is_refused(run: Path, overrides: list[str], problem: str | None, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        main(str(run), overrides, problem=problem)


def test_an_unfinished_run_is_refused(run: Path) -> None:
    (run / "traces.parquet").unlink()
    with pytest.raises(ConfigError, match="no finished evaluation"):
        main(str(run))


def scored(index: int, *plans: str, answer: str = "1") -> ScoredTrace:
    made = tuple(Plan((Step(1, text),)) for text in plans)
    return ScoredTrace("static", "t", index, Trace(Problem(str(index), "q"), "static", plans=made, answer=answer))


def test_problems_of_one_run_alone_make_it_unequal() -> None:
    found = compare([scored(0), scored(1)], [scored(1), scored(2), scored(3)])
    assert (found.asked, found.gone, found.new, found.equal) == (1, 1, 2, False)
    assert compare([scored(0)], [scored(0)]).equal


def test_texts_are_told_apart_by_where_they_end() -> None:
    differing = compare([scored(0, "ab", "c")], [scored(0, "a", "bc")])
    assert differing.counts == {"plans": 1}


def test_circumstances_by_dotted_path() -> None:
    then = {"created": "1", "python": "3.11", "packages": {"torch": "1", "ray": "2"}, "data": {"t": "x"}}
    now = {"created": "2", "python": "3.11", "packages": {"torch": "2", "numpy": "3"}, "data": {"t": "y"}}
    assert circumstances(then, now) == [
        ("data.t", "x", "y"),
        ("packages.numpy", None, "3"),
        ("packages.ray", "2", None),
        ("packages.torch", "1", "2"),
    ]
    assert not circumstances({"data": {"t": "x"}}, {}), "a replay of one problem does not know the data's hash"
