"""Loaders: real data under $CLEAVE_DATA, small files written here, the Hub seam on a local folder, and what bad input says."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.config.base import validate
from cleave.config.task import TaskConfig
from cleave.errors import CleaveError, ConfigError, DataError
from cleave.plans import check_plan, references
from cleave.tasks.registry import get_task, names
from cleave.tasks.splits import fingerprint, overlap
from cleave.tasks.task import Task, sample
from cleave.types import Problem

DATA = os.environ.get("CLEAVE_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="set CLEAVE_DATA to the folder with gsm8k/, svamp/ and bbh/")

GSM8K_ROWS = [
    {
        "question": "Ann has 3 boxes of 4 pens. She loses 2. How many are left?",
        "answer": "She has 3*4=<<3*4=12>>12 pens.\nShe keeps 10.\n#### 10",
    },
    {"question": "What do 2 horses cost at $1,000 each?", "answer": "They cost 2*1000=$<<2*1000=2000>>2,000\n#### 2,000"},
]
SOCRATIC_ROW = {
    "question": "Who wins?",
    "answer": "How fast is horse #2? ** It runs 2+3=<<2+3=5>>5 km/h\n"
    "How far is that in 2 h? ** 5*2=<<5*2=10>>10 km\nHow did it end? **\n#### 10",
}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CLEAVE_DATA."""
    write_lines(tmp_path / "gsm8k" / "train.jsonl", GSM8K_ROWS)
    write_lines(tmp_path / "gsm8k" / "test_socratic.jsonl", [SOCRATIC_ROW] * 801)
    svamp = [
        {
            "ID": "chal-1",
            "Body": "Dan had $ 3 left",
            "Question": "How much?",
            "Equation": "( 4.0 - 3.0 )",
            "Answer": 1.0,
            "Type": "Subtraction",
        },
        {"ID": "chal-2", "Body": "Each.", "Question": "Share?", "Equation": "( 10.5 / 3.0 )", "Answer": 3.5, "Type": "Common-Divison"},
    ]
    (tmp_path / "svamp").mkdir()
    (tmp_path / "svamp" / "SVAMP.json").write_text(json.dumps(svamp))
    (tmp_path / "bbh").mkdir()
    (tmp_path / "bbh" / "dates.json").write_text(
        json.dumps({"canary": "x", "examples": [{"input": "Which?\n(A) 1\n(B) 2", "target": "(B)"}]})
    )
    monkeypatch.setenv("CLEAVE_DATA", str(tmp_path))
    return tmp_path


def all_of(spec: str | dict[str, Any], split: str, **options: Any) -> list[Problem]:
    return list(get_task(spec).problems(split, **options))


# What the loaders make of a row


def test_gsm8k_takes_steps_from_the_marks(data: Path) -> None:
    first, second = all_of("gsm8k", "train")
    assert [step.text for step in first.gold_steps] == ["She has 3*4=12 pens.", "She keeps 10."]
    assert [step.answer for step in first.gold_steps] == ["12", ""]
    assert (first.answer, first.depth, first.skills) == ("10", 2, ("multiplication",))
    assert (second.answer, second.gold_steps[0].answer) == ("2000", "2000")
    assert "<<" not in "".join(step.text for step in first.gold_steps)


def test_socratic_gives_plan_and_steps(data: Path) -> None:
    train, test = (all_of("gsm8k-socratic", split) for split in ("socratic-train", "socratic-test"))
    assert (len(train), len(test)) == (800, 1)
    assert test[0].id == "gsm8k-socratic-800"
    plan = train[0].gold_plan
    assert plan is not None
    assert [step.question for step in plan.steps] == ["How fast is horse number 2?", "How far is that in 2 h?", "How did it end?"]
    assert [step.answer for step in train[0].gold_steps] == ["5", "10", ""]
    check_plan(plan)


def test_svamp_numbers_and_context(data: Path) -> None:
    first, second = all_of("svamp", "test")
    assert (first.context, first.question, first.answer) == ("Dan had $ 3 left.", "How much?", "1")
    assert first.gold_steps[0].text == "( 4 - 3 ) = 1"
    assert (second.answer, second.skills, second.gold_steps[0].text) == ("3.5", ("division",), "( 10.5 / 3 ) = 3.5")


def test_bbh_is_never_a_training_split(data: Path) -> None:
    task = get_task("bbh:dates")
    (problem,) = task.problems("test")
    assert task.score(problem, "B")
    assert not task.score(problem, "(A)")
    assert not task.score(problem, None)
    assert list(task.splits) == ["test"]
    with pytest.raises(ConfigError, match="canary"):
        task.problems("train")


