"""What `cleave doctor` finds: one small function per check, from what every machine said of itself to a finding with its remedy.

A single machine is a cluster of one: without a cluster the same checks look at this machine alone. Left out: asking the machines
(cleave/node_report.py, pipelines/doctor.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cleave.console import print_table
from cleave.demands import Demand, Resources, Shortage, amounts, shortages, total
from cleave.node_report import NodeReport

Status = Literal["ok", "warn", "fail"]
GB = 2**30
MAY_DIFFER_S = 2.0
"""Seconds by which clocks may differ before times in logs mislead."""
MUST_NOT_DIFFER_S = 300.0
"""Seconds from which signed requests to object storage are refused."""
ENOUGH_SCRATCH = 2 * GB
ENOUGH_STORAGE = 5 * GB


@dataclass(frozen=True)
class Finding:
    """One check: what was found and, unless it is well, what to do."""

    name: str
    status: Status
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class Marks:
    """Who could write to the storage, and who saw whose file."""

    complaints: Mapping[str, str]
    """By node; empty where it could write."""
    seen: Mapping[str, Sequence[str]]
    """By node: the nodes whose files it saw."""


def check_versions(reports: Sequence[NodeReport], here: NodeReport, ray_pin: str) -> list[Finding]:
    """Python, Ray, torch and transformers are those of this tree, on every node."""
    found = [_same("python", {report.name: report.python for report in reports}, here.python)]
    for package in here.versions:
        found.append(_same(package, {report.name: report.versions.get(package, "none") for report in reports}, here.versions[package]))
    off = sorted({report.versions.get("ray", "none") for report in reports} - {ray_pin})
    if off:
        found.append(
            Finding("ray release", "fail", f"Cleave runs on Ray {ray_pin}, here is {off[0]}", f"install ray=={ray_pin} on every node")
        )
    return found


def check_requirements(unmet: Sequence[str]) -> Finding:
    """What pyproject.toml asks for is installed here."""
    if unmet:
        return Finding("requirements", "fail", "; ".join(unmet), "run `make venv`, or pip install -c constraints.txt -e .")
    return Finding("requirements", "ok", "everything that pyproject.toml asks for is installed")


def check_code(reports: Sequence[NodeReport]) -> Finding:
    """Every node runs the same sources of Cleave."""
    return _same("cleave", {report.name: report.code for report in reports}, reports[0].code)


def check_clocks(offsets: Mapping[str, tuple[float, float]]) -> Finding:
    """Clocks agree; `offsets` holds by node how far it is ahead of this machine and how sure that is, both in seconds."""
    if not offsets:
        return Finding("clock", "ok", "one machine, one clock")
    name, (ahead, error) = max(offsets.items(), key=lambda item: abs(item[1][0]) - item[1][1])
    certain = max(0.0, abs(ahead) - error)
    what = f"{name} is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'} (± {error:.1f})"
    if certain < MAY_DIFFER_S:
        return Finding("clock", "ok", f"{len(offsets)} clocks agree within {max(abs(each) + by for each, by in offsets.values()):.1f} s")
    status: Status = "fail" if certain >= MUST_NOT_DIFFER_S else "warn"
    return Finding("clock", status, what, "set the clock by NTP (chrony); signed requests to storage fail from five minutes on")


def check_storage(storage_path: str | None, marks: Marks, *, job: bool) -> list[Finding]:
    """Every node can write to the storage, and all of them see the same files. `job`: the run will have a tree of its own, which goes."""
    if storage_path is None:
        return []
    if job and "://" not in storage_path and not storage_path.startswith(("/", "~")):
        what = f"storage_path {storage_path} lies inside the job's copy of the tree, which Ray deletes"
        return [Finding("storage", "fail", what, "set storage_path to an absolute path that all nodes share, or to a URL such as s3://…")]
    unable = {name: complaint for name, complaint in marks.complaints.items() if complaint}
    if unable:
        name, complaint = next(iter(unable.items()))
        what = f"{len(unable)} of {len(marks.complaints)} nodes cannot write to {storage_path}; {name}: {complaint.rstrip('.')}"
        return [Finding("storage", "fail", what, "mount it there with write access, or set storage_path elsewhere")]
    found = [Finding("storage", "ok", f"{_of(marks.complaints)} can write to {storage_path}")]
    everyone = set(marks.complaints)
    blind = [(name, sorted(everyone - set(seen))) for name, seen in marks.seen.items() if everyone - set(seen)]
    if blind:
        name, unseen = blind[0]
        what = f"{storage_path} is not shared: {name} does not see what {unseen[0]} wrote"
        found.append(
            Finding("shared storage", "fail", what, "mount one file system on all nodes, or set storage_path to a URL such as s3://…")
        )
    elif len(everyone) > 1:
        found.append(Finding("shared storage", "ok", f"all {len(everyone)} nodes see each other's files"))
    return found


def check_space(free: int | None, storage_path: str | None) -> Finding:
    """There is room for results."""
    if storage_path is None or free is None:
        return Finding("space", "ok", "nothing to check on a local disk")
    if free < ENOUGH_STORAGE:
        return Finding("space", "warn", f"{free / GB:.1f} GB free at {storage_path}", "free some, or set storage_path elsewhere")
    return Finding("space", "ok", f"{free / GB:.0f} GB free at {storage_path}")


def check_scratch(reports: Sequence[NodeReport]) -> Finding:
    """Every node has room for temporary files: Ray's logs and spilled objects, a worker's checkpoints."""
    least = min(reports, key=lambda report: report.scratch)
    what = f"{least.scratch / GB:.1f} GB free for temporary files on {least.name}"
    if least.scratch < ENOUGH_SCRATCH:
        return Finding("disk", "warn", what, "free some, or point TMPDIR and `ray start --temp-dir` to a larger disk")
    return Finding("disk", "ok", what if len(reports) == 1 else f"at least {what}")


def check_models(reports: Sequence[NodeReport]) -> list[Finding]:
    """Every node finds every model, and the same weights."""
    return [_check_model(place, reports) for place in reports[0].models]


def check_memory(reports: Sequence[NodeReport]) -> list[Finding]:
    """Each model's weights fit into every node's memory (twice their size while they load)."""
    found = []
    for place, model in reports[0].models.items():
        short = [report.name for report in reports if report.memory and 2 * model.weights > report.memory]
        if short:
            what = f"{place}: {model.weights / GB:.1f} GB of weights do not fit into the memory of {short[0]}"
            found.append(Finding("memory", "warn", what, "give the role or worker a node with more memory, by a custom resource"))
    return found


def check_variables(reports: Sequence[NodeReport], wanted: Sequence[str]) -> list[Finding]:
    """Secrets and other variables are set on every node. Their values are not read."""
    found = []
    for variable in wanted:
        without = [report.name for report in reports if variable in report.missing]
        if without:
            what = f"{variable} is not set on {without[0]}" + (f" and {len(without) - 1} more" if len(without) > 1 else "")
            found.append(Finding("variable", "fail", what, f"set {variable} in the environment in which Ray is started there"))
        else:
            found.append(Finding("variable", "ok", f"{variable} is set on {_of({report.name: '' for report in reports})}"))
    return found


def check_room(demands: Mapping[str, Sequence[Demand]], nodes: Sequence[Resources]) -> list[Finding]:
    """Every run of the config fits on the nodes as a whole."""
    short = shortages(demands, nodes)
    if short:
        return [_no_room(shortage, nodes) for shortage in short]
    have = amounts({"CPU": total(nodes, "CPU"), "GPU": total(nodes, "GPU")})
    if not any(demands.values()):
        return [Finding("room", "ok", f"the config reserves nothing of the {have}")]
    most = max(demands.values(), key=lambda wanted: sum(demand.count * demand.each.get("CPU", 0.0) for demand in wanted))
    return [Finding("room", "ok", f"{', '.join(str(demand) for demand in most)}: fits on {_nodes(nodes)} with {have}")]


def worst(findings: Sequence[Finding]) -> Status:
    """The status of all together."""
    return next((status for status in ("fail", "warn") if any(found.status == status for found in findings)), "ok")


def show(findings: Sequence[Finding], scope: str) -> None:
    """Print the findings as a table, those with a remedy last."""
    order = {"ok": 0, "warn": 1, "fail": 2}
    rows = [(found.status, found.name, found.what, found.remedy) for found in sorted(findings, key=lambda found: order[found.status])]
    print_table(("", "check", "found", "remedy"), rows, title=scope)


def as_json(findings: Sequence[Finding], scope: str, nodes: Sequence[Resources]) -> dict[str, Any]:
    """The findings for machines; `status` is the worst of all."""
    return {
        "status": worst(findings),
        "scope": scope,
        "findings": [asdict(found) for found in findings],
        "nodes": [dict(node) for node in nodes],
    }


def _same(name: str, by_node: Mapping[str, str], expected: str) -> Finding:
    different = {node: value for node, value in by_node.items() if value != expected}
    if not different:
        return Finding(name, "ok", f"{expected} on {_of(by_node)}")
    node, value = next(iter(different.items()))
    more = f" and {len(different) - 1} more" if len(different) > 1 else ""
    remedy = (
        "start the job again, so that all nodes get the same tree" if name == "cleave" else f"use one image, or install {name} {expected}"
    )
    return Finding(name, "fail", f"{expected} here, {value} on {node}{more}", remedy)


def _check_model(place: str, reports: Sequence[NodeReport]) -> Finding:
    first = reports[0].models[place]
    without = [report for report in reports if not report.models[place].found]
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        what = f"{place}: {first.model} on {without[0].name}{more}: {without[0].models[place].problem}"
        return Finding("model", "fail", what, "put it where every node reads it (shared disk, image, Hub), and name that place")
    revisions = {report.models[place].revision for report in reports}
    if len(revisions) > 1:
        what = f"{place}: {first.model} is not the same on all nodes ({', '.join(sorted(str(each) for each in revisions))})"
        return Finding("model", "fail", what, "copy the same files everywhere, or name a shared folder")
    note = next((note for report in reports if (note := report.models[place].note)), "")
    if note:
        return Finding(
            "model", "warn", f"{place}: {first.model} {note}", "fetch it beforehand with `hf download`, into a cache that nodes share"
        )
    return Finding("model", "ok", f"{place}: {first.model}")


def _no_room(shortage: Shortage, nodes: Sequence[Resources]) -> Finding:
    demand = shortage.demand
    have = amounts({name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in demand.each})
    what = f"{shortage.run}: {demand}, of which {shortage.placed} fit; {_nodes(nodes)}, the largest with {have}"
    fewer = "" if not shortage.placed else f"ask for {shortage.placed} of them, "
    return Finding("room", "fail", what, f"{fewer}lower {demand.field} ({shortage.missing}), or add nodes")


def _nodes(nodes: Sequence[object]) -> str:
    return "one node" if len(nodes) == 1 else f"{len(nodes)} nodes"


def _of(nodes: Mapping[str, object]) -> str:
    return next(iter(nodes)) if len(nodes) == 1 else f"all {len(nodes)} nodes"
