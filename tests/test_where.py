"""Where a command runs: the where file, what is made of it, and following a job through broken connections."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from ray.dashboard.modules.job.pydantic_models import JobDetails, JobType
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from cleave.__main__ import main as cleave
from cleave.config.base import load, validate
from cleave.config.fleet import FleetConfig, GroupConfig
from cleave.config.submit import SubmitConfig
from cleave.config.where import WhereConfig, is_secret, load_where, where_fields
from cleave.errors import ConfigError
from cluster import follow as following
from cluster.dashboard import ClusterUnavailable
from cluster.doctor import fits, last_report
from cluster.follow import StatusLine, follow
from cluster.jobs import results_of
from cluster.package import build_package, chosen_files
from cluster.submit import RESULTS, entrypoint, metadata_of

ROOT = Path(__file__).resolve().parent.parent
WHERE = sorted((ROOT / "configs" / "where").glob("*.yaml"))


@pytest.mark.parametrize("path", WHERE, ids=lambda path: path.stem)
def test_shipped_where_files_are_read(path: Path) -> None:
    where = load_where(path)
    assert where.storage_path
    assert not any(is_secret(name) for name in where.env)


def test_a_secret_has_no_value_in_a_where_file(tmp_path: Path) -> None:
    path = tmp_path / "where.yaml"
    path.write_text("env: {HF_TOKEN: abc}\n")
    with pytest.raises(ConfigError, match="HF_TOKEN; list the name under secrets"):
        load_where(path)
    path.write_text("secrets: [HF_TOKEN=abc]\n")
    with pytest.raises(ConfigError, match="is no name of a variable"):
        load_where(path)
    path.write_text("storage: /x\n")
    with pytest.raises(ConfigError, match="storage_path"):
        load_where(path)
    with pytest.raises(ConfigError, match="is in env and in secrets"):
        validate(WhereConfig, {"env": {"A": "1"}, "secrets": ["A"]}, "a test")


def test_the_command_line_goes_over_the_where_file(tmp_path: Path) -> None:
    path = tmp_path / "where.yaml"
    path.write_text("address: http://head:8265\nstorage_path: /shared\nenv: {A: '1', B: '2'}\npip: [wandb]\n")
    fields = where_fields(path, {"address": None, "storage_path": "s3://x", "env": {"B": "3"}, "command": ["tasks", "list"]})
    config = validate(SubmitConfig, fields, "a test")
    assert (config.address, config.storage_path, config.env, config.pip) == ("http://head:8265", "s3://x", {"A": "1", "B": "3"}, ("wandb",))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("evaluate", "a.yaml"), "python -m cleave evaluate a.yaml storage_path=/shared"),
        (("--", "cleave", "tune", "curriculum", "a.yaml"), "python -m cleave tune curriculum a.yaml storage_path=/shared"),
        (("evaluate", "a.yaml", "storage_path=/mine"), "python -m cleave evaluate a.yaml storage_path=/mine"),
        (("serve", "a.yaml"), "python -m cleave serve a.yaml"),
        (("tasks", "list"), "python -m cleave tasks list"),
        (("python", "-c", "1"), "python -c 1"),
    ],
)
def test_results_go_where_the_place_says(command: tuple[str, ...], said: str) -> None:
    assert entrypoint(SubmitConfig(command=command, storage_path="/shared")) == said


def test_what_the_driver_reserves() -> None:
    assert WhereConfig().reserved == {}
    where = WhereConfig(entrypoint_num_cpus=2, entrypoint_memory=5, entrypoint_resources={"licence": 1})
    assert where.reserved == {"CPU": 2, "memory": 5, "licence": 1}


def test_jobs_carry_where_their_results_are() -> None:
    config = SubmitConfig(
        command=("evaluate", "configs/evaluate/smoke.yaml", "name=n"), working_dir=str(ROOT), storage_path="s3://x/", metadata={"team": "a"}
    )
    assert metadata_of(config) == {"cleave_program": "evaluate", "job_name": "n", RESULTS: "s3://x/n", "team": "a"}
    assert metadata_of(SubmitConfig(command=("tasks", "list"))) == {}
    with pytest.raises(ConfigError, match="no config file"):
        metadata_of(SubmitConfig(command=("evaluate", "none.yaml")))


def test_results_that_this_machine_does_not_see(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="inside its own copy of the tree"):
        results_of("j", "runs/x")
    with pytest.raises(ConfigError, match="which this machine does not see"):
        results_of("j", str(tmp_path / "none"))
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint" / "config.json").write_text("{}")
    assert results_of("j", str(tmp_path / "run")).names(".", recursive=True) == ["checkpoint/config.json"]


def test_further_patterns_are_left_out_and_the_limit_is_the_files(tmp_path: Path) -> None:
    for name in ("a.py", "data/b.bin", "deep/data/c.bin"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name)
    assert [path.name for path in chosen_files(tmp_path / "tree", ["data/"])] == ["a.py"]
    assert build_package(tmp_path / "tree", tmp_path / "p.zip", excludes=["*.bin"]) == 1
    with pytest.raises(ConfigError, match="more than 0 MB"):
        build_package(tmp_path / "tree", tmp_path / "p.zip", max_bytes=100)


def test_a_report_is_found_in_a_noisy_log() -> None:
    said = json.dumps({"status": "ok", "findings": [], "nodes": []})
    assert last_report(f"starting\n{said}\n(raylet) a warning\n") == {"status": "ok", "findings": [], "nodes": []}
    assert last_report("Traceback\nBoom") is None


def test_commands_that_need_nothing_are_not_examined() -> None:
    nobody: Any = None
    assert fits(nobody, SubmitConfig(command=("tasks", "list")), Path("tree.zip"))
    for needs in ({"secrets": ("HF_TOKEN",)}, {"entrypoint_num_cpus": 1.0}, {"command": ("evaluate", "a.yaml")}):
        with pytest.raises(AttributeError):  # it asks the cluster, and there is none
            fits(nobody, SubmitConfig(**{"command": ("tasks", "list"), **needs}), Path("tree.zip"))


def test_groups_of_a_fleet() -> None:
    fixed = GroupConfig(name="a", replicas=3)
    assert (fixed.fewest, fixed.most) == (3, 3)
    assert not FleetConfig(groups=(fixed,)).scales
    assert FleetConfig(groups=(GroupConfig(name="a", max_replicas=3),)).scales
    for wrong in ({"name": "A b"}, {"name": "a", "memory": "16"}, {"name": "a", "replicas": 3, "max_replicas": 2}):
        with pytest.raises(ConfigError):
            validate(GroupConfig, wrong, "a test")
    with pytest.raises(ConfigError, match="names of their own"):
        validate(FleetConfig, {"groups": [{"name": "a"}, {"name": "a"}]}, "a test")


class Head:
    """A head whose job writes `log` and whose connections break after so many characters each; a negative number: it is away."""

    def __init__(self, log: str, breaks: list[int], status: JobStatus = JobStatus.SUCCEEDED) -> None:
        self.log, self.breaks, self.status = log, breaks, status
        self.connections = 0

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.connections += 1
        end = self.breaks.pop(0) if self.breaks else len(self.log)
        if end < 0:
            raise ConnectionError("away")
        for i in range(0, end, 3):
            yield self.log[i : min(i + 3, end)]
            await asyncio.sleep(0)
        if end < len(self.log):
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, job: str) -> JobDetails:
        if self.breaks and self.breaks[0] < 0:
            raise ConnectionError("away")
        return JobDetails(type=JobType.SUBMISSION, submission_id=job, status=self.status, entrypoint="x", driver_exit_code=0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RECONNECT_S", 0.01)
    monkeypatch.setattr(following, "POLL_S", 0.01)


def test_a_log_is_whole_after_broken_connections(impatient: None, capsys: pytest.CaptureFixture[str]) -> None:
    log = "".join(f"line {i}\n" for i in range(50))
    head: Any = Head(log, breaks=[100, -1, -1, 101, 7])
    printed = io.StringIO()
    assert follow(head, "j", "http://head", to=printed) == 0
    assert printed.getvalue() == log
    assert head.connections == 6
    assert "lost the connection" in capsys.readouterr().err


def test_a_dashboard_that_stays_away_ends_the_following(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RECONNECT_WITHIN_S", 0.05)
    head: Any = Head("abc", breaks=[-1] * 10_000)
    with pytest.raises(ClusterUnavailable, match=r"the job may go on: `cleave jobs logs j --follow`"):
        follow(head, "j", "http://head", to=io.StringIO())


class Forgetful(Head):
    """A head that takes the token no more once a part of the log is read; `asked`: it says so to questions, not to the log's connection."""

    def __init__(self, *, asked: bool) -> None:
        super().__init__("abcdef", breaks=[3])
        self.asked = asked

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        if self.connections and not self.asked:
            request: Any = None
            raise aiohttp.WSServerHandshakeError(request, (), status=401)
        async for text in super().tail_job_logs(job):
            yield text

    def get_job_info(self, job: str) -> JobDetails:
        raise AuthenticationError("token expired")


