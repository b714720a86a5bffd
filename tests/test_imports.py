"""What gets imported when: the library, the configs and the command line's help must not wait for torch or Ray."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "ray", "transformers", "matplotlib", "pandas", "pyarrow", "datasets", "fastapi")
CONFIGS = [
    "cleave.config",
    *(f"cleave.config.{path.stem}" for path in sorted((ROOT / "cleave/config").glob("*.py")) if path.stem != "__init__"),
]

REPORT = f"""
import atexit, sys
atexit.register(lambda: print("HEAVY", *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr))
"""


def heavy_after(code: str) -> list[str]:
    """The heavy modules that a fresh interpreter has loaded by its end."""
    run = subprocess.run(
        [sys.executable, "-c", REPORT + code], cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "100"}
    )
    assert run.returncode == 0, run.stderr
    line = next(line for line in run.stderr.splitlines() if line.startswith("HEAVY"))
    return line.split()[1:]


def test_the_probe_sees_a_heavy_import() -> None:
    assert "pyarrow" in heavy_after("import pyarrow")


def test_import_cleave_is_light() -> None:
    assert heavy_after("import cleave, cleave.types, cleave.errors, cleave.roles") == []


def test_configs_are_light() -> None:
    assert heavy_after("".join(f"import {name}\n" for name in CONFIGS)) == []


@pytest.mark.parametrize("arguments", [[], ["evaluate"], ["submit"]], ids=["root", "evaluate", "submit"])
def test_help_is_light(arguments: list[str]) -> None:
    code = f"""
import runpy
sys.argv = ["cleave", *{arguments!r}, "--help"]
try:
    runpy.run_module("cleave", run_name="__main__")
except SystemExit as end:
    assert not end.code
"""
    assert heavy_after(code) == []
