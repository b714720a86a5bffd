"""`cleave doctor [CONFIG]`: does a config fit this machine, or the cluster that Ray is connected to; every failure names its remedy.

    cleave doctor configs/evaluate/demo.yaml                      # this machine
    cleave doctor configs/evaluate/demo.yaml --address auto       # the cluster that this machine belongs to

On a cluster every node is asked by a small task bound to it that reserves nothing; one that does not answer in time is a finding.
`--address http://…` comes here too, as a job of that cluster (cluster/doctor.py). Left out: what the answers mean (cleave/doctor.py).
"""

from __future__ import annotations

import json
import os
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cleave.config.base import Config
from cleave.config.programs import distillations, models_of, recognise, storage_of
from cleave.config.serve import ServeConfig
from cleave.demands import Demand, Resources, demands_of
from cleave.doctor import (
    Finding,
    Marks,
    as_json,
    check_clocks,
    check_code,
    check_memory,
    check_models,
    check_requirements,
    check_room,
    check_scratch,
    check_space,
    check_storage,
    check_variables,
    check_versions,
    show,
    worst,
)
from cleave.errors import CleaveError
from cleave.node_report import NodeReport, Wanted, examine, free_space, seen_marks, write_mark
from cleave.requirements import ray_release, unmet
from pipelines.nodes import Asked, tidy

FAILED = 2


@dataclass
class Examined:
    """What the machines said."""

    scope: str
    reports: list[NodeReport]
    resources: list[Resources]
    marks: Marks
    offsets: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    """What was found while asking: nodes that do not answer, the token, the dashboard."""


def main(
    path: Path | None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    *,
    variables: Sequence[str] = (),
    json_output: bool = False,
) -> int:
    """Examine and show. Returns 0, or 2 where something fails. Raises ConfigError for a config that no program accepts."""
    config = None if path is None else recognise(path, overrides).config()
    findings, examined = diagnose(config, address, variables)
    if json_output:
        print(json.dumps(as_json(findings, examined.scope, examined.resources), ensure_ascii=False))
    else:
        show(findings, examined.scope)
    return FAILED if worst(findings) == "fail" else 0


def diagnose(config: Config | None, address: str | None, variables: Sequence[str] = ()) -> tuple[list[Finding], Examined]:
    """All findings, and what they come from. `address`: None, this machine alone; else Ray's own address of the cluster."""
    wanted = Wanted(models_of(config) if config else {}, results_path(config), tuple(variables))
    demands = demands_of(config) if config is not None else {}
    examined = examine_here(wanted, demands) if address is None else examine_cluster(wanted, address)
    reports = examined.reports
    findings = [*examined.findings, check_requirements(unmet())]
    if not reports:
        return findings, examined
    findings += check_versions(reports, examine(Wanted(), "here"), ray_release())
    findings += [check_code(reports), check_clocks(examined.offsets), check_scratch(reports)]
    findings += check_storage(wanted.storage_path, examined.marks, job=inside_a_job())
    findings += [check_space(free_space(wanted.storage_path) if wanted.storage_path else None, wanted.storage_path)]
    findings += [*check_models(reports), *check_memory(reports), *check_variables(reports, variables)]
    if config is not None:
        findings += [*check_room(demands, examined.resources), *check_trainings(config)]
    if address is None and isinstance(config, ServeConfig):
        findings.append(check_listening(config))
    return findings, examined


def results_path(config: Config | None) -> str | None:
    """Where results go, seen from any node: relative paths are the driver's, but those of a job are kept, to be refused."""
    path = storage_of(config) if config is not None else None
    return path if path is None or "://" in path or inside_a_job() else os.path.abspath(os.path.expanduser(path))


def check_trainings(config: Config) -> list[Finding]:
    """Tokenizers, prompts, adapters and teachers of every training fit together; no weights are read."""
    from pipelines.preflight import preflight

    found = []
    for name, run in distillations(config).items():
        try:
            preflight(run)
        except CleaveError as error:
            found.append(failure("tokenizer", f"{name}: {error}"))
        else:
            found.append(Finding("tokenizer", "ok", f"{name}: student, teachers and prompts fit together"))
    return found


