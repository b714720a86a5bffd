"""`cleave collect`: every problem once, whatever stops and grows; budgets, leakage, several teachers in one folder."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pytest

import pipelines.session
from cleave.collection import Collection, Keys
from cleave.config.base import validate
from cleave.config.collect import CollectConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.errors import BudgetExceeded, ConfigError, DataError, GenerationError
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.runs import RunFolder
from cleave.tasks.reference.task import reference_task
from cleave.traces import problem_key
from cleave.types import ModelInfo, Problem, Trace
from pipelines.collect import describe_recipe, main
from tests.scripted import record
from tests.teacher import Lesson, teaching, write_gsm8k

COUNT = 20
FAMILIES = ("arithmetic", "lookup")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    problems = [problem for family in FAMILIES for problem in reference_task(family).problems("train", limit=COUNT)]
    path = tmp_path_factory.mktemp("recording") / "calls.jsonl"
    record(path, problems, [ReasoningConfig(strategy="static"), ReasoningConfig(strategy="single")])
    return path


@pytest.fixture
def config(recording: Path, tmp_path: Path) -> Callable[..., CollectConfig]:
    def build(**changes: Any) -> CollectConfig:
        role = {"model": f"recorded:{recording}", "prompts": "reference-v1", "resources": {"num_cpus": 0.25}}
        data: dict[str, Any] = {
            "name": "teacher",
            "storage_path": str(tmp_path),
            "backend": "inline",
            "tasks": [{"task": family, "problems": COUNT} for family in FAMILIES],
            "roles": {"decomposer": role, "solver": role},
            "flush_traces": 7,
            "leakage": {"problems": 50},
        }
        return validate(CollectConfig, data | changes, "test")

    return build


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the problems that were reasoned about; `stop_at` on it raises Ctrl-C at that many."""

    class Asked(list[str]):
        stop_at: int | None = None

    ids = Asked()

    async def watched(problem: Problem, roles: Roles, strategy: ReasoningConfig) -> Trace:
        trace = await reason(problem, roles, strategy)
        ids.append(problem.id)
        if ids.stop_at is not None and len(ids) == ids.stop_at:
            signal.raise_signal(signal.SIGINT)
        return trace

    monkeypatch.setattr(pipelines.session, "reason", watched)
    return ids


def collection(config: CollectConfig) -> Collection:
    return Collection(RunFolder.open(config.storage_path, config.name))


def content(config: CollectConfig) -> dict[str, tuple[str | None, bool | None]]:
    """What the collection's one teacher said, by problem; fails on a problem that is there twice."""
    there = collection(config)
    rows = list(there.traces(there.only_recipe()))
    found = {row.trace.problem.id: (row.trace.answer, row.correct) for row in rows}
    assert len(found) == len(rows)
    return found


def test_each_problem_has_one_trace_in_partitioned_parquet(config: Callable[..., CollectConfig], tmp_path: Path) -> None:
    assert main(config(), as_json=True) == 0
    assert len(content(config())) == 2 * COUNT
    recipe = collection(config()).only_recipe()
    table = pads.dataset(tmp_path / "teacher" / "traces", partitioning="hive").to_table(columns=["recipe", "task", "problem_key"])
    assert set(table.column("recipe").to_pylist()) == {recipe}
    assert sorted(set(table.column("task").to_pylist())) == sorted(FAMILIES)


def test_what_is_there_is_not_asked_again_and_more_problems_are_added(config: Callable[..., CollectConfig], asked: list[str]) -> None:
    few = config(tasks=[{"task": "arithmetic", "problems": 8}])
    assert main(few) == 0
    assert len(asked) == 8
    assert main(few) == 0
    assert len(asked) == 8
    assert main(config()) == 0
    assert len(asked) == len(set(asked)) == 2 * COUNT == len(content(config()))


def test_a_stopped_collection_resumes_to_the_same_rows(config: Callable[..., CollectConfig], asked: Any) -> None:
    whole = config(name="whole")
    assert main(whole) == 0
    asked.clear()
    asked.stop_at = 11
    assert main(config(max_in_flight=4)) == pipelines.session.INTERRUPTED
    before = len(content(config()))
    assert 11 <= before < 2 * COUNT
    asked.stop_at = None
    asked.clear()
    assert main(config()) == 0
    assert len(asked) == 2 * COUNT - before
    assert content(config()) == content(whole)


