"""What a cluster costs beside its models: scaling over nodes, routing, the driver's memory, coming back after a stop, losing a node.

    python -m bench.cluster                                          # everything at full size: hours, most of them the memory's
    python -m bench.cluster --sections scaling routing loss
    python -m bench.cluster --sections memory --counts 10000 100000 --json
    python -m bench.cluster --sections restart --problems 100000

scaling   several raylets on one machine, one solver on each, whose model is an endpoint that takes 200 ms, four calls at a time per node
routing   a pool whose model knows the answer by heart, at 1,000 outstanding calls, against the same roles in this process
memory    peak of the driver of `cleave evaluate` through actors, by number of problems, each in a process of its own
restart   an evaluation of which 60 % are there is started again: seconds from the start of the process to the first new request
loss      one of two nodes is killed in the middle: requests made twice, seconds beyond an undisturbed run

Nodes on one machine share its CPUs, so scaling says what the driver and Ray add, not what a network does; a node is lost by SIGKILL of its
raylet, which Ray notices by the closed connection, sooner than a machine that is cut off (health checks: 5 misses, 3 s apart).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from actors.connection import TREE
from actors.handle import inline_roles
from actors.pool import PoolHandle, pool_roles
from bench.endpoint import Endpoint
from bench.evaluate import peak_mib
from bench.trivial import CALLS_PER_NODE, DIRECT, OUTSTANDING, SAME, cast, recording
from cleave.config.base import dump, load, validate
from cleave.config.evaluate import EvaluateConfig
from cleave.config.roles import RolesConfig
from cleave.console import print_table, say
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.types import Trace

SECTIONS = ("scaling", "routing", "memory", "restart", "loss")
NODES = (1, 2, 3, 4)
LATENCY_S = 0.2
DONE_SHARE = 0.6


def scaling(calls: int, rounds: int) -> dict[str, Any]:
    """Calls per second by number of nodes, `calls` for each slot of a node, and how much of n times the rate of one node n nodes reach."""
    rates: dict[int, list[float]] = {count: [] for count in NODES}
    with Endpoint(LATENCY_S) as endpoint, cluster(max(NODES), num_cpus=1):
        for number in range(rounds):
            for count in NODES:
                with pool_roles(cast(endpoint.model, num_cpus=1, num_replicas=count), {"solver"}) as roles:
                    slots = count * CALLS_PER_NODE
                    asyncio.run(ask(roles, slots, slots))  # connections are opened
                    start = time.perf_counter()
                    asyncio.run(ask(roles, slots * calls, 2 * slots))
                    rates[count].append(slots * calls / (time.perf_counter() - start))
            say(f"scaling: round {number + 1} of {rounds}")
    middle = {count: statistics.median(found) for count, found in rates.items()}
    rows = [
        {"nodes": n, "calls_per_s": rate, "of_ideal": rate / (n * CALLS_PER_NODE / LATENCY_S), "efficiency": rate / (n * middle[1])}
        for n, rate in middle.items()
    ]
    return {"calls_per_slot": calls, "rounds": rounds, "rows": rows, "target": "efficiency >= 0.95 at 4 nodes"}


def routing(calls: int, rounds: int, replicas: int) -> dict[str, Any]:
    """Seconds per call with OUTSTANDING calls waiting at any moment: wall, and CPU of this process alone."""
    found: dict[str, list[dict[str, float]]] = {"actors": [], "inline": []}
    with tempfile.TemporaryDirectory() as folder, cluster(1, num_cpus=replicas):
        config = cast(recording(Path(folder)), num_cpus=1, num_replicas=replicas)
        with pool_roles(config, {"solver"}) as roles:
            asyncio.run(ask(roles, calls // 10, OUTSTANDING))
            for number in range(rounds):
                found["actors"].append(per_call(roles, calls))
                found["inline"].append(asyncio.run(_inline(config, calls)))
                say(f"routing: round {number + 1} of {rounds}")
    middle = {
        name: {kind: statistics.median(one[kind] for one in costs) for kind in ("wall_ms", "driver_cpu_ms")}
        for name, costs in found.items()
    }
    cost = middle["actors"]["wall_ms"] - middle["inline"]["wall_ms"]
    return {"calls": calls, "outstanding": OUTSTANDING, "replicas": replicas, **middle, "routing_ms": cost, "target": "about 2 ms per call"}


def memory(counts: Sequence[int]) -> dict[str, Any]:
    """Peak resident memory of the driver by number of problems."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(child("--one", "memory", str(count), folder))
        say(f"memory: {count:,} problems: {rows[-1]['peak_mib']:.0f} MiB in {rows[-1]['seconds']:.0f} s")
    growth = rows[-1]["peak_mib"] - rows[0]["peak_mib"]
    return {"rows": rows, "growth_mib": growth, "target": "no growth with the number of problems"}