def check_listening(config: ServeConfig) -> Finding:
    """The port of an application that starts here is free."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            what = f"cannot listen on {config.host}:{config.port} ({error.strerror or error})"
            return Finding("port", "fail", what, "choose another port, or stop what has it")
    return Finding("port", "ok", f"{config.host}:{config.port} is free")


def examine_here(wanted: Wanted, demands: Mapping[str, Sequence[Demand]]) -> Examined:
    """This machine alone, as a cluster of one."""
    report = examine(wanted, "this machine")
    return Examined(
        scope="this machine only; --address names a cluster to examine",
        reports=[report],
        resources=[_own_resources(gpus=any("GPU" in demand.each for run in demands.values() for demand in run))],
        marks=_own_marks(wanted.storage_path, report.name),
    )


def examine_cluster(wanted: Wanted, address: str) -> Examined:
    """Every living node. Raises RoleUnavailable where Ray cannot be reached."""
    from actors.connection import connected

    with _address(address), connected():
        import ray

        nodes = {f"{node['NodeID'][:8]}@{node['NodeManagerAddress']}": node for node in ray.nodes() if node["Alive"]}
        asked = Asked({name: str(node["NodeID"]) for name, node in nodes.items()})
        asked.ask(time.time)  # starts a worker on each node
        offsets = asked.clocks()
        reports = asked.ask(examine, wanted, own_name=True)
        marks = asked.marks(wanted.storage_path)
        return Examined(
            scope=f"cluster of {len(nodes)} node{'s' if len(nodes) > 1 else ''} at {address}",
            reports=list(reports.values()),
            resources=[dict(node["Resources"]) for node in nodes.values()],
            marks=marks,
            offsets=offsets,
            findings=[*asked.findings, check_token(len(nodes)), check_dashboard()],
        )


@contextmanager
def _address(address: str) -> Iterator[None]:
    """The cluster that `connected` looks for, as long as the examination takes. Where a job finds its own cluster's, auto leaves it."""
    before = os.environ.get("RAY_ADDRESS")
    if address != "auto" or not before:
        os.environ["RAY_ADDRESS"] = address
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("RAY_ADDRESS", None)
        else:
            os.environ["RAY_ADDRESS"] = before


def check_token(nodes: int) -> Finding:
    """Whether the cluster asks for a token: without one, whoever reaches it can run code there."""
    from ray._raylet import AuthenticationMode, get_authentication_mode

    if get_authentication_mode() == AuthenticationMode.TOKEN:
        return Finding("token", "ok", "the cluster asks for a token")
    status = "warn" if nodes > 1 else "ok"
    return Finding("token", status, "the cluster asks for no token", "start Ray with RAY_AUTH_MODE=token" if nodes > 1 else "")


def check_dashboard() -> Finding:
    """The dashboard answers: jobs, Tune around Train and the state of actors need it."""
    from ray._private.worker import get_dashboard_url

    url = get_dashboard_url()
    if not url:
        remedy = "start Ray with its dashboard (--include-dashboard=true)"
        return Finding("dashboard", "warn", "there is none, so that no jobs can be submitted", remedy)
    try:
        with urllib.request.urlopen(f"http://{url}/api/version", timeout=5):
            pass
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            return Finding("dashboard", "warn", f"{url} answers with {error.code}", "look at dashboard.log on the head")
    except OSError as error:
        return Finding("dashboard", "warn", f"{url} does not answer ({error})", "start Ray with --dashboard-host=0.0.0.0 behind a token")
    return Finding("dashboard", "ok", f"{url} answers")


def failure(name: str, message: str) -> Finding:
    """An error's sentence as a finding: what comes after the last semicolon is its remedy."""
    what, _, remedy = message.rstrip(".").rpartition("; ")
    return Finding(name, "fail", what or remedy, remedy if what else "")


def inside_a_job() -> bool:
    """Whether this runs in the tree that Ray unpacked for a job."""
    from actors.connection import INSIDE_A_JOB

    return INSIDE_A_JOB in os.environ


def _own_marks(storage_path: str | None, name: str) -> Marks:
    if storage_path is None:
        return Marks({}, {})
    probe, mark = f"doctor-{secrets.token_hex(4)}", "this"
    complaint = write_mark(storage_path, probe, mark)
    seen = seen_marks(storage_path, probe)
    if not complaint:
        tidy(storage_path, probe)
    return Marks({name: complaint}, {name: [name] if mark in seen else []})


def _own_resources(gpus: bool) -> dict[str, float]:
    """What a local Ray would have; GPUs are only counted where they are wanted, since that takes torch."""
    resources = {"CPU": float(os.cpu_count() or 1)}
    if gpus:
        import torch

        resources["GPU"] = float(torch.cuda.device_count())
    return resources
