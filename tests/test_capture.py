"""Stored distributions: captured once, resumed, shared by students, trained from without the teacher; and mistakes with remedies."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pipelines.capture
import pipelines.teachers
from cleave.config.base import validate
from cleave.config.collect import CollectConfig
from cleave.config.distill import DistillConfig
from cleave.config.model import ModelConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.config.start import FreshConfig
from cleave.distributions import Distributions, attach, key_of
from cleave.errors import ConfigError, DataError, StorageError
from cleave.examples import Example
from cleave.lm.checkpoint import load_checkpoint
from cleave.lm.reference import ROOT
from cleave.runs import RunFolder
from cleave.tasks.reference.task import reference_task
from pipelines.capture import capture, with_distributions
from pipelines.collect import main as collect
from pipelines.distill import main
from pipelines.start import fresh_model, load_tokenizer
from pipelines.teachers import first_difference
from tests.scripted import record

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
COUNT = 12


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces of a scripted teacher on two tasks."""
    folder = tmp_path_factory.mktemp("collections")
    tasks = [reference_task(family) for family in ("arithmetic", "lookup")]
    problems = [problem for task in tasks for problem in task.problems("train", limit=COUNT)]
    record(folder / "calls.jsonl", problems, [ReasoningConfig()])
    role = {"model": f"recorded:{folder / 'calls.jsonl'}", "prompts": "reference-v1"}
    data = {
        "name": "teacher",
        "storage_path": str(folder),
        "backend": "inline",
        "tasks": [{"task": task.name, "problems": COUNT} for task in tasks],
        "roles": {"decomposer": role, "solver": role},
        "leakage": {"problems": 20},
    }
    assert collect(validate(CollectConfig, data, "test")) == 0
    return folder / "teacher"


@pytest.fixture
def collection(collected: Path, tmp_path: Path) -> Path:
    """A copy of one's own."""
    return Path(shutil.copytree(collected, tmp_path / "teacher"))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two checkpoints with the reference tokenizer."""
    tokenizer = load_tokenizer(str(ROOT / "solver"))
    names = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("teacher")
        fresh_model(FreshConfig.model_validate(SHAPE | {"hidden_size": 24}), tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        names.append(f"hf:{folder}")
    return names


@pytest.fixture
def make(collection: Path, teachers: list[str], tmp_path: Path) -> Callable[..., DistillConfig]:
    def build(**changes: Any) -> DistillConfig:
        data: dict[str, Any] = {
            "name": "student",
            "role": "solver",
            "source": "collection",
            "collection": {"path": str(collection), "keep": "all", "held_out": 0.2},
            "tasks": ["arithmetic", "lookup"],
            "init": {"fresh": SHAPE, "tokenizer": teachers[0].removeprefix("hf:")},
            "objective": {"teacher": teachers[0], "top_k": 4},
            "train": {"max_steps": 3, "per_device_train_batch_tokens": 400, "gradient_accumulation_steps": 2, "logging_steps": 1},
            "evaluation": {"eval_steps": 2, "examples": 4, "generate": 1, "max_new_tokens": 4},
            "storage_path": str(tmp_path / "runs"),
        }
        return validate(DistillConfig, data | changes, "test")

    return build


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Teachers that were loaded, by any of the two ways."""
    names: list[str] = []
    load = pipelines.teachers.load_teacher

    def watched(config: DistillConfig, teacher: ModelConfig) -> Any:
        names.append(teacher.short)
        return load(config, teacher)

    monkeypatch.setattr(pipelines.capture, "load_teacher", watched)
    monkeypatch.setattr(pipelines.teachers, "load_teacher", watched)
    return names


def store_of(config: DistillConfig, place: str) -> Distributions:
    assert config.collection is not None
    return Distributions(RunFolder.at(config.collection.path), place)


