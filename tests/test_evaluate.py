"""`cleave evaluate` from config to report: one trace per problem, stops and resumes, outages, kills; on recordings and real Ray."""

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from fsspec.implementations.memory import MemoryFileSystem

import pipelines.session
from actors.pool import PoolHandle
from cleave.config.base import load, validate
from cleave.config.evaluate import EvaluateConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.errors import ConfigError, DataError, GenerationError, StorageError
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.runs import RunFolder
from cleave.tasks.reference.task import reference_task
from cleave.traces import problem_key, read_traces, shard_names
from cleave.types import Problem, Trace
from pipelines.evaluate import main
from pipelines.workload import Finished, Workload
from tests.scripted import ScriptedModel, record

VARIANTS = ("static", "single", "direct")
COUNT = 20


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    problems = [problem for family in ("arithmetic", "lookup") for problem in reference_task(family).problems("test", limit=COUNT)]
    path = tmp_path_factory.mktemp("recording") / "calls.jsonl"
    record(path, problems, [ReasoningConfig(strategy=name) for name in VARIANTS])  # type: ignore[arg-type]
    return path


@pytest.fixture
def config(recording: Path, tmp_path: Path) -> Callable[..., EvaluateConfig]:
    def build(**changes: Any) -> EvaluateConfig:
        role = {"model": f"recorded:{recording}", "prompts": "reference-v1", "resources": {"num_cpus": 0.25}}
        data: dict[str, Any] = {
            "name": "demo",
            "storage_path": str(tmp_path),
            "backend": "inline",
            "tasks": [{"task": "arithmetic", "problems": COUNT}, {"task": "lookup", "problems": COUNT}],
            "roles": {"decomposer": role, "solver": role},
            "variants": dict.fromkeys(VARIANTS),
            "report": False,
            "flush_traces": 7,
        }
        return validate(EvaluateConfig, data | changes, "test")

    return build


def workload(config: EvaluateConfig) -> Workload:
    return Workload(config.tasks, config.strategies())


def answers(config: EvaluateConfig) -> dict[tuple[str, str, int], tuple[str | None, str]]:
    """What came out, without what may differ between runs (times, order)."""
    rows = list(read_traces(RunFolder.open(config.storage_path, config.name)))
    found = {(row.variant, row.task, row.index): (row.trace.answer, row.outcome) for row in rows}
    assert len(found) == len(rows)
    return found


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int, act: Callable[[Roles], object]) -> list[int]:
    """Call `act` once, when `count` problems have been reasoned about. Returns a list that grows by one per problem asked."""
    asked: list[int] = []
    fired: list[int] = []

    async def watched(problem: Problem, roles: Roles, strategy: ReasoningConfig) -> Trace:
        trace = await reason(problem, roles, strategy)
        asked.append(1)
        if len(asked) == count and not fired:
            fired.append(1)
            if (result := act(roles)) is not None:
                await result  # type: ignore[misc]
        return trace

    monkeypatch.setattr(pipelines.session, "reason", watched)
    return asked


