"""The command line as a user meets it: help, mistakes, interruption. What the commands do is tested where it is done."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import cleave.__main__ as command_line
from cleave.errors import BudgetExceeded, CleaveError, ConfigError, DataError, GenerationError, RoleUnavailable, StorageError

COMMANDS = ["ask", "evaluate", "cascade", "distill", "serve", "submit", "report", "tasks", "tasks list", "tasks show", "tasks export"]
COMMANDS += ["jobs", "jobs list", "jobs logs", "jobs stop", "drafts", "ngrams", "ngrams build", "ngrams info", "bench superposition"]
COMMANDS += ["curriculum", "curriculum rank", "curriculum design", "tune", "tune curriculum", "tune sparsity", "tune predict"]
COMMANDS += ["doctor", "render", "jobs artifacts", "serve run", "serve status", "serve promote", "serve rollback"]


def run(arguments: Sequence[str | bytes], root: Path, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "cleave", *arguments]
    return subprocess.run(command, cwd=root, input=stdin, capture_output=True, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: cleave {command}" in shown


@pytest.mark.parametrize("command", ["ask", "evaluate", "cascade", "distill", "report", "submit", "drafts"])
def test_commands_with_a_result_speak_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main([command, "--help"])
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["evaluate", "distill", "serve"])
def test_commands_that_start_work_have_a_dry_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main([command, "--help"])
    assert "--dry-run" in capsys.readouterr().out


def test_no_command_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main([]) == 0
    shown = capsys.readouterr().out
    assert all(command.split()[0] in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["evaluat"], "'evaluate'"),
        (["evaluate"], "cleave evaluate --help"),
        (["evaluate", "configs/evaluate/none.yaml"], "configs/"),
        (["evaluate", "configs/evaluate/demo.yaml", "problem=1"], "problem"),
        (["distill", "configs/distill/none.yaml"], "configs/"),
        (["ask", "How many?", "reasoning.strategy=guess"], "'stepwise'"),
        (["ask", "How many?", "strategy=static"], "'reasoning.strategy'"),
        (["ask", "How many?", "--solver", "gpt"], "hf:PATH"),
        (["ask", ""], "empty"),
        (["ask", " \n "], "empty"),
        (["tasks", "show", "no-such-task"], "no-such-task"),
        (["report", "runs/no-such-run"], "no-such-run"),
        (["serve", "configs/serve/none.yaml"], "configs/"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], says: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    assert command_line.main(arguments) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("error: ")
    assert written.err.count("\n") == 1
    assert says in written.err


def test_a_question_of_a_megabyte_is_refused(root: Path) -> None:
    done = run(["ask", "-"], root, stdin=b"How many? " * 100_000)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"longer than" in done.stderr


def test_bytes_that_are_not_utf8_are_refused(root: Path) -> None:
    for arguments, stdin in (([b"ask", b"How \xff many?"], b""), (["ask", "-"], b"How \xff many?")):
        done = run(arguments, root, stdin)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert b"not UTF-8" in done.stderr


class Raising:
    """Stands for a command that ends in an exception."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, **_: object) -> int:
        raise self.error


@pytest.mark.parametrize("kind", [ConfigError, DataError, StorageError, GenerationError, BudgetExceeded, RoleUnavailable])
def test_each_error_ends_with_its_exit_code(
    kind: type[CleaveError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "app", Raising(kind("what went wrong;\nthe remedy.")))
    assert command_line.main(["evaluate", "x.yaml"]) == kind.exit_code
    assert capsys.readouterr().err == "error: what went wrong; the remedy.\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "app", Raising(ZeroDivisionError("bug")))
    with pytest.raises(ZeroDivisionError):
        command_line.main(["evaluate", "x.yaml"])


def test_ctrl_c_says_how_to_resume(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command_line, "app", Raising(KeyboardInterrupt()))
    assert command_line.main(["evaluate", "x.yaml"]) == 130
    assert "same command again" in capsys.readouterr().err


def test_ctrl_c_while_a_command_waits(root: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "cleave", "ask", "-"], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    # It reads from the pipe as soon as all modules are in; until then there is nothing to interrupt but imports.
    wait_until_reading(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert err.startswith(b"interrupted")


def wait_until_reading(pid: int) -> None:
    """Block until the process sleeps in a read from a pipe (Linux shows where a process waits)."""
    import time

    channel = Path(f"/proc/{pid}/wchan")
    if not channel.exists():
        pytest.skip("needs /proc")
    deadline = time.monotonic() + 60
    while "pipe_read" not in channel.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_reader_that_goes_away_is_no_error(root: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "cleave", "--help"], cwd=root, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert done.stderr == b""