def test_another_way_of_asking_lies_beside_the_first(config: Callable[..., CollectConfig], asked: list[str]) -> None:
    main(config())
    main(config(reasoning={"strategy": "single"}))
    assert len(asked) == 4 * COUNT
    recipes = collection(config()).recipes()
    assert sorted(entry["recipe"]["reasoning"]["strategy"] for entry in recipes.values()) == ["single", "static"]
    with pytest.raises(DataError, match="traces of 2 teachers"):
        collection(config()).only_recipe()


def test_the_recipe_knows_weights_not_paths(config: Callable[..., CollectConfig]) -> None:
    def recipe(name: str, revision: str) -> dict[str, Any]:
        info = ModelInfo(name, revision, "float32")
        return describe_recipe(config(), {"decomposer": info, "solver": info})

    assert recipe("hf:a", "1") == recipe("hf:b", "1") != recipe("hf:a", "2")
    assert recipe("openai:a@http://x/v1", "") != recipe("openai:b@http://x/v1", "")


def test_a_budget_of_tokens_ends_the_collection_and_can_be_raised(config: Callable[..., CollectConfig], asked: list[str]) -> None:
    main(config(name="whole"))
    there = collection(config(name="whole"))
    tokens = there.spent(there.only_recipe()).tokens
    asked.clear()
    limited = config(budget={"tokens": tokens // 2}, max_in_flight=1)
    with pytest.raises(BudgetExceeded, match=r"budget\.tokens=.* leaves no room .*raise it to go on"):
        main(limited)
    half = collection(limited)
    assert 0.3 * tokens < half.spent(half.only_recipe()).tokens <= tokens // 2
    count = len(asked)
    with pytest.raises(BudgetExceeded):
        main(limited)
    assert len(asked) == count
    assert main(config(budget={"tokens": 2 * tokens})) == 0
    assert len(asked) == len(set(asked)) == 2 * COUNT


def test_rows_that_fail_are_kept_and_are_not_an_end(config: Callable[..., CollectConfig], tmp_path: Path) -> None:
    """Plans that cannot be read are rows with an error; the others have their answers."""
    problems = list(reference_task("arithmetic").problems("train", limit=6))
    calls = tmp_path / "broken.jsonl"
    record(calls, problems, [ReasoningConfig()])
    lines = [json.loads(line) for line in calls.read_text().splitlines()]
    broken = 0
    for line in lines:
        text = json.dumps(line)
        if broken < 3 and "Plan:" in text and "Solution:" not in text:
            line["replies"] = [{**reply, "text": "no plan"} for reply in line["replies"]]
            broken += 1
    assert broken == 3
    calls.write_text("".join(json.dumps(line) + "\n" for line in lines))
    role = {"model": f"recorded:{calls}", "prompts": "reference-v1"}
    own = config(tasks=[{"task": "arithmetic", "problems": 6}], roles={"decomposer": role, "solver": role})
    assert main(own) == 0
    there = collection(own)
    errors = [row.trace.error.type for row in there.traces(there.only_recipe()) if row.trace.error]
    assert errors == ["ParseError"] * 3
    assert len(content(own)) == 6


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Lesson]:
    """What a teacher at a URL is asked."""
    monkeypatch.setenv("CLEAVE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return write_gsm8k(tmp_path / "data")


def taught(config: Callable[..., CollectConfig], model: str, **changes: Any) -> CollectConfig:
    role = {"model": {"short": model, "max_retries": 0}, "prompts": "instruct-v1"}
    tasks = [{"task": "gsm8k", "problems": 30}]
    return config(tasks=tasks, roles={"decomposer": role, "solver": role}, **changes)


GARBAGE = [
    b"<html>502 Bad Gateway</html>",
    b'{"choices": []}',
    b'{"choices": [{"message": {"content": 7}}]}',
    b'{"error": {"message": "lost"}}',
    b'{"choices": [{"message": {"content": "I would rather not."}, "finish_reason": "stop"}]}',
]


def test_a_teacher_that_talks_garbage_half_of_the_time_is_collected_to_the_end(
    config: Callable[..., CollectConfig], lessons: dict[str, Lesson], capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken replies of every kind are rows with their error; the good half is whole, and the figures count both."""
    with teaching(lessons) as teacher:
        bad = {question: GARBAGE[k % len(GARBAGE)] for k, question in enumerate(sorted(lessons)) if k % 2}
        teacher.garble = bad.get
        assert main(taught(config, teacher.model, max_in_flight=4), as_json=True) == 0
        asked = len(teacher.asked)
        assert main(taught(config, teacher.model)) == 0
        assert len(teacher.asked) == asked, "a failed row is a row: it is not asked again"
    there = collection(config())
    rows = list(there.traces(there.only_recipe()))
    assert len(rows) == 30
    assert all(bool(row.correct) == (row.trace.problem.question not in bad) for row in rows)
    types = {row.trace.error.type for row in rows if row.trace.error}
    assert types == {"GenerationError", "ParseError"}
    figures = json.loads(capsys.readouterr().out.splitlines()[0])["figures"]
    assert sum(row["count"] for row in figures if row["kind"] == "failure") == sum(row.trace.error is not None for row in rows)


def test_a_teacher_that_dies_stops_the_collection_which_goes_on_when_it_is_back(
    config: Callable[..., CollectConfig], lessons: dict[str, Lesson]
) -> None:
    with teaching(lessons) as teacher:
        teacher.lasts = 24
        own = taught(config, teacher.model, max_in_flight=2, max_consecutive_failures=4)
        with pytest.raises(GenerationError, match=r"answered 503.*4 problems in a row.*same command again: finished problems are kept"):
            main(own)
        before = len(content(own))
        assert 10 <= before <= 12
        teacher.lasts = None
        assert main(own) == 0
    answers = content(own)
    assert len(answers) == 30
    assert all(correct for _, correct in answers.values())


@pytest.fixture
def leaking(tmp_path: Path) -> dict[str, Any]:
    """A file task whose train split asks one of the test questions in other words' case."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"question": f"What is {k} plus {k}?", "answer": str(2 * k)} for k in range(1, 6)]
    shared = [{"question": "what is 1 PLUS 1", "answer": "2"}]
    for split, content in (("train", rows), ("test", [*shared, {"question": "What is 7 plus 9?", "answer": "16"}])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return {"train": {"name": f"jsonl:{folder / 'train.jsonl'}"}, "test": {"name": f"jsonl:{folder / 'test.jsonl'}"}}


def test_evaluation_problems_are_refused_before_anybody_is_asked(
    config: Callable[..., CollectConfig], leaking: dict[str, Any], asked: list[str]
) -> None:
    tasks = [{"task": leaking["train"], "split": "all", "problems": None}]
    against = [{"task": leaking["test"], "split": "all", "problems": None, "label": "own"}]
    with pytest.raises(DataError, match=r"1 of 5 problems are also evaluation problems \(1 of own/all\).*leakage.action=drop"):
        main(config(tasks=tasks, leakage={"against": against}))
    assert asked == []


def test_splits_of_the_reference_tasks_share_nothing(config: Callable[..., CollectConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(config(), as_json=True) == 0
    (leak,) = [row for row in json.loads(capsys.readouterr().out)["figures"] if row["kind"] == "leakage"]
    assert leak["checked"] == 2 * COUNT
    assert leak["shared"] == {}
    assert leak["against"]["arithmetic/test"] == 50


def test_keys_find_what_they_hold() -> None:
    problems = list(reference_task("reading").problems("train", limit=12))
    keys = Keys(map(problem_key, problems[:8]))
    assert len(keys) == 8
    assert [problem in keys for problem in problems] == [True] * 8 + [False] * 4
    assert problems[0] not in Keys()


def test_gold_plans_are_not_collected(config: Callable[..., CollectConfig]) -> None:
    with pytest.raises(ConfigError, match="source: gold"):
        config(reasoning={"gold_plan": True})


@pytest.mark.ray
def test_actors_collect_what_one_process_does(config: Callable[..., CollectConfig], ray_session: None) -> None:
    whole = config(name="whole")
    assert main(whole) == 0
    assert main(config(backend="actors")) == 0
    assert content(config()) == content(whole)
