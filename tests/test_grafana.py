"""The Grafana boards: well formed, and asking only for metrics that Ray or Cleave exports. test_serve_metrics.py looks at live ones."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parent.parent
BOARDS = sorted((ROOT / "cluster" / "grafana").glob("*.json"))
SOURCES = ("actors/host.py", "actors/pool.py", "serve/metrics.py")
SUFFIX = re.compile(r"_(total|bucket|sum|count)$")


def board(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def queries(path: Path) -> list[str]:
    return [target["expr"] for panel in board(path)["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_are_well_formed(path: Path) -> None:
    panels = board(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 12
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    for query in queries(path):
        assert all(query.count(a) == query.count(b) for a, b in ("()", "[]", "{}")), query
        assert "$session" in query, "several clusters may share a Prometheus"


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_ask_only_for_what_is_exported(path: Path) -> None:
    of_ray = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    known = "".join(each.read_text("utf-8") for each in of_ray.glob("*.py"))
    ours = "".join((ROOT / name).read_text("utf-8") for name in SOURCES)
    names = {name for query in queries(path) for name in re.findall(r"\b(ray_[a-z_]+)\{", query)}
    assert len(names) >= 5
    for name in names:
        if name.startswith("ray_cleave_"):
            assert f'"{SUFFIX.sub("", name).removeprefix("ray_")}"' in ours, name
        else:
            assert name in known, name


def test_boards_have_names_of_their_own_and_are_provisioned() -> None:
    assert len({board(path)["uid"] for path in BOARDS}) == len(BOARDS) >= 2
    provider = yaml.safe_load((ROOT / "cluster" / "grafana" / "dashboards.yaml").read_text("utf-8"))["providers"][0]
    assert provider["options"]["path"].endswith("/cleave")
