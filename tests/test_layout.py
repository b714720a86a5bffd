"""The direction of imports and the shape of the tree, read from the sources: nothing is imported here."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cleave", "actors", "pipelines", "serve", "tune", "cluster")
OURS = (*PACKAGES, "bench", "tests")
COMMANDS = "cleave/commands/"

# What each folder may import of ours, besides itself.
ALLOWED = {
    "cleave": set(),
    "actors": {"cleave"},
    "pipelines": {"actors", "cleave"},
    "serve": {"actors", "cleave"},
    "tune": {"pipelines", "actors", "cleave"},
    "cluster": {"cleave"},
}
FORBIDDEN_IN_CONFIG = {"torch", "ray", "transformers"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
# Top-level modules that a job's or worker's sys.path must never shadow.
RAY_NAMES = {"ray", "rayserve", "train", "data", "rllib", "dashboard", "workflow", "air", "jobs", "setup_hook"}


class Import(NamedTuple):
    """One import statement: who imports which top-level module, and whether only when a function runs."""

    file: str
    line: int
    module: str
    lazy: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def sources(folder: str) -> Iterator[Path]:
    return (path for path in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in path.parts)


def imports_of(source: str, file: str) -> Iterator[Import]:
    """Every import in the source, those under `if TYPE_CHECKING:` included: types follow the same direction."""
    tree = ast.parse(source)
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} uses a relative import; write the full name"
            names = [node.module or ""]
        else:
            continue
        for name in names:
            yield Import(file, node.lineno, name, id(node) in lazy)


@cache
def imports_in(folder: str) -> list[Import]:
    return [found for path in sources(folder) for found in imports_of(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())]


def listed_packages() -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return list(tomllib.load(file)["tool"]["setuptools"]["packages"])


def test_reader_tells_lazy_from_eager() -> None:
    source = (
        "import ray\nfrom torch import nn\ndef f():\n    import serve.app\nclass A:\n    async def g(self):\n        from tune import x\n"
    )
    found = [(one.top, one.lazy) for one in imports_of(source, "example.py")]
    assert sorted(found) == [("ray", False), ("serve", True), ("torch", False), ("tune", True)]


@pytest.mark.parametrize("folder", PACKAGES)
def test_direction_of_imports(folder: str) -> None:
    allowed = ALLOWED[folder] | {folder}
    wrong = [
        str(one)
        for one in imports_in(folder)
        if one.top in OURS and one.top not in allowed and not (one.file.startswith(COMMANDS) and one.lazy and one.top in PACKAGES)
    ]
    assert not wrong


def test_library_never_imports_ray() -> None:
    assert not [str(one) for one in imports_in("cleave") if one.top == "ray"]


def test_configs_import_nothing_heavy() -> None:
    assert not [str(one) for one in imports_in("cleave/config") if one.top in FORBIDDEN_IN_CONFIG]


def test_command_line_reaches_upward_only_inside_functions() -> None:
    eager = [one for one in imports_in("cleave") if one.file.startswith((COMMANDS, "cleave/__main__.py")) and not one.lazy]
    assert eager, "the commands import at least their arguments"
    assert not [str(one) for one in eager if one.top in OURS and one.top != "cleave"]
    assert not [str(one) for one in eager if one.top in {"torch", "ray", "transformers", "numpy", "matplotlib"}]


def test_nobody_imports_tests_or_bench() -> None:
    assert not [str(one) for folder in PACKAGES for one in imports_in(folder) if one.top in {"tests", "bench"}]


def test_tests_are_flat() -> None:
    nested = [path.relative_to(ROOT).as_posix() for path in sources("tests") if path.parent != ROOT / "tests"]
    assert not nested
    assert not (ROOT / "tests" / "__init__.py").exists()
    imported = {one.module for one in imports_in("tests")}
    odd = [path.name for path in sources("tests") if not path.name.startswith("test_") and f"tests.{path.stem}" not in imported]
    assert set(odd) <= {"conftest.py"}, "a file beside the tests is a fake that several of them import"


def test_no_top_level_name_shadows_another() -> None:
    names = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if any(path.glob("*.py"))}
    assert set(PACKAGES) & names, "the packages lie at the root"
    assert not names & (set(sys.stdlib_module_names) | RAY_NAMES)


def test_files_are_named_after_their_noun() -> None:
    named = [path for folder in (*PACKAGES, "bench") for path in sources(folder)]
    vague = [path.relative_to(ROOT).as_posix() for path in named if set(path.stem.split("_")) & VAGUE_NAMES]
    assert not vague


def test_pyproject_names_every_package() -> None:
    with_code = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for folder in PACKAGES for path in sources(folder)}
    with_data = {"cleave.prompt_sets"}
    assert with_code | with_data == set(listed_packages())


def test_packages_have_an_init_file() -> None:
    missing = [
        name for name in listed_packages() if name != "cleave.prompt_sets" and not (ROOT / name.replace(".", "/") / "__init__.py").exists()
    ]
    assert not missing