@pytest.mark.parametrize("asked", [True, False])
def test_a_token_that_expires_meanwhile_is_said_at_once(asked: bool, impatient: None) -> None:
    head: Any = Forgetful(asked=asked)
    with pytest.raises(ConfigError, match=r"http://head wants another token.*RAY_AUTH_TOKEN"):
        follow(head, "j", "http://head", to=io.StringIO())
    assert head.connections <= 2


class Stunned(Head):
    """A head that accepts connections and says nothing: its machine is out of memory, or cut off."""

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.connections += 1
        await asyncio.sleep(600)
        yield ""

    def get_job_info(self, job: str) -> JobDetails:
        raise requests.exceptions.ReadTimeout("no reply")


def test_a_head_that_answers_no_more_is_not_waited_for(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "BEAT_S", 0.01)
    monkeypatch.setattr(following, "RECONNECT_WITHIN_S", 0.1)
    head: Any = Stunned("", breaks=[])
    with pytest.raises(ClusterUnavailable, match="lost the connection"):
        follow(head, "j", "http://head", to=io.StringIO())
    assert head.connections > 1


def test_a_silent_job_says_how_it_fares(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = StatusLine("j", io.StringIO())
    line.beat("PENDING", "waiting for\nresources")
    line.beat("PENDING", "waiting for resources")
    line.beat("RUNNING", "")
    said = capsys.readouterr().err.splitlines()
    assert said == ["job j pending, 0 s: waiting for resources"], "once, and nothing while the log speaks"
    monkeypatch.setattr(following, "SILENT_S", 0.0)
    line.beat("RUNNING", "")
    assert "job j running" in capsys.readouterr().err


def test_submit_refuses_a_wrong_config_before_it_looks_for_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["submit", "--address", "http://127.0.0.1:1", "--", "evaluate", "configs/evaluate/smoke.yaml", "problms=3"]
    assert cleave(arguments) == 2
    assert "problms" in capsys.readouterr().err


def test_where_is_a_config_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("fleet: {groups: [{name: a, cpu: 3}]}\n")
    with pytest.raises(ConfigError, match="cpu"):
        load(WhereConfig, path)