def restart(problems: int) -> dict[str, Any]:
    """Seconds from the start of the process until the endpoint sees its first request, DONE_SHARE of the problems being there."""
    with tempfile.TemporaryDirectory() as folder, Endpoint() as endpoint:
        config = evaluation(folder, endpoint.model, problems, task="arithmetic", backend="inline")
        path = Path(folder, "restart.yaml")
        path.write_text(dump(config), encoding="utf-8")
        done = child("--one", "interrupted", str(path), str(int(problems * DONE_SHARE)))["traces"]
        began = time.time()
        going_on = subprocess.Popen([sys.executable, "-m", "cleave", "evaluate", str(path)], stderr=subprocess.DEVNULL, cwd=TREE)
        try:
            while endpoint.seen()["first"] is None and going_on.poll() is None:
                time.sleep(0.2)
        finally:
            going_on.terminate()
            going_on.wait()
        first = endpoint.seen()["first"]
    seconds = None if first is None else first - began
    return {"problems": problems, "there": done, "seconds": seconds, "target": "<= 30 s at 100,000 problems"}


def loss(calls: int) -> dict[str, Any]:
    """Two nodes with a solver each and room for both; once a third of the calls is done, the node of the first is killed."""
    with Endpoint(LATENCY_S) as endpoint, cluster(2, num_cpus=3) as nodes:
        config = cast(endpoint.model, num_cpus=1.5, num_replicas=2, max_restarts=-1, max_task_retries=-1)
        with pool_roles(config, {"solver"}) as roles:
            assert isinstance(roles.solver, PoolHandle)
            homes = [health.node for health in asyncio.run(roles.solver.health())]
            slots, took = 2 * CALLS_PER_NODE, Took()
            asyncio.run(ask(roles, slots, slots))
            before, start = endpoint.seen()["requests"], time.perf_counter()
            working = threading.Thread(target=lambda: asyncio.run(ask(roles, calls, 2 * slots, took)))
            working.start()
            while len(took.seconds) < calls // 3:
                time.sleep(0.05)
            nodes.remove_node(next(node for node in nodes.list_all_nodes() if node.node_id == homes[0]), allow_graceful=False)
            working.join()
            seconds, seen = time.perf_counter() - start, endpoint.seen()["requests"] - before
    undisturbed = calls * LATENCY_S / slots
    return {
        "calls": calls,
        "solvers_lost": homes.count(homes[0]),
        "redone": seen - calls,
        "in_flight_there": slots,  # both those at the endpoint and those that wait: 2 x slots over two solvers
        "longest_call_s": max(took.seconds),
        "seconds_lost": seconds - undisturbed,
        "target": "redone <= in flight there, at most 30 s lost",
    }


class Took:
    """Seconds of each call that is done."""

    def __init__(self) -> None:
        self.seconds: list[float] = []


async def ask(roles: Roles, calls: int, in_flight: int, took: Took | None = None) -> None:
    """Ask the same problem `calls` times, as the workers of a session do."""
    left = iter(range(calls))

    async def worker() -> None:
        for _ in left:
            start = time.perf_counter()
            trace = await reason(SAME, roles, DIRECT)
            assert trace.answer == "1", trace.error
            if took is not None:
                took.seconds.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(calls, in_flight)):
            group.create_task(worker())


async def _inline(config: RolesConfig, calls: int) -> dict[str, float]:
    async with inline_roles(config, None, {"solver"}) as roles:
        start, cpu = time.perf_counter(), time.process_time()
        await ask(roles, calls, OUTSTANDING)
        return _milliseconds(start, cpu, calls)


def per_call(roles: Roles, calls: int) -> dict[str, float]:
    """Milliseconds per call."""
    start, cpu = time.perf_counter(), time.process_time()
    asyncio.run(ask(roles, calls, OUTSTANDING))
    return _milliseconds(start, cpu, calls)


def _milliseconds(start: float, cpu: float, calls: int) -> dict[str, float]:
    return {"wall_ms": 1e3 * (time.perf_counter() - start) / calls, "driver_cpu_ms": 1e3 * (time.process_time() - cpu) / calls}


@contextmanager
def cluster(nodes: int, num_cpus: float) -> Iterator[Any]:
    """A cluster of raylets on this machine, whose head hosts nothing; Ray is connected to it while the body runs."""
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="cb", dir="/tmp") as folder:  # Ray's sockets need a short path
        os.environ["RAY_TMPDIR"] = folder
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            for _ in range(nodes):
                started.add_node(num_cpus=num_cpus)
            started.wait_for_nodes()
            variables = {"PYTHONPATH": str(TREE), "OPENAI_API_KEY": "none"}
            ray.init(address=started.address, log_to_driver=False, runtime_env={"env_vars": variables})
            yield started
        finally:
            ray.shutdown()
            started.shutdown()
            del os.environ["RAY_TMPDIR"]


def evaluation(folder: str, model: str, problems: int, **changes: Any) -> EvaluateConfig:
    """An evaluation of `problems` problems by one model, of which only the solver is asked."""
    task = changes.pop("task", "bench.trivial:Same")
    data = {
        "name": "bench",
        "storage_path": folder,
        "tasks": [{"task": task, "problems": problems, "label": "same"}],
        "roles": cast(model, num_cpus=0.5).model_dump(mode="json"),
        "reasoning": {"strategy": "direct"},
        "report": False,
    }
    return validate(EvaluateConfig, data | changes, "bench")


