"""`cleave distill`: gold examples in every format, run folders, resuming, exports that load, Ray Train, and mistakes with remedies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from cleave.config.base import load, validate
from cleave.config.distill import DistillConfig
from cleave.config.formats import Format
from cleave.errors import ConfigError
from cleave.examples import Encoder, Example
from cleave.lm.checkpoint import load_checkpoint
from cleave.plans import parse_plan
from cleave.prompts import load_prompts
from cleave.runs import RunFolder
from cleave.solutions import parse_solution
from cleave.tasks.reference import reference_task
from cleave.types import Problem
from pipelines.distill import main
from pipelines.sources import CHUNK, ExampleSource, held_out, supply_of
from pipelines.start import add_layers

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def make_config(folder: Path, **changes: Any) -> DistillConfig:
    """A run of four steps on two reference tasks."""
    data: dict[str, Any] = {
        "name": "tiny",
        "role": "decomposer",
        "tasks": ["lookup", {"task": "arithmetic", "dials": {"depths": [1]}}],
        "init": {"fresh": SHAPE},
        "train": {
            "max_steps": 4,
            "per_device_train_batch_tokens": 300,
            "gradient_accumulation_steps": 2,
            "save_steps": 2,
            "logging_steps": 1,
        },
        "evaluation": {"eval_steps": 2, "examples": 8, "generate": 2, "max_new_tokens": 4},
        "storage_path": str(folder),
    }
    return validate(DistillConfig, data | changes, "the test")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_added_layers_change_nothing_until_they_are_trained(tiny_model_dir: Path, count: int) -> None:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    deeper = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    add_layers(deeper, count)
    ids = torch.randint(3, 200, (2, 12))
    torch.testing.assert_close(deeper(ids).logits, plain(ids).logits)
    assert deeper.config.num_hidden_layers == len(deeper.model.layers) == len(deeper.config.layer_types) == 2 + count
    assert deeper.generate(ids[:1], max_new_tokens=8).tolist() == plain.generate(ids[:1], max_new_tokens=8).tolist(), (
        "each has its own cache"
    )
    deeper(ids).logits.sum().backward()
    assert all(layer.mlp.down_proj.weight.grad.abs().sum() > 0 for layer in deeper.model.layers)


def texts(tokenizer: Any, example: Example) -> tuple[str, str]:
    """Prompt and reply without the end token."""
    start = example.loss_mask.index(True)
    return tokenizer.decode(example.input_ids[:start]), tokenizer.decode(example.input_ids[start:-1])


def make_source(tokenizer: Any, name: Format, family: str = "arithmetic", seed: int = 0) -> ExampleSource:
    encoder = Encoder(tokenizer, 4000)
    return ExampleSource(
        supply_of(reference_task(family), "train"), prompts=load_prompts("reference-v1"), formats={name: 1.0}, encoder=encoder, seed=seed
    )


def problems_of(source: ExampleSource, examples: list[Example]) -> dict[str, Problem]:
    """The problems behind examples, found again by their ids, which hold the seed of their chunk."""
    seed = int(examples[0].problem_id.split("-")[2])
    return {problem.id: problem for problem in reference_task("arithmetic").problems("train", 100, seed=seed)}


def test_formats_say_what_they_promise(tiny_tokenizer: Any) -> None:
    prompts = load_prompts("reference-v1")
    for name in ("decompose", "steps_with_plan", "single", "direct", "step", "text"):
        source = make_source(tiny_tokenizer, name)
        examples = source.examples(30)
        assert len(examples) == 30
        problems = problems_of(source, examples)
        for example in examples:
            problem = problems[example.problem_id]
            prompt, reply = texts(tiny_tokenizer, example)
            assert (example.depth, example.skill) == (problem.depth, problem.skills[0])
            if name == "decompose":
                assert prompt == prompts.decompose(problem).text
                assert parse_plan(reply) == problem.gold_plan
            elif name == "steps_with_plan":
                assert prompt == prompts.solve(problem, "steps", problem.gold_plan).text
                assert parse_solution(reply).steps == problem.gold_steps
                assert parse_solution(reply).answer == problem.answer
            elif name == "single":
                assert prompt == prompts.solve(problem, "steps").text
                assert parse_solution(reply).answer == problem.answer
            elif name == "direct":
                assert prompt == prompts.solve(problem, "answer").text
                assert not parse_solution(reply).steps
                assert parse_solution(reply).answer == problem.answer
            elif name == "text":
                assert sum(example.loss_mask) == len(example) - 1


def test_a_step_is_asked_as_the_stepwise_strategy_asks_it(tiny_tokenizer: Any) -> None:
    source = make_source(tiny_tokenizer, "step")
    examples = source.examples(60)
    problems = problems_of(source, examples)
    for example in examples:
        problem = problems[example.problem_id]
        prompt, reply = texts(tiny_tokenizer, example)
        solution = parse_solution(reply)
        plan = parse_plan(prompt.partition("Plan:\n")[2].partition("Solution:\n")[0])
        assert len(solution.steps) == len(plan.steps)
        assert solution.steps[-1].answer == solution.answer
        known = {step.answer for step in problem.gold_steps}
        assert {step.answer for step in solution.steps} <= known


def test_chunks_are_functions_of_seed_and_index(tiny_tokenizer: Any) -> None:
    source = make_source(tiny_tokenizer, "decompose")
    assert len(source.chunk(0)) == CHUNK
    assert source.chunk(0) == make_source(tiny_tokenizer, "decompose").chunk(0)
    assert source.chunk(0)[:70] == source.examples(70)
    ids = [{example.input_ids for example in source.chunk(index)} for index in (0, 1)]
    other = {example.input_ids for example in make_source(tiny_tokenizer, "decompose", seed=1).chunk(0)}
    assert len(ids[0] & ids[1]) < 10
    assert len(ids[0] & other) < 10


class FourProblems:
    """A small stored task: four problems, two of them without what formats need."""

    name, description = "shelf", "four problems"
    splits = {"train": 4}  # noqa: RUF012

    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]:
        full = next(reference_task("lookup").problems("train", 1))
        bare = Problem("bare", "Who?", answer="Ann")
        unlabelled = Problem("unlabelled", "What?")
        yield from [full, bare, unlabelled, Problem("second", "Where?", answer="Rome")][:limit]

    def score(self, problem: Problem, answer: str | None) -> bool:
        return answer == problem.answer

    def lenient(self, problem: Problem, text: str) -> bool:
        return False


def test_stored_tasks_come_in_epochs_without_what_cannot_be_learned(tiny_tokenizer: Any) -> None:
    def source(formats: dict[Format, float]) -> ExampleSource:
        return ExampleSource(
            supply_of(FourProblems(), "train"), prompts=load_prompts("reference-v1"), formats=formats, encoder=Encoder(tiny_tokenizer, 1000)
        )

    direct = source({"direct": 1.0})
    epochs = [[example.problem_id for example in direct.chunk(index)] for index in range(6)]
    assert all(sorted(epoch) == ["bare", "lookup-train-0-0", "second"] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [example.problem_id for example in source({"decompose": 1.0}).chunk(0)] == ["lookup-train-0-0"]


def test_held_out_examples_cover_all_sources(tiny_tokenizer: Any) -> None:
    sources = [make_source(tiny_tokenizer, "decompose", family) for family in ("arithmetic", "lookup")]
    examples = held_out(sources, 9)
    assert [example.problem_id.split("-")[0] for example in examples] == ["arithmetic", "lookup"] * 4 + ["arithmetic"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert main(make_config(folder)) == 0
    return folder / "tiny"


def test_a_run_leaves_everything_that_explains_it(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.yaml", "manifest.json", "metrics.jsonl", "result.json", "tensorboard", "checkpoint"}
    assert load(DistillConfig, finished / "config.yaml") == make_config(finished.parent)
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert set(manifest["data"]["first_chunks"]) == {"lookup", "arithmetic"}
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "eval_loss" in row] == [2, 4]
    assert all(0 <= row["eval_exact_match"] <= 1 for row in rows if "eval_loss" in row)
    assert list((finished / "tensorboard").iterdir())


def test_the_export_is_a_checkpoint_that_loads(finished: Path) -> None:
    checkpoint = load_checkpoint(str(finished / "checkpoint"))
    assert checkpoint.eos_ids == {checkpoint.tokenizer.eos_token_id}
    described = json.loads((finished / "checkpoint" / "cleave.json").read_text())
    assert described == {"prompts": "reference-v1", "role": "decomposer", "profile": "default-v1"}
    card = (finished / "checkpoint" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    assert f"{parameters:,} parameters" in body


def test_a_finished_run_says_so_and_trains_no_more(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "metrics.jsonl").read_text()
    assert main(make_config(finished.parent), as_json=True) == 0
    out, err = capsys.readouterr()
    assert "is finished" in err
    assert json.loads(out)["steps"] == 4
    assert (finished / "metrics.jsonl").read_text() == before


def test_another_config_in_the_same_folder_is_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"started with seed=0, not 1; use another name"):
        main(make_config(finished.parent, seed=1))
    assert main(make_config(finished.parent, num_threads=1)) == 0  # threads change no weights


def test_dry_run_prints_the_config_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(tmp_path)
    assert main(config, dry_run=True) == 0
    out, err = capsys.readouterr()
    assert validate(DistillConfig, yaml.safe_load(out), "stdout") == config
    assert "4 steps" in err
    assert not list(tmp_path.iterdir())


def test_lora_is_trained_and_merged(tmp_path: Path, tiny_model_dir: Path) -> None:
    train = {"max_steps": 2, "per_device_train_batch_tokens": 600, "gradient_accumulation_steps": 1, "learning_rate": 0.01}
    config = make_config(
        tmp_path,
        init={"model": f"hf:{tiny_model_dir}"},
        lora={"r": 2},
        train=train,
        evaluation={"examples": 0},
        output_dir=str(tmp_path / "out"),
    )
    assert main(config) == 0
    merged = load_checkpoint(str(tmp_path / "out")).model.state_dict()
    start = load_checkpoint(str(tiny_model_dir)).model.state_dict()
    assert merged.keys() == start.keys()
    changed = {name for name in merged if not torch.equal(merged[name], start[name])}
    assert changed
    assert all("proj" in name for name in changed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": {}}, "exactly one of model"),
        ({"init": {"model": "openai:m@http://x/v1"}}, "only local weights"),
        ({"tasks": ["lookup", "lookup"]}, "own label"),
        ({"stages": [{"weights": {"reading": 1.0}}]}, "which is no task of this run"),
        ({"num_workers": 2}, "inline backend has one worker"),
        ({"train": {"max_tokens": None}}, "needs an end"),
        ({"tasks": ["no-such-task"]}, "no-such-task"),
        ({"tasks": [{"task": "lookup", "split": "nowhere"}]}, "no split 'nowhere'"),
        ({"train": {"max_length": 5000}}, "1024 positions"),
        ({"storage_path": "memory://runs"}, "local disk"),
        ({"init": {"fresh": SHAPE, "tokenizer": "/no/such/folder"}}, "check init.tokenizer"),
    ],
)
def test_mistakes_are_one_sentence_with_a_remedy(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(make_config(tmp_path, **changes))


def _start(config: DistillConfig, path: Path) -> subprocess.Popen[str]:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "cleave", "distill", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for(paths: Path, pattern: str, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not list(paths.glob(pattern)):
        assert time.monotonic() < end, f"no {pattern} in {paths}"
        time.sleep(0.02)


def _long(folder: Path, **changes: Any) -> DistillConfig:
    train = {"max_steps": 60, "per_device_train_batch_tokens": 300, "gradient_accumulation_steps": 1, "save_steps": 3}
    return make_config(folder, train=train, evaluation={"examples": 0}, **changes)


def _same_weights(one: Path, other: Path) -> None:
    first, second = (load_checkpoint(str(path)).model.state_dict() for path in (one, other))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_a_stopped_process_resumes_to_the_same_weights(tmp_path: Path, number: signal.Signals, code: int) -> None:
    assert main(_long(tmp_path / "whole")) == 0
    config = _long(tmp_path / "stopped")
    process = _start(config, tmp_path / "config.yaml")
    _wait_for(tmp_path / "stopped" / "tiny", "trainer/checkpoint-*/cleave_state.json")
    process.send_signal(number)
    _, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    assert code < 0 or "run the same command again" in err
    assert not (tmp_path / "stopped" / "tiny" / "result.json").exists()
    assert main(config) == 0
    _same_weights(tmp_path / "whole" / "tiny" / "checkpoint", tmp_path / "stopped" / "tiny" / "checkpoint")


@pytest.mark.slow
def test_compiled_layers_train_and_evaluate_to_the_same_weights(tmp_path: Path, finished: Path) -> None:
    train = make_config(tmp_path).train.model_dump() | {"torch_compile": True}
    assert main(make_config(tmp_path, train=train)) == 0
    _same_weights(finished / "checkpoint", tmp_path / "tiny" / "checkpoint")
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (finished, tmp_path / "tiny")]
    measured = [[row["eval_loss"] for row in run if "eval_loss" in row] for run in rows]
    assert measured[0] == pytest.approx(measured[1], abs=1e-4)


@pytest.mark.ray
def test_ray_train_gives_the_weights_of_the_inline_run(tmp_path: Path, finished: Path, ray_session: None) -> None:
    """Two workers that each take half of what the inline worker took per step end at the same weights."""
    train = {"max_steps": 4, "per_device_train_batch_tokens": 300, "gradient_accumulation_steps": 1, "save_steps": 2, "logging_steps": 1}
    config = make_config(tmp_path, backend="ray", num_workers=2, resources_per_worker={"CPU": 0.5}, train=train)
    assert main(config) == 0
    run = tmp_path / "tiny"
    left = {"config.yaml", "manifest.json", "metrics.jsonl", "result.json", "checkpoint", "tensorboard"}
    assert {path.name for path in run.iterdir()} == left
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    _same_weights(finished / "checkpoint", run / "checkpoint")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]


@pytest.mark.ray
def test_a_cluster_that_is_too_small_is_refused(tmp_path: Path, ray_session: None) -> None:
    config = make_config(tmp_path, backend="ray", num_workers=3, resources_per_worker={"CPU": 64})
    with pytest.raises(ConfigError, match=r"192 CPU, the cluster has 4"):
        main(config)


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_weights_are_the_same(tmp_path: Path, ray_session: None) -> None:
    import threading

    assert main(_long(tmp_path / "whole")) == 0
    config = _long(tmp_path / "ray", backend="ray", resources_per_worker={"CPU": 0.5})
    killed: list[int] = []

    def kill() -> None:
        _wait_for(tmp_path / "ray" / "tiny", "ray/**/checkpoint-*/cleave_state.json")
        killed.extend(_workers())
        for pid in killed[:1]:
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    assert main(config) == 0
    thread.join()
    assert len(killed) == 1
    _same_weights(tmp_path / "whole" / "tiny" / "checkpoint", tmp_path / "ray" / "tiny" / "checkpoint")


@pytest.mark.ray
@pytest.mark.slow
def test_runs_are_kept_at_any_place_that_fsspec_knows(tmp_path: Path, tiny_model_dir: Path, ray_session: None) -> None:
    """Checkpoints, metrics and the export, through a file system that is none of pyarrow's own; adapters are merged there too."""
    config = make_config(
        tmp_path,
        storage_path=f"dir::file://{tmp_path}/far",
        init={"model": f"hf:{tiny_model_dir}"},
        lora={"r": 2},
        backend="ray",
        train={"max_steps": 2, "per_device_train_batch_tokens": 300, "save_steps": 1, "logging_steps": 1, "report_to": []},
    )
    assert main(config) == 0
    run = RunFolder.open(config.storage_path, "tiny")
    assert not run.is_local
    assert json.loads(run.read_text("result.json"))["checkpoint"] == f"{config.storage_path}/tiny/checkpoint"
    assert [json.loads(line)["step"] for line in run.read_text("metrics.jsonl").splitlines() if '"loss"' in line] == [1, 2]
    assert {name.partition("/")[0] for name in run.names(".", recursive=True)} == {
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "result.json",
        "checkpoint",
    }
    (found,) = tmp_path.rglob("checkpoint/config.json")
    assert load_checkpoint(str(found.parent)).model.num_parameters() == load_checkpoint(str(tiny_model_dir)).model.num_parameters()


def test_a_place_that_tensorboard_cannot_write_to_is_found_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.distill.run_on_ray", lambda config, folder: pytest.fail("workers were started"))
    monkeypatch.setattr("pipelines.live_metrics.events_place", lambda folder: "nosuch://bucket/tensorboard")
    with pytest.raises(ConfigError, match=r"TensorBoard cannot write to nosuch://bucket.*train\.report_to"):
        main(make_config(tmp_path, backend="ray"))


def _workers() -> list[int]:
    """Process ids of Ray Train's workers of this session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::") and b"TrainWorker" in command and b"Controller" not in command:
            found.append(int(path.parent.name))
    return found


def test_storage_of_another_run_is_read_by_todays_rules(tmp_path: Path) -> None:
    """A config written before a field existed still belongs to its run."""
    config = make_config(tmp_path)
    folder = RunFolder.open(str(tmp_path), "tiny")
    folder.prepare()
    older = config.model_dump(mode="json")
    del older["lora"]
    older["tasks"][1] = {"task": "arithmetic", "dials": {"depths": [1]}}
    folder.write_text("config.yaml", yaml.safe_dump(older))
    from pipelines.distill import open_run

    assert open_run(config).location == folder.location
