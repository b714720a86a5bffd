"""Jobs on real clusters: packing, following, exit codes, tokens. Each cluster is a child process that ends with its test."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cleave.__main__ import main as cleave
from cleave.commands.arguments import default_address
from cleave.config.submit import SubmitConfig, parse_address, parse_env
from cleave.errors import ConfigError
from cluster import dashboard
from cluster.package import build_package, chosen_files
from cluster.submit import entrypoint

ROOT = Path(__file__).resolve().parent.parent


def command_of(*words: str, **fields: Any) -> str:
    return entrypoint(SubmitConfig(command=words, **fields))


def test_entrypoint_runs_cleave_unless_a_python_is_named() -> None:
    assert command_of("evaluate", "configs/a.yaml", "problems=1") == "python -m cleave evaluate configs/a.yaml problems=1"
    assert command_of("cleave", "tasks", "list") == "python -m cleave tasks list"
    assert command_of("--", "ask", "How many?", python="/opt/py/bin/python3") == "/opt/py/bin/python3 -m cleave ask 'How many?'"
    assert command_of("python", "-c", "print('a b; c')") == """python -c 'print('"'"'a b; c'"'"')'"""
    assert command_of("/usr/bin/python3.11", "job.py") == "/usr/bin/python3.11 job.py"


@pytest.mark.parametrize(
    ("given", "url"),
    [("head:8265", "http://head:8265"), ("https://ray.example/", "https://ray.example"), ("http://127.0.0.1:1", "http://127.0.0.1:1")],
)
def test_address_becomes_a_url(given: str, url: str) -> None:
    assert parse_address(given) == url


@pytest.mark.parametrize("given", ["", "ray://head:10001", "http://", "auto://x", "head:port"])
def test_address_that_is_no_dashboard_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"dashboard|[Pp]ort"):
        parse_address(given)


def test_default_address_ignores_a_cluster_address_that_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert default_address() == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:1")
    assert default_address() == "http://head:1"


def test_environment_pairs() -> None:
    assert parse_env(["A=1=2", "B=", "C"], {"C": "from here"}) == {"A": "1=2", "B": "", "C": "from here"}
    for wrong in ("=1", "A B=1", "MISSING"):
        with pytest.raises(ValueError, match=r"KEY=VALUE|not set"):
            parse_env([wrong], {})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name, text in {
        "job.py": "print('hello')",
        "data/kept.txt": "kept",
        "data/left.bin": "left",
        "runs/a/trace.json": "{}",
        "deep/cache/x.txt": "x",
        "deep/.rayignore": "cache/\n",
        ".gitignore": "runs/\n",
        ".rayignore": "*.bin\n",
        ".git/config": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def test_ignore_files_decide_what_is_sent(tree: Path) -> None:
    sent = {path.relative_to(tree).as_posix() for path in chosen_files(tree)}
    assert sent == {"job.py", "data/kept.txt", "deep/.rayignore", ".gitignore", ".rayignore", "run.sh"}


def test_package_is_a_function_of_the_content(tree: Path, tmp_path: Path) -> None:
    first, second, third = tmp_path / "1.zip", tmp_path / "2.zip", tmp_path / "3.zip"
    assert build_package(tree, first) == 6
    os.utime(tree / "job.py", (1, 1))
    build_package(tree, second)
    assert first.read_bytes() == second.read_bytes()
    (tree / "job.py").write_text("print('other')")
    build_package(tree, third)
    assert first.read_bytes() != third.read_bytes()
    with zipfile.ZipFile(first) as package:
        assert package.getinfo("run.sh").external_attr >> 16 & 0o111
        assert package.read("job.py") == b"print('hello')"


def test_too_large_a_tree_is_refused_and_names_what_is_large(tree: Path, tmp_path: Path) -> None:
    (tree / "data" / "noise.dat").write_bytes(secrets.token_bytes(200_000))
    with pytest.raises(ConfigError, match=r"data/noise\.dat.*\.rayignore"):
        build_package(tree, tmp_path / "p.zip", max_bytes=100_000)
    (tree / ".rayignore").write_text("*.bin\nnoise.dat\n")
    assert build_package(tree, tmp_path / "p.zip", max_bytes=100_000) == 6


def test_repository_fits_and_carries_no_private_files(root: Path, tmp_path: Path) -> None:
    sent = {path.relative_to(root).parts[0] for path in chosen_files(root)}
    assert {"cleave", "cluster", "pyproject.toml"} <= sent
    assert not sent & {".git", ".venv", "runs", "tests"}
    build_package(root, tmp_path / "p.zip")


def test_nobody_at_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert cleave(["submit", "--address", address, "--", "tasks", "list"]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.count("\n") == 1
    assert "ray start --head" in written.err


@contextlib.contextmanager
def someone(reply: bytes) -> Iterator[str]:
    """Whoever listens there: takes connections, and answers `reply` to each, or nothing at all."""

    class Talk(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(reply)
            while not reply and self.request.recv(65536):
                pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Talk) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "no Ray dashboard answers at"),  # it accepts the connection and says nothing
        ("<html>Grafana</html>", "is no Ray dashboard"),
        ('{"ray_version": 2}', "is no Ray dashboard"),
        ('{"status": "ok"}', "is no Ray dashboard"),
        ('{"ray_version": "1.0.0"}', "Ray version 1.0.0 is running"),
    ],
)
def test_somebody_else_at_the_address(body: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(dashboard, "TIMEOUTS_S", (5.0, 0.3))
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with someone((head + body).encode() if body else b"") as address:
        assert cleave(["jobs", "list", "--address", address]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--name", "no spaces"], ["--env", "=x"], ["--address", "ray://a:1"], ["--entrypoint-num-cpus", "-1"]]
)
def test_wrong_options_are_refused_before_anything_is_sent(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cleave(["submit", *arguments, "--", "tasks", "list"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextlib.contextmanager
def started_cluster(**variables: str) -> Iterator[str]:
    """A head with its own ports and folder; yields the dashboard's URL, ends the head and its children afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cj", dir="/tmp"))
    gcs, dashboard, agent, client = free_ports(4)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), **variables}
    env.pop("RAY_ADDRESS", None)
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}"]
    command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    command += [f"--temp-dir={folder}", "--num-cpus=4", f"--object-store-memory={200 * 2**20}", "--disable-usage-stats"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=folder, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        await_dashboard(address, head, folder / "head.log")
        yield address
    finally:
        head.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(timeout=30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait(timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def await_dashboard(address: str, head: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/api/jobs/", timeout=5):
                return
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"no dashboard at {address}: {log.read_text()}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with started_cluster() as address:
        yield address


JOB = "import os, sys, cleave.types; print('tree', os.path.exists('pyproject.toml'), os.environ['COLOUR']); sys.exit(3)"


@pytest.mark.ray
def test_log_is_followed_and_the_exit_code_passed_on(
    cluster: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # which Ray's own client prefers to what it is told
    options = ["--address", cluster, "--name", "three", "--env", "COLOUR=green"]
    assert cleave(["submit", *options, "--", "python", "-c", JOB]) == 3
    assert "tree True green" in capsys.readouterr().out

    assert cleave(["jobs", "list", "--address", cluster, "--json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)
    assert (job["submission_id"], job["status"], job["exit_code"]) == ("three", "FAILED", 3)

    assert cleave(["jobs", "logs", "three", "--address", cluster]) == 0
    assert "tree True green" in capsys.readouterr().out

    assert cleave(["submit", *options, "--", "tasks", "list"]) == 2
    assert "another --name" in capsys.readouterr().err
    assert cleave(["jobs", "logs", "four", "--address", cluster]) == 2
    assert "no such job" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_detaches_and_stop_ends_the_job(cluster: str, root: Path) -> None:
    waiting = "import time; print('begun', flush=True); time.sleep(300)"
    command = [sys.executable, "-m", "cleave", "submit", "--address", cluster, "--name", "long", "--", "python", "-c", waiting]
    client = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert "begun\n" in iter(client.stdout.readline, "")
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=60)
    assert client.returncode == 130
    assert "cleave jobs stop long" in err
    assert "Traceback" not in err

    assert status_of("long", cluster) == "RUNNING"
    assert cleave(["jobs", "stop", "long", "--address", cluster]) == 0
    assert cleave(["jobs", "logs", "long", "--follow", "--address", cluster]) == 130
    assert status_of("long", cluster) == "STOPPED"


def status_of(job: str, cluster: str) -> str:
    with urllib.request.urlopen(f"{cluster}/api/jobs/{job}", timeout=10) as reply:
        return str(json.load(reply)["status"])


@pytest.mark.ray
@pytest.mark.slow
def test_json_keeps_stdout_for_the_outcome(
    cluster: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    assert cleave(["submit", "--json", "--address", cluster, "--", "python", "-c", "print('from the job')"]) == 0
    written = capsys.readouterr()
    assert json.loads(written.out)["status"] == "SUCCEEDED"
    assert "from the job" in written.err

    assert cleave(["submit", "--no-wait", "--address", cluster, "--", "python", "-c", "print('later')"]) == 0
    job = capsys.readouterr().out.strip()
    assert cleave(["jobs", "logs", job, "--follow", "--address", cluster]) == 0
    assert "later" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["python", "-c", "import os; os.kill(os.getpid(), 9)"], 137, ""),
        (["evaluate", "configs/evaluate/there-is-none.yaml"], 2, ""),
        (["--python", "no-such-python", "--", "tasks", "list"], 127, "--python"),
    ],
    ids=["killed", "user-mistake", "no-python"],
)
def test_what_the_exit_code_tells(
    words: list[str],
    code: int,
    says: str,
    cluster: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root)
    assert cleave(["submit", "--address", cluster, *words]) == code
    assert says in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("door", ["cleave submit", "ray job submit"])
def test_an_evaluation_runs_as_a_job(door: str, cluster: str, root: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    model = f"hf:{tiny_model_dir}"
    evaluation = ["evaluate", "configs/evaluate/smoke.yaml", "--json", f"storage_path={tmp_path}", "name=as-a-job"]
    for role in ("decomposer", "solver"):
        evaluation += [f"roles.{role}.model={model}", f"roles.{role}.prompts=reference-v1", f"roles.{role}.max_tokens=16"]
    bin_folder = Path(sys.executable).parent
    if door == "ray job submit":
        command = [bin_folder / "ray", "job", "submit", "--address", cluster, "--working-dir", ".", "--"]
        command += ["python", "-m", "cleave", *evaluation]
    else:
        command = [sys.executable, "-m", "cleave", "submit", "--address", cluster, "--", *evaluation]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=420)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "as-a-job" / "report.html").exists()
    traces = pq.read_table(tmp_path / "as-a-job" / "traces.parquet")
    assert traces.num_rows == 24, "12 problems, two strategies, one trace each whatever the models said"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cluster_is_examined_before_anything_starts(
    cluster: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    smoke = ["evaluate", "configs/evaluate/smoke.yaml", "name=examined"]
    assert cleave(["doctor", smoke[1], f"storage_path={tmp_path}", "--address", cluster, "--json", "--variable", "NOT_THERE"]) == 2
    said = json.loads(capsys.readouterr().out)
    found = {one["name"]: one["status"] for one in said["findings"]}
    assert {name for name, status in found.items() if status == "fail"} == {"variable"}
    assert {"room", "model", "storage", "clock", "token", "dashboard"} <= set(found)
    assert said["nodes"][0]["CPU"] == 4

    for wrong, says in (("storage_path=runs", "which Ray deletes"), ("roles.solver.resources.num_replicas=99", "of which")):
        assert cleave(["submit", "--address", cluster, "--", *smoke, f"storage_path={tmp_path}", wrong]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert "nothing was submitted" in err
    assert cleave(["submit", "--address", cluster, "--entrypoint-num-cpus", "99", "--", "tasks", "list"]) == 2
    assert "entrypoint_* (CPU)" in capsys.readouterr().err
    assert cleave(["jobs", "list", "--address", cluster, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert not [job for job in listed if "doctor" in job["entrypoint"]], "a check is not listed once it has ended"

    where = ["--storage-path", str(tmp_path), "--name", "examined"]
    assert cleave(["submit", "--skip-doctor", "--address", cluster, *where, "--", *smoke]) == 0
    capsys.readouterr()
    assert cleave(["jobs", "artifacts", "examined", "--address", cluster, "--to", str(tmp_path / "copy")]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (tmp_path / "copy" / "traces.parquet").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_token_is_asked_for_and_used(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    token = secrets.token_hex(16)
    monkeypatch.chdir(root)
    with started_cluster(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) as address:
        job = ["submit", "--address", address, "--", "python", "-c", "import ray; ray.init(); print('driver', ray.is_initialized())"]
        without = run_cleave(job, root)
        assert (without.returncode, without.stderr.count("\n")) == (2, 1)
        assert "RAY_AUTH_MODE=token" in without.stderr
        wrong = run_cleave(job, root, RAY_AUTH_TOKEN=secrets.token_hex(16))
        assert wrong.returncode == 2
        right = run_cleave(job, root, RAY_AUTH_TOKEN=token)
        assert right.returncode == 0, right.stderr
        assert "driver True" in right.stdout
        assert token not in right.stdout + right.stderr


def run_cleave(arguments: list[str], root: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | variables
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "cleave", *arguments]
        return subprocess.run(command, cwd=root, env={**env, "HOME": home}, capture_output=True, text=True, timeout=180)