def test_every_format_of_every_problem_is_stored_once(
    make: Callable[..., DistillConfig], asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    [place] = capture(make())
    rows = list(store_of(make(), place).read())
    assert len(asked) == 1
    assert len({key_of(row) for row in rows}) == len(rows) > 3 * COUNT
    assert {row.problem_id.split("-")[0] for row in rows} == {"arithmetic", "lookup"}
    assert all(row.teacher_topk is not None and len(row.teacher_topk) == row.targets for row in rows)
    assert "bytes each are in" in capsys.readouterr().err
    made_with = json.loads((Path(store_of(make(), place).folder.location) / place / "made_with.json").read_text())
    assert (made_with["top_k"], made_with["prompts"]) == (4, "reference-v1")


def test_what_is_there_is_not_asked_again(make: Callable[..., DistillConfig], asked: list[str]) -> None:
    """A second student with fewer formats needs no teacher; more formats add what is missing; another k or teacher lies beside."""
    formats = {"direct": 1.0}
    [place] = capture(make(formats=formats))
    few = store_of(make(), place).keys()
    wider = {"fresh": SHAPE | {"hidden_size": 32}, "tokenizer": make().init.tokenizer}
    assert capture(make(formats=formats, seed=5, init=wider)) == [place]
    assert len(asked) == 1
    assert capture(make()) == [place]
    assert len(asked) == 2
    assert few < store_of(make(), place).keys()
    assert capture(make(objective=dict(make().objective.model_dump(), top_k=5))) != [place]


def test_tasks_with_collections_of_their_own_share_one_store(make: Callable[..., DistillConfig], collection: Path) -> None:
    own = {"path": str(collection), "keep": "all"}
    config = make(collection=None, tasks=[{"task": "arithmetic", "collection": own}, {"task": "lookup", "collection": own}])
    [place] = capture(config)
    assert {row.problem_id.split("-")[0] for row in Distributions(RunFolder.at(str(collection)), place).read()} == {"arithmetic", "lookup"}


def test_a_stopped_capture_goes_on(make: Callable[..., DistillConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    [place] = capture(make())
    whole = {key_of(row): row.teacher_topk for row in store_of(make(), place).read()}
    shutil.rmtree(Path(store_of(make(), place).folder.location) / "topk")
    monkeypatch.setattr(pipelines.capture, "GROUP", 7)
    ask, groups = pipelines.capture.ask, []

    def stopped(*arguments: Any) -> list[Example]:
        if len(groups) == 2:
            raise KeyboardInterrupt
        groups.append(len(arguments[2]))
        return ask(*arguments)

    monkeypatch.setattr(pipelines.capture, "ask", stopped)
    with pytest.raises(KeyboardInterrupt):
        capture(make())
    assert len(store_of(make(), place).keys()) == 14
    monkeypatch.setattr(pipelines.capture, "ask", lambda *arguments: groups.append(len(arguments[2])) or ask(*arguments))
    capture(make())
    assert sum(groups) == len(whole)
    again = store_of(make(), place).load()
    assert again.keys() == whole.keys()
    assert all(again[key].tokens().tolist() == topk.tokens().tolist() for key, topk in whole.items() if topk is not None)


def test_a_student_trains_from_the_store_without_the_teacher(make: Callable[..., DistillConfig], asked: list[str], tmp_path: Path) -> None:
    objective = {"teacher": make().objective.teacher, "top_k": 4, "cross_entropy": 0.3}
    assert main(make(objective=objective)) == 0
    assert len(asked) == 1  # to capture
    assert main(make(objective=objective, name="other", seed=1)) == 0
    assert len(asked) == 1
    rows = [json.loads(line) for line in (tmp_path / "runs" / "student" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "loss" in row]
    assert len(trained) == 3
    assert all(row["loss"] == pytest.approx(0.7 * row["divergence"] + 0.3 * row["cross_entropy"], rel=1e-4) for row in trained)
    assert [row for row in rows if "eval_divergence" in row]
    assert load_checkpoint(str(tmp_path / "runs" / "student" / "checkpoint"))


def test_all_tokens_stored_end_at_the_weights_of_the_live_teacher(
    make: Callable[..., DistillConfig], teachers: list[str], tmp_path: Path
) -> None:
    """Two teachers, each for its task, through the whole program: stored with every token of the vocabulary, and live."""
    routed = {"teachers": {"lookup": teachers[1]}, "teacher": teachers[0], "beta": 0.5, "temperature": 2.0}
    for name, more in (("live", {}), ("stored", {"top_k": 10_000})):
        assert main(make(name=name, objective=routed | more, train={"max_steps": 4, "per_device_train_batch_tokens": 500})) == 0
    one, other = (load_checkpoint(str(tmp_path / "runs" / name / "checkpoint")).model.state_dict() for name in ("live", "stored"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=2e-3, rtol=0)
    manifest = json.loads((tmp_path / "runs" / "live" / "manifest.json").read_text())
    assert sorted(manifest["teachers"]) == sorted(teachers)


def test_a_collection_that_grew_behind_the_store_is_said(make: Callable[..., DistillConfig]) -> None:
    from pipelines.assembly import build_data

    [place] = capture(make(formats={"direct": 1.0}))
    data = build_data(make(), load_tokenizer(make().init.tokenizer))
    with pytest.raises(DataError, match="run the same command again"):
        with_distributions(make(), data, [place]).sources["lookup"].chunk(0)


def test_an_unreadable_file_is_named(make: Callable[..., DistillConfig]) -> None:
    [place] = capture(make())
    store = store_of(make(), place)
    store.folder.write_text(f"{place}/1.parquet", "no parquet")
    with pytest.raises(StorageError, match=r"1\.parquet in .*; delete it"):
        store.load()


def test_examples_are_found_by_what_they_read_and_learn() -> None:
    example = Example((5, 6, 7), (False, True, True), problem_id="p", weight=2.0)
    assert key_of(example) == key_of(replace(example, problem_id="q", weight=1.0, skill="add"))
    assert (
        len({key_of(example), key_of(replace(example, input_ids=(5, 6, 8))), key_of(replace(example, loss_mask=(False, False, True)))}) == 3
    )
    with pytest.raises(DataError, match="1 of 1 examples, such as one of problem 'p'"):
        attach([example], {})


def test_the_first_difference_of_two_vocabularies_is_named() -> None:
    assert first_difference({"a": 0, "b": 1}, {"b": 1, "a": 0}) is None
    assert first_difference({"a": 0, "b": 1}, {"a": 0, "c": 1}) == "id 1 is 'b' for the student and 'c' for the teacher"
    assert first_difference({"a": 0}, {"a": 0, "c": 1}) == "id 1 is no token for the student and 'c' for the teacher"


def test_another_vocabulary_is_refused_before_anything_starts(
    make: Callable[..., DistillConfig], tiny_model_dir: Path, tmp_path: Path, asked: list[str]
) -> None:
    for changes in ({}, {"top_k": 4}, {"lmbda": 0.5}):
        with pytest.raises(ConfigError, match=r"another vocabulary than the student: id \d+ is .* student with the teacher's tokenizer"):
            main(make(objective={"teacher": f"hf:{tiny_model_dir}"} | changes))
    assert not asked
    assert not (tmp_path / "runs" / "student" / "config.yaml").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_ray_train_read_what_the_driver_captured(
    make: Callable[..., DistillConfig], asked: list[str], tmp_path: Path, ray_session: None
) -> None:
    assert main(make(name="inline", train={"max_steps": 3, "per_device_train_batch_tokens": 400, "gradient_accumulation_steps": 2})) == 0
    shutil.rmtree(Path(str(make().collection and make().collection.path)) / "topk")
    train = {"max_steps": 3, "per_device_train_batch_tokens": 400, "gradient_accumulation_steps": 1}
    config = make(name="workers", backend="ray", num_workers=2, resources_per_worker={"CPU": 0.5}, train=train)
    assert main(config) == 0
    assert len(asked) == 2
    one, other = (load_checkpoint(str(tmp_path / "runs" / name / "checkpoint")).model.state_dict() for name in ("inline", "workers"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=0)
