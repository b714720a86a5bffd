"""What pyproject.toml asks for, and whether it is installed here: Python, Ray's exact release, the lower bounds of everything else.

Left out: constraints.txt (the exact versions of the tests), which other machines need not have.
"""

from __future__ import annotations

import platform
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parent.parent


def ray_release() -> str:
    """The release of Ray that this tree is pinned to."""
    pin = next(line for line in _project()["dependencies"] if line.startswith("ray["))
    return str(pin.partition("==")[2])


def unmet() -> list[str]:
    """A few words for each requirement that is not installed here."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    project = _project()
    missing = []
    if not SpecifierSet(project["requires-python"]).contains(platform.python_version(), prereleases=True):
        missing.append(f"Python {platform.python_version()} is not {project['requires-python']}")
    for line in project["dependencies"]:
        wanted = Requirement(line)
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            missing.append(f"{wanted.name} is not installed")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            missing.append(f"{wanted.name} {found} is not {wanted.specifier}")
    return missing


@cache
def _project() -> dict[str, Any]:
    with (TREE / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    return project