def child(*arguments: str) -> dict[str, Any]:
    """What a process of its own prints last."""
    done = subprocess.run([sys.executable, "-m", "bench.cluster", *arguments], check=True, stdout=subprocess.PIPE, text=True, cwd=TREE)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(kind: str, first: str, second: str) -> int:
    """In a process of its own: an evaluation whose memory is measured, or one that is stopped in the middle."""
    from pipelines.evaluate import main as evaluate

    if kind == "memory":
        start = time.perf_counter()
        code = evaluate(evaluation(second, recording(Path(second)), int(first), max_in_flight=OUTSTANDING), quiet=True)
        found = {"problems": int(first), "peak_mib": round(peak_mib(), 1), "seconds": round(time.perf_counter() - start, 1)}
        print(json.dumps(found))
        return code
    print(json.dumps({"traces": interrupt(load(EvaluateConfig, first), int(second))}))
    return 0


def interrupt(config: EvaluateConfig, count: int) -> int:
    """Leave the folder of an evaluation as a kill leaves it once `count` traces are there, without asking for them."""
    from pipelines.evaluate import EvaluationErrand
    from pipelines.evaluation_folder import EvaluationFolder
    from pipelines.session import score
    from pipelines.workload import Workload

    async def models() -> Any:
        async with inline_roles(config.roles) as roles:
            return await roles.models()

    workload = Workload(config.tasks, config.strategies())
    errand = EvaluationErrand(config, workload, EvaluationFolder.claim(config))
    sink = errand.begin(asyncio.run(models()))
    for item in islice(errand.items(), count):
        sink.add(score(item, Trace(item.problem, "direct", answer="1")))
    sink.flush()
    return sink.kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=50, help="calls per slot of a node (scaling)")
    parser.add_argument("--routed", type=int, default=20_000, help="calls (routing)")
    parser.add_argument("--replicas", type=int, default=1, help="actors (routing)")
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000, 1_000_000], help="problems (memory)")
    parser.add_argument("--problems", type=int, default=100_000, help="problems (restart)")
    parser.add_argument("--lost", type=int, default=2000, help="calls (loss)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return one(*arguments.one)
    results: dict[str, Any] = {"machine": platform.platform(), "cpus": os.cpu_count(), "load": os.getloadavg()}
    work = {
        "scaling": lambda: scaling(arguments.calls, arguments.rounds),
        "routing": lambda: routing(arguments.routed, arguments.rounds, arguments.replicas),
        "memory": lambda: memory(arguments.counts),
        "restart": lambda: restart(arguments.problems),
        "loss": lambda: loss(arguments.lost),
    }
    for section in SECTIONS:
        if section in arguments.sections:
            results[section] = work[section]()
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)
    return 0


def show(results: dict[str, Any]) -> None:
    """Tables for people."""
    if found := results.get("scaling"):
        rows = [[r["nodes"], f"{r['calls_per_s']:.1f}", f"{r['of_ideal']:.3f}", f"{r['efficiency']:.3f}"] for r in found["rows"]]
        columns = ["nodes", "calls / s", "of ideal", "efficiency"]
        print_table(
            columns, rows, numbers=columns, title=f"Scaling, {LATENCY_S:g} s per call, {CALLS_PER_NODE} per node: {found['target']}"
        )
    if found := results.get("routing"):
        rows = [[name, *(f"{found[name][kind]:.3f}" for kind in ("wall_ms", "driver_cpu_ms"))] for name in ("actors", "inline")]
        title = f"{OUTSTANDING} outstanding calls: routing costs {found['routing_ms']:.2f} ms per call (target: {found['target']})"
        print_table(["how", "wall ms", "driver CPU ms"], rows, numbers=["wall ms", "driver CPU ms"], title=title)
    if found := results.get("memory"):
        rows = [[f"{r['problems']:,}", f"{r['peak_mib']:.0f}", f"{r['seconds']:.0f}"] for r in found["rows"]]
        title = f"Driver of cleave evaluate: grows by {found['growth_mib']:.0f} MiB"
        print_table(["problems", "peak MiB", "seconds"], rows, numbers=["peak MiB", "seconds"], title=title)
    if found := results.get("restart"):
        seconds = "never" if found["seconds"] is None else f"{found['seconds']:.1f} s"
        print(
            f"restart with {found['there']:,} of {found['problems']:,} traces there: first new request after {seconds} ({found['target']})"
        )
    if found := results.get("loss"):
        rows = [[name, f"{found[name]:.1f}"] for name in ("solvers_lost", "in_flight_there", "redone", "longest_call_s", "seconds_lost")]
        print_table(["a node is lost", "value"], rows, numbers=["value"], title=f"{found['calls']:,} calls ({found['target']})")
    print(f"{results['machine']}, {results['cpus']} CPUs, load {results['load'][0]:.1f}")


if __name__ == "__main__":
    sys.exit(main())
