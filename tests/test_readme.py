"""Every command of the README parses, and what can run on the shipped models in seconds does, under the smoke profile."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("  #")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()
]


def cleave(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cleave", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def words(command: str) -> list[str]:
    return shlex.split(command.removeprefix(".venv/bin/"))


def test_the_readme_has_commands_of_every_kind():
    assert {words(command)[0] for command in COMMANDS} == {"make", "cleave", "curl", "ray"}


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in COMMANDS:
        if words(command)[0] == "make":
            assert re.search(rf"^{words(command)[1]}:", makefile, re.M), command


def test_configs_that_are_named_exist():
    named = set(re.findall(r"configs/[\w/.-]+\.yaml", README))
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_commands_in_the_table_have_help():
    for name in set(re.findall(r"`cleave (\w+)", README)):
        assert cleave(name, "--help").returncode == 0, name


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("cleave evaluate")])
def test_evaluations_can_be_planned(command):
    result = cleave(*words(command)[1:], "--dry-run")
    assert result.returncode == 0, result.stderr


def test_serve_can_be_planned():
    result = cleave("serve", "--dry-run")
    assert result.returncode == 0, result.stderr


def test_ask_answers_on_the_shipped_models():
    (command,) = [c for c in COMMANDS if c.startswith(".venv/bin/cleave ask")]
    result = cleave(*words(command)[1:])
    assert result.returncode == 0, result.stderr
    assert "Answer:" in result.stdout
    assert "How many pens does Mirel have" in result.stdout, "the plan is shown"


def test_the_smoke_evaluation_runs_inline(tmp_path):
    """The demo's path without Ray: table on stdout, traces and report in the run folder."""
    result = cleave("evaluate", "configs/evaluate/smoke.yaml", "backend=inline", f"storage_path={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "static" in result.stdout
    run = tmp_path / "smoke"
    assert (run / "traces.parquet").is_file()
    assert "<svg" in (run / "report.html").read_text(encoding="utf-8")


def test_the_architecture_map_names_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    sections = re.findall(r"### `([\w/]+)/`\n(.*?)(?=\n##|\Z)", text, re.S)
    named = {f"{folder}/{name}" for folder, table in sections for name in re.findall(r"^\| `(\w+\.py)`", table, re.M)}
    packages = ("cleave", "actors", "pipelines", "serve", "tune", "cluster", "bench")
    files = {str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"}
    assert named == files