@needs_data
@pytest.mark.parametrize(
    ("name", "split", "size"),
    [
        ("gsm8k", "train", 7473),
        ("gsm8k", "test", 1319),
        ("gsm8k-socratic", "socratic-train", 800),
        ("gsm8k-socratic", "socratic-test", 519),
        ("svamp", "test", 1000),
        ("bbh:date_understanding", "test", 250),
        ("bbh:boolean_expressions", "test", 250),
    ],
)
def test_real_data(name: str, split: str, size: int) -> None:
    task = get_task(name)
    problems = list(task.problems(split))
    assert len(problems) == size
    assert task.splits[split] in (size, None)
    assert len({problem.id for problem in problems}) == size
    for problem in problems:
        assert task.score(problem, problem.answer)
        assert task.lenient(problem, f"The answer is: {problem.answer}")
        assert "<<" not in "".join(step.text for step in problem.gold_steps)
        if problem.gold_plan is not None:
            check_plan(problem.gold_plan)
            assert all(references(step.question) == step.needs for step in problem.gold_plan.steps)
            assert len(problem.gold_plan.steps) == len(problem.gold_steps)


@needs_data
def test_gsm8k_train_and_test_share_no_question() -> None:
    task = get_task("gsm8k")
    assert overlap(task.problems("train"), task.problems("test")) == []


# Files


def test_jsonl_with_a_field_map(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "own.jsonl", [{"q": "2+2?", "gold": {"value": 4.0}, "passage": None, "key": 17}])
    spec = {"name": f"jsonl:{path}", "fields": {"id": "key", "question": "q", "answer": "gold.value", "context": "passage"}}
    assert all_of(spec, "all") == [Problem(id="17", question="2+2?", answer="4", task=f"jsonl:{path}")]


def test_default_fields_that_rows_lack_are_optional(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "own.jsonl", [{"question": "2+2?", "answer": 4}])
    assert all_of(f"jsonl:{path}", "all")[0].id == "0"
    with pytest.raises(DataError, match=r"line 1 has no field 'context'; it has: question, answer\."):
        all_of({"name": f"jsonl:{path}", "fields": {"context": "context"}}, "all")


def test_unlabelled_rows(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "own.jsonl", [{"question": "2+2?"}])
    task = get_task({"name": f"jsonl:{path}", "fields": {"answer": None}})
    (problem,) = task.problems("all")
    with pytest.raises(DataError, match="no gold answer"):
        task.score(problem, "4")


def test_a_folder_has_a_split_per_file(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_lines(tmp_path / f"{split}.jsonl", [{"question": split, "answer": "1"}])
    task = get_task(f"jsonl:{tmp_path}")
    assert set(task.splits) == {"train", "test"}
    assert [problem.question for problem in task.problems("test")] == ["test"]
    with pytest.raises(ConfigError, match="choose one of: test, train"):
        list(task.problems("dev"))


def test_parquet_and_hub_read_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"question": f"{k}+1?", "answer": str(k + 1)} for k in range(2500)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    file, folder = get_task(f"parquet:{tmp_path / 'train.parquet'}"), get_task(f"hub:{tmp_path}")
    assert file.splits == {"all": 2500}
    assert list(folder.splits) == ["train"]
    assert [p.question for p in file.problems("all")] == [row["question"] for row in rows]
    assert [p.answer for p in folder.problems("train", limit=30)] == [row["answer"] for row in rows[:30]]


def test_hub_without_a_connection_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"cannot open the data set nobody/nothing .*download it elsewhere and use jsonl:PATH"):
        all_of("hub:nobody/nothing", "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'{"question": "a", "answer": "1"}\n{"question": "b"', "line 2 is not valid JSON"),
        (b'{"question": "a", "answer": "1"}\n\xff\xfe\n', "line 2 is not UTF-8"),
        (b"[1, 2]\n", "line 1 holds list, not an object"),
        (b'{"question": ["a"], "answer": "1"}\n', "line 1: field 'question' holds list, not text"),
        (b'{"question": "  ", "answer": "1"}\n', "line 1: field 'question' is blank"),
        (b'{"query": "a", "answer": "1"}\n', "line 1 has no field 'question'; it has: query, answer"),
        (b'{"question": "a", "answer": ' + b"[" * 100_000 + b"\n", "line 1"),
    ],
)
def test_bad_jsonl_is_named_by_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        all_of(f"jsonl:{path}", "all")
    assert str(path) in str(caught.value)


def test_rows_before_a_bad_line_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('\ufeff{"question": "a", "answer": "1"}\nnonsense\n', encoding="utf-8")
    stream = get_task(f"jsonl:{path}").problems("all")
    assert next(stream).question == "a"
    with pytest.raises(DataError, match="line 2"):
        next(stream)


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"bad\.parquet"):
        all_of(f"parquet:{path}", "all")