def test_every_problem_has_one_trace_and_the_figures_add_up(
    config: Callable[..., EvaluateConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(config(report=True), as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["traces"] == 2 * COUNT * len(VARIANTS)
    found = answers(config())
    overall = {row["variant"]: row for row in shown["figures"] if row["kind"] == "accuracy" and row["by"] == "overall"}
    for variant in VARIANTS:
        right = sum(outcome == "right" for (name, _, _), (_, outcome) in found.items() if name == variant)
        assert (overall[variant]["n"], overall[variant]["right"]) == (2 * COUNT, right)
        assert 0 < right < 2 * COUNT
    run = Path(config().storage_path, "demo")
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "manifest.json", "metrics.jsonl", "report.html", "traces.parquet"]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert set(manifest["data"]) == {"arithmetic", "lookup"}
    assert manifest["models"]["solver"]["name"] == "scripted"
    assert [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] == shown["figures"]


def test_table_on_stdout_progress_on_stderr(config: Callable[..., EvaluateConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(config()) == 0
    out, err = capsys.readouterr()
    assert "Paired differences" in out
    assert "static - direct" in out
    assert f"evaluate: {2 * COUNT * 3}/{2 * COUNT * 3}" in err


def test_resumed_run_equals_an_uninterrupted_one(config: Callable[..., EvaluateConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = config(name="whole")
    assert main(whole) == 0
    asked = stop_after(monkeypatch, 31, lambda roles: signal.raise_signal(signal.SIGINT))
    assert main(config(max_in_flight=4)) == pipelines.session.INTERRUPTED
    kept = len(Finished.read(RunFolder.open(config().storage_path, "demo")))
    assert 31 <= kept <= len(asked)
    asked.clear()
    assert main(config(max_in_flight=64)) == 0
    assert len(asked) == len(VARIANTS) * 2 * COUNT - kept
    assert answers(config()) == answers(whole)
    figures = [Path(each.storage_path, each.name, "metrics.jsonl").read_text() for each in (whole, config())]
    drop = [[row for row in map(json.loads, text.splitlines()) if row["kind"] != "usage"] for text in figures]
    assert drop[0] == drop[1]


def test_complete_run_is_shown_again_without_asking(
    config: Callable[..., EvaluateConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(config(), as_json=True)
    first = capsys.readouterr().out
    asked = stop_after(monkeypatch, 1, lambda roles: None)
    assert main(config(), as_json=True) == 0
    assert capsys.readouterr().out == first
    assert asked == []
    assert main(config(overwrite=True), as_json=True) == 0
    assert len(asked) == len(VARIANTS) * 2 * COUNT


def test_a_complete_run_is_not_shown_for_a_retrained_checkpoint(
    config: Callable[..., EvaluateConfig], tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    role = {"model": f"hf:{folder}", "prompts": "reference-v1", "max_tokens": 4}
    tiny = config(roles={"decomposer": role, "solver": role}, tasks=[{"task": "lookup", "problems": 2}], variants={"direct": None})
    assert main(tiny) == 0
    assert main(tiny) == 0
    settings = json.loads((folder / "config.json").read_text()) | {"rms_norm_eps": 1e-3}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"the (decomposer|solver) of the run .* was .* and is .*overwrite=true"):
        main(tiny)


def test_sigterm_keeps_what_is_finished(config: Callable[..., EvaluateConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause(roles: Roles) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(5)

    stop_after(monkeypatch, 10, pause)
    assert main(config(max_in_flight=2)) == pipelines.session.TERMINATED
    assert len(Finished.read(RunFolder.open(config().storage_path, "demo"))) >= 9


def test_ctrl_c_of_the_real_command(config: Callable[..., EvaluateConfig], tmp_path: Path, root: Path) -> None:
    settings = config(tasks=[{"task": "lookup", "split": "test", "problems": 200_000}], max_in_flight=1, max_consecutive_failures=1_000_000)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    command = [sys.executable, "-m", "cleave", "evaluate", str(path)]
    child = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    folder = RunFolder.open(str(tmp_path), "demo")
    deadline = time.monotonic() + 60
    while not shard_names(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "run the same command again to go on from here" in err
    assert "Traceback" not in err
    assert len(Finished.read(folder)) >= 7


def test_outage_stops_the_run_and_loses_nothing(config: Callable[..., EvaluateConfig], recording: Path, tmp_path: Path) -> None:
    """The recording ends after some problems: from there on every call fails, as with an endpoint that went down."""
    lines = recording.read_text().splitlines(keepends=True)
    short = tmp_path / "short.jsonl"
    short.write_text("".join(lines[:25]))
    role = {"model": f"recorded:{short}", "prompts": "reference-v1"}
    tasks = [{"task": "arithmetic", "problems": COUNT}]
    down = config(roles={"decomposer": role, "solver": role}, tasks=tasks, variants={}, max_consecutive_failures=5, max_in_flight=1)
    with pytest.raises(GenerationError, match=r"no recorded generate call.*5 problems in a row.*finished problems are kept"):
        main(down)
    folder = RunFolder.open(str(tmp_path), "demo")
    kept = list(read_traces(folder, shard_names(folder)))
    assert len(kept) >= 10
    short.write_text("".join(lines))
    assert main(down) == 0
    assert all(outcome in ("right", "wrong") for _, outcome in answers(down).values())
    assert len(answers(down)) == COUNT


def test_outage_of_one_role_is_seen_between_variants_that_do_not_need_it(
    config: Callable[..., EvaluateConfig], recording: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.jsonl"
    record(empty, [], [])
    role = {"model": f"recorded:{recording}", "prompts": "reference-v1"}
    roles = {"decomposer": role | {"model": f"recorded:{empty}"}, "solver": role}
    with pytest.raises(GenerationError, match="6 problems in a row"):
        main(config(roles=roles, max_consecutive_failures=6, max_in_flight=3))
    folder = RunFolder.open(str(tmp_path), "demo")
    assert {row.variant for row in read_traces(folder, shard_names(folder))} == {"single", "direct"}


def test_scattered_failures_are_traces(config: Callable[..., EvaluateConfig], recording: Path, tmp_path: Path) -> None:
    lines = recording.read_text().splitlines(keepends=True)
    holed = tmp_path / "holed.jsonl"
    holed.write_text("".join(line for i, line in enumerate(lines) if i % 9))
    role = {"model": f"recorded:{holed}", "prompts": "reference-v1"}
    some = config(roles={"decomposer": role, "solver": role}, max_consecutive_failures=20)
    assert main(some) == 0
    outcomes = [outcome for _, outcome in answers(some).values()]
    assert len(outcomes) == len(VARIANTS) * 2 * COUNT
    assert 0 < outcomes.count("failed") < len(outcomes) / 2


def test_nothing_works_is_an_error_not_a_table_of_zeros(config: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    record(empty, [], [])
    role = {"model": f"recorded:{empty}", "prompts": "reference-v1"}
    with pytest.raises(GenerationError, match="no recorded generate call"):
        main(config(roles={"decomposer": role, "solver": role}, tasks=[{"task": "lookup", "problems": 3}]))


def test_changed_config_is_refused_and_operational_fields_are_free(config: Callable[..., EvaluateConfig]) -> None:
    assert main(config()) == 0
    with pytest.raises(ConfigError, match=r"holds another run \(reasoning\.temperature was 0\.0, is 0\.5\); choose another name=…"):
        main(config(reasoning={"temperature": 0.5}))
    assert main(config(max_in_flight=3, bootstrap={"confidence": 0.9})) == 0


def test_a_field_that_came_since_has_its_default(config: Callable[..., EvaluateConfig]) -> None:
    assert main(config()) == 0
    path = Path(config().storage_path, config().name, "config.yaml")
    text = path.read_text()
    assert "  gold_steps: false\n" in text
    path.write_text(text.replace("  gold_steps: false\n", ""))
    assert main(config()) == 0


def test_changed_data_is_noticed_on_resume(
    config: Callable[..., EvaluateConfig], tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = list(reference_task("lookup").problems("test", limit=COUNT))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"id": p.id, "question": p.question, "answer": p.answer}) + "\n" for p in problems))
    task = {"name": f"jsonl:{data}", "fields": {"id": "id"}}
    split = next(iter(_splits(task)))
    own = config(tasks=[{"task": task, "split": split, "problems": None, "label": "own"}], variants={}, max_in_flight=1)
    stop_after(monkeypatch, 5, lambda roles: signal.raise_signal(signal.SIGINT))
    assert main(own) == pipelines.session.INTERRUPTED
    data.write_text("".join(json.dumps({"id": p.id, "question": p.question + " Please.", "answer": p.answer}) + "\n" for p in problems))
    with pytest.raises(DataError, match=r"problems of own are not those.*overwrite=true"):
        main(own)


def _splits(task: dict[str, Any]) -> dict[str, int | None]:
    from cleave.tasks.registry import get_task

    return dict(get_task(task).splits)


def test_folder_that_cannot_be_written_is_refused_before_work(config: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="set storage_path elsewhere"):
        main(config(storage_path=str(tmp_path / "file" / "runs")))


class FillingDisk(MemoryFileSystem):  # type: ignore[misc]
    """Runs out of space at the third shard, until `room` is made."""

    protocol = "filling"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    room = False

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "wb" and path.endswith("-000002.parquet.partial") and not FillingDisk.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super()._open(path, mode, **options)


def test_disk_that_fills_up_keeps_what_was_written(config: Callable[..., EvaluateConfig]) -> None:
    fsspec.register_implementation("filling", FillingDisk, clobber=True)
    settings = config(storage_path="filling://runs")
    with pytest.raises(StorageError, match=r"no space left for filling://runs/demo.*finished work is kept"):
        main(settings)
    assert len(Finished.read(RunFolder.open(settings.storage_path, settings.name))) == 14
    FillingDisk.room = True
    assert main(settings) == 0
    assert len(answers(settings)) == len(VARIANTS) * 2 * COUNT


def test_run_behind_a_url(config: Callable[..., EvaluateConfig]) -> None:
    remote = config(storage_path="memory://evaluations")
    assert main(remote) == 0
    assert len(answers(remote)) == len(VARIANTS) * 2 * COUNT


def test_recording_a_run_replays_it(config: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    again = tmp_path / "again.jsonl"
    assert main(config(), record=again) == 0
    role = {"model": f"recorded:{again}", "prompts": "reference-v1"}
    replay = config(name="replay", roles={"decomposer": role, "solver": role})
    assert main(replay) == 0
    assert answers(replay) == answers(config())


def test_dry_run_starts_and_writes_nothing(
    config: Callable[..., EvaluateConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(config(), dry_run=True) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["name"] == "demo"
    assert f"({len(VARIANTS) * 2 * COUNT} traces)" in err
    assert not (tmp_path / "demo").exists()


def test_workload_takes_turns_and_skips_what_is_finished(config: Callable[..., EvaluateConfig]) -> None:
    items = list(workload(config()).items(Finished().has))
    assert [(item.label, item.index, item.variant) for item in items[:4]] == [
        ("arithmetic", 0, "static"),
        ("arithmetic", 0, "single"),
        ("arithmetic", 0, "direct"),
        ("lookup", 0, "static"),
    ]
    finished = Finished()
    for item in items[::2]:
        finished.add(item.variant, item.label, item.index, problem_key(item.problem))
    left = list(workload(config()).items(finished.has))
    assert [(item.variant, item.problem) for item in left] == [(item.variant, item.problem) for item in items[1::2]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tasks": [{"task": "nonsense"}]}, "nonsense"),
        ({"tasks": [{"task": "arithmetic", "split": "nope"}]}, "no split 'nope'"),
        ({"tasks": [{"task": "arithmetic", "problems": None}]}, "has no end; set problems"),
        ({"tasks": ["arithmetic", "arithmetic"]}, "two tasks are called 'arithmetic'"),
        ({"variants": {"a": {"strategy": "magic"}}}, r"variants\.a\.strategy"),
        ({"variants": {"a": {"colour": "red"}}}, r"variants\.a\.colour"),
        ({"tasks": [{"task": "arithmetic", "problms": 3}]}, r"did you mean 'tasks\.0\.problems'"),
        ({"max_in_fligth": 3}, "did you mean '?max_in_flight"),
        ({"name": "../up"}, "cannot name a run"),
    ],
)
def test_mistakes_are_one_sentence(config: Callable[..., EvaluateConfig], changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        main(config(**changes))


def test_variants_change_only_what_they_name(config: Callable[..., EvaluateConfig]) -> None:
    base = {"seed": 5, "budget": {"max_tokens": 100, "max_calls": 3}}
    settings = config(reasoning=base, variants={"vote": {"n": 8, "temperature": 0.7, "budget": {"max_calls": 9}}})
    vote = settings.strategies()["vote"]
    assert (vote.n, vote.seed, vote.budget.max_tokens, vote.budget.max_calls) == (8, 5, 100, 9)
    assert list(config(variants={}).strategies()) == ["static"]


@pytest.mark.parametrize("path", sorted(Path("configs/evaluate").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_load(path: Path) -> None:
    settings = load(EvaluateConfig, path)
    assert settings.name == path.stem
    assert settings.strategies()


@pytest.mark.ray
def test_killing_a_solver_changes_neither_traces_nor_answers(
    ray_session: None, config: Callable[..., EvaluateConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = config(name="whole")
    assert main(whole) == 0
    roles = whole.roles.model_dump(mode="json")
    roles["solver"]["resources"]["num_replicas"] = 2
    pids: list[int] = []

    async def kill(roles: Roles) -> None:
        assert isinstance(roles.solver, PoolHandle)
        pids.extend(health.pid for health in await roles.solver.health())
        os.kill(pids[0], signal.SIGKILL)

    asked = stop_after(monkeypatch, 15, kill)
    hit = config(backend="actors", roles=roles, max_in_flight=6)
    assert main(hit) == 0
    assert len(pids) == 2
    assert len(asked) == len(VARIANTS) * 2 * COUNT
    assert answers(hit) == answers(whole)


@pytest.mark.ray
def test_too_small_cluster_is_refused_at_once(ray_session: None, config: Callable[..., EvaluateConfig]) -> None:
    roles = config().roles.model_dump(mode="json")
    roles["solver"]["resources"]["num_cpus"] = 32
    with pytest.raises(ConfigError, match=r"roles\.solver\.resources\.num_cpus=\d"):
        main(config(backend="actors", roles=roles))


def test_scripted_model_is_wrong_sometimes() -> None:
    problems = list(reference_task("arithmetic").problems("test", limit=30))
    replies = [ScriptedModel(problems)._reply(f"Question: {problem.text}\nAnswer:\n", 0).text for problem in problems]
    assert 3 < sum(reply.endswith("wrong") for reply in replies) < 27