@pytest.mark.parametrize(
    ("file", "content", "name", "split", "message"),
    [
        ("gsm8k/train.jsonl", '{"question": "a", "answer": "no mark"}', "gsm8k", "train", "line 1: the answer has no last line"),
        (
            "gsm8k/test_socratic.jsonl",
            '{"question": "a", "answer": "no question\\n#### 1"}',
            "gsm8k-socratic",
            "socratic-train",
            "line 1: the line",
        ),
        ("svamp/SVAMP.json", "[]", "svamp", "test", "holds no list of examples"),
        ("svamp/SVAMP.json", '[{"ID": "1"}]', "svamp", "test", "example 1 has no field"),
        ("svamp/SVAMP.json", "", "svamp", "test", "is empty"),
        ("svamp/SVAMP.json", "{", "svamp", "test", "is not valid JSON"),
        ("bbh/dates.json", "{}", "bbh:dates", "test", "has no `examples`"),
    ],
)
def test_damaged_data_sets(data: Path, file: str, content: str, name: str, split: str, message: str) -> None:
    (data / file).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        all_of(name, split)
    assert str(data / file) in str(caught.value)


# Names


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gsmk", "did you mean 'gsm8k'"),
        ("nonsense", "choose one of: arithmetic, lookup, reading, .*gsm8k"),
        ("", "at least 1 character"),
        ("no.such.module:thing", "no task is called"),
        ("json:loadz", "did you mean 'load"),
        ("json:loads", "cannot be called"),
        ("os:sep", "no Task and nothing that makes one"),
        ("collections:OrderedDict", "lacks part of the Task interface"),
        ("gsm8k:more", "takes nothing after a colon"),
        ("jsonl:", "needs a file"),
        ("jsonl:/no/such/file", "no file or folder"),
        ("bbh:", "names no BIG-Bench Hard task"),
        ("bbh:../../etc", "names no BIG-Bench Hard task"),
        ("hub:", "needs the data set's id"),
        ({"name": "gsm8k", "dials": {"depth": 2}}, "dials does not apply to the task gsm8k"),
        ({"name": "arithmetic", "path": "x"}, "path does not apply to the task arithmetic"),
        ({"name": "gsm8k", "pth": "x"}, "did you mean 'path'"),
    ],
)
def test_wrong_names_and_options(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_task(spec)


def test_data_that_are_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CLEAVE_DATA", raising=False)
    with pytest.raises(ConfigError, match="set CLEAVE_DATA to the folder that holds gsm8k/"):
        all_of("gsm8k", "test")
    monkeypatch.setenv("CLEAVE_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no folder"):
        all_of("svamp", "test")


def test_path_replaces_the_variable(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLEAVE_DATA")
    assert len(all_of({"name": "gsm8k", "path": str(data / "gsm8k")}, "train")) == 2


@pytest.mark.parametrize("name", names())
def test_every_named_task_keeps_the_interface(name: str) -> None:
    task = get_task(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.description
    with pytest.raises(CleaveError, match="'nowhere'"):
        list(task.problems("nowhere"))


def test_ones_own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_tasks.py").write_text(
        "from cleave.tasks.task import StrictTask\n"
        "from cleave.types import Problem\n"
        "class Doubling(StrictTask):\n"
        "    name, description, splits = 'doubling', 'twice a number', {'test': None}\n"
        "    def __init__(self, start=0):\n"
        "        self.start = start\n"
        "    def problems(self, split, limit=None, seed=0):\n"
        "        return (Problem(id=str(k), question=f'2*{k}?', answer=str(2 * k)) for k in range(self.start, self.start + limit))\n"
        "ready = Doubling(5)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    task = get_task({"name": "my_own_tasks:Doubling", "dials": {"start": 3}})
    (problem,) = task.problems("test", limit=1)
    assert task.score(problem, "6.0")
    assert [p.question for p in get_task("my_own_tasks:ready").problems("test", limit=1)] == ["2*5?"]


def test_short_string_and_mapping_are_the_same_config() -> None:
    config = validate(TaskConfig, {"name": "bbh:dates"}, "a test")
    assert TaskConfig.model_validate("bbh:dates") == config
    assert (config.kind, config.argument) == ("bbh", "dates")


# Samples and overlap


@given(st.integers(0, 60), st.integers(0, 70), st.integers(-5, 5))
def test_sample(size: int, limit: int, seed: int) -> None:
    kept = list(sample(range(size), limit, seed))
    assert len(kept) == min(size, limit)
    assert kept == sorted(set(kept))
    assert kept == list(sample(range(size), limit, seed))
    if seed == 0:
        assert kept == list(range(min(size, limit)))


def test_sample_is_uniform_and_lazy() -> None:
    drawn = [next(sample(range(10), 1, seed)) for seed in range(1, 3001)]
    assert all(200 < drawn.count(k) < 400 for k in range(10))

    def endless() -> Iterator[int]:
        yield 1
        raise AssertionError("asked for more than the limit")

    assert list(sample(endless(), 1, 0)) == [1]
    with pytest.raises(ConfigError, match="-1"):
        list(sample([1], -1, 0))


def test_overlap_ignores_case_spacing_and_punctuation() -> None:
    train = [Problem(id="a", question="How many  apples?"), Problem(id="b", question="How many pears?")]
    test = [Problem(id="c", question="how many apples"), Problem(id="d", question="How many plums?")]
    assert overlap(train, test) == [("a", "c")]
    assert fingerprint(train[0]) != fingerprint(train[1])
