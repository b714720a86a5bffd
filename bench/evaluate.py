"""Evaluation through actors against the same models called directly and against `generate` one by one; eight samples against one;
memory of `cleave evaluate` against the number of problems. Ratios of things measured in turn in one run, with medians.

    python -m bench.evaluate                                       # the shipped checkpoints
    python -m bench.evaluate --decomposer hf:PATH --solver hf:PATH --problems 128 --json
    python -m bench.evaluate --sections memory                     # needs no checkpoint

Each measurement is of `static`, greedy unless it samples, one thread per model. `cpu` counts this process and its actors, so that ratios
are comparable on a busy machine too; wall seconds decide on a free one. Left out: absolute speed, which is the machine's.
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
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from actors.handle import inline_roles
from actors.pool import PoolHandle
from cleave.config.model import ModelConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.config.roles import RolesConfig
from cleave.console import print_table, say
from cleave.lm.checkpoint import Checkpoint, load_checkpoint
from cleave.reasoning import reason
from cleave.roles import DecomposeRequest, Roles, SolveRequest
from cleave.tasks.reference.task import FAMILIES, reference_task
from cleave.types import Plan, Problem, Sampling

BATCH = 64
WAIT_S = 0.05  # as in configs/evaluate
SAMPLED_PROBLEMS = 16
SEQUENTIAL_SHARE = 8
MEMORY_COUNTS = (300, 3000, 12_000)
GREEDY = ReasoningConfig(strategy="static")
EIGHT = ReasoningConfig(strategy="static", n=8, temperature=0.7, selection="majority")


@dataclass(frozen=True)
class Cost:
    """Seconds per problem."""

    wall: float
    cpu: float


def main() -> int:
    arguments = parse()
    if arguments.one:
        return serve_and_evaluate(int(arguments.one[0]), Path(arguments.one[1]))
    results: dict[str, Any] = {"machine": platform.platform(), "cpus": os.cpu_count(), "load": os.getloadavg()}
    if "throughput" in arguments.sections:
        results["throughput"] = throughput(cast(arguments), arguments.problems, arguments.rounds)
    if "samples" in arguments.sections:
        results["samples"] = asyncio.run(samples(cast(arguments), arguments.rounds))
    if "memory" in arguments.sections:
        results["memory"] = memory()
    print(json.dumps(results, indent=2)) if arguments.json else show(results)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--decomposer", default="reference:decomposer")
    parser.add_argument("--solver", default="reference:solver")
    parser.add_argument("--prompts", default="auto")
    parser.add_argument("--problems", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sections", nargs="+", default=["throughput", "samples", "memory"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def cast(arguments: argparse.Namespace) -> RolesConfig:
    def role(model: str) -> dict[str, Any]:
        return {"model": model, "prompts": arguments.prompts, "batching": {"max_batch_size": BATCH, "batch_wait_timeout_s": WAIT_S}}

    return RolesConfig.model_validate({"decomposer": role(arguments.decomposer), "solver": role(arguments.solver)})


def make_problems(count: int) -> list[Problem]:
    """Problems of all families in turn."""
    streams = [reference_task(family).problems("test", limit=count // len(FAMILIES) + 1) for family in FAMILIES]
    return [problem for group in zip(*streams, strict=True) for problem in group][:count]


def throughput(config: RolesConfig, count: int, rounds: int) -> dict[str, Any]:
    """Seconds per problem: through actors, directly in this process with the same batches, and by `generate` one at a time."""
    from actors.connection import connected
    from actors.pool import pool_roles

    problems = make_problems(count)
    costs: dict[str, list[Cost]] = {"actors": [], "direct": [], "sequential": []}
    few = problems[: max(1, count // SEQUENTIAL_SHARE)]
    with connected(), pool_roles(config) as pooled, asyncio.Runner() as runner:
        local = runner.run(_open(config))
        loaded = [_load(config.decomposer.model), _load(config.solver.model)]
        pids = runner.run(_pids(pooled))

        def measure(name: str, work: Callable[[], Awaitable[None]], amount: int, *others: int) -> None:
            costs[name].append(timed(lambda: runner.run(_wait(work())), amount, others))

        runner.run(_through(pooled, problems[:BATCH]))  # warm-up
        for number in range(rounds):
            measure("actors", lambda: _through(pooled, problems), len(problems), *pids)
            measure("direct", lambda: _directly(local, problems), len(problems))
            measure("sequential", lambda: _one_by_one(local, loaded, few), len(few))
            say(f"round {number + 1} of {rounds}")
    middle = {
        name: Cost(*(statistics.median(getattr(cost, kind) for cost in found) for kind in ("wall", "cpu"))) for name, found in costs.items()
    }
    return {
        "problems": count,
        "rounds": rounds,
        "seconds_per_problem": {name: vars(cost) for name, cost in middle.items()},
        "actors_over_direct": {kind: getattr(middle["direct"], kind) / getattr(middle["actors"], kind) for kind in ("wall", "cpu")},
        "actors_over_sequential": {kind: getattr(middle["sequential"], kind) / getattr(middle["actors"], kind) for kind in ("wall", "cpu")},
        "targets": {"actors_over_direct": ">= 0.9", "actors_over_sequential": ">= 3"},
    }


async def samples(config: RolesConfig, rounds: int) -> dict[str, Any]:
    """Time of n = 8 over n = 1 at 16 problems: the whole pipeline, and the solver alone along the gold plans."""
    problems = make_problems(SAMPLED_PROBLEMS)
    found: dict[str, list[float]] = {"pipeline": [], "solver": []}
    async with inline_roles(config) as roles:
        await _through(roles, problems)  # warm-up
        for number in range(rounds):
            for name, work in (("pipeline", _through), ("solver", _solve_gold)):
                one = await _cpu(work(roles, problems, GREEDY))
                eight = await _cpu(work(roles, problems, EIGHT))
                found[name].append(eight / one)
            say(f"round {number + 1} of {rounds}")
    ratios = {name: statistics.median(values) for name, values in found.items()}
    return {"problems": SAMPLED_PROBLEMS, "rounds": rounds, "eight_over_one": ratios, "targets": {"pipeline": "<= 3", "solver": "<= 4.5"}}


def memory() -> dict[str, Any]:
    """Peak resident memory of `cleave evaluate` by number of problems, each in a process of its own, against a local endpoint."""
    rows = []
    for count in MEMORY_COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "bench.evaluate", "--one", str(count), folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            say(f"{count} problems: {rows[-1]['peak_mib']:.0f} MiB")
    return {"rows": rows, "growth_mib": rows[-1]["peak_mib"] - rows[-2]["peak_mib"], "target": "no growth with the number of problems"}


async def _open(config: RolesConfig) -> Roles:
    from actors.local import local_roles

    return local_roles(config)


async def _wait(work: Awaitable[None]) -> None:
    await work


async def _pids(roles: Roles) -> list[int]:
    handles = [handle for handle in (roles.decomposer, roles.solver) if isinstance(handle, PoolHandle)]
    return [health.pid for handle in handles for health in await handle.health()]


async def _through(roles: Roles, problems: Sequence[Problem], strategy: ReasoningConfig = GREEDY) -> None:
    """As `cleave evaluate` does it: all problems at the same time, batches formed by the hosts."""
    await asyncio.gather(*(reason(problem, roles, strategy) for problem in problems))


async def _directly(roles: Roles, problems: Sequence[Problem]) -> None:
    """Batches cut by hand, the two models one after the other."""
    decomposer, solver = roles.decomposer.role, roles.solver.role  # type: ignore[attr-defined]
    for start in range(0, len(problems), BATCH):
        batch = problems[start : start + BATCH]
        replies = await decomposer([DecomposeRequest(problem) for problem in batch])
        planned = [(problem, reply.plans[0]) for problem, reply in zip(batch, replies, strict=True) if reply.plans[0] is not None]
        if planned:
            await solver([SolveRequest(problem, "steps", plan) for problem, plan in planned])


async def _one_by_one(roles: Roles, loaded: Sequence[Checkpoint], problems: Sequence[Problem]) -> None:
    """transformers' own `generate`, one prompt after the other."""
    decomposer, solver = roles.decomposer.role, roles.solver.role  # type: ignore[attr-defined]
    for problem in problems:
        plan = _plan(_generate(loaded[0], decomposer.prompts.decompose(problem).text, decomposer.max_tokens))
        if plan is not None:
            _generate(loaded[1], solver.prompts.solve(problem, "steps", plan).text, solver.max_tokens)


def _load(config: ModelConfig) -> Checkpoint:
    from cleave.lm.reference import resolve

    name = config.model_name_or_path
    return load_checkpoint(str(resolve(name)) if config.backend == "reference" else name)


def _generate(loaded: Checkpoint, text: str, max_tokens: int) -> str:
    import torch

    ids = loaded.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.inference_mode():
        out = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, eos_token_id=sorted(loaded.eos_ids)
        )
    return str(loaded.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def _plan(text: str) -> Plan | None:
    from cleave.errors import ParseError
    from cleave.plans import parse_plan

    try:
        return parse_plan(text)
    except ParseError:
        return None


async def _solve_gold(roles: Roles, problems: Sequence[Problem], strategy: ReasoningConfig) -> None:
    sampling = Sampling(1 << 20, strategy.temperature, n=strategy.n)
    await asyncio.gather(*(roles.solver(SolveRequest(problem, "steps", problem.gold_plan, sampling=sampling)) for problem in problems))


async def _cpu(work: Awaitable[None]) -> float:
    start = time.process_time()
    await work
    return time.process_time() - start


def timed(work: Callable[[], None], count: int, others: Sequence[int] = ()) -> Cost:
    """Wall and CPU seconds per problem; CPU of this process and of `others`."""
    wall, cpu = time.perf_counter(), time.process_time() + _cpu_of(others)
    work()
    return Cost((time.perf_counter() - wall) / count, (time.process_time() + _cpu_of(others) - cpu) / count)


def _cpu_of(pids: Sequence[int]) -> float:
    """User and system seconds of other processes (Linux)."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def peak_mib() -> float:
    """This program's peak resident memory. (getrusage would report the parent's where that was larger before the program started.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def serve_and_evaluate(count: int, folder: Path) -> int:
    """Evaluate `count` problems against an endpoint in this process, and print the peak memory as JSON."""
    from cleave.config.base import validate
    from cleave.config.evaluate import EvaluateConfig
    from pipelines.evaluate import main as evaluate

    start = time.perf_counter()
    code = evaluate(validate(EvaluateConfig, against_an_endpoint(count, folder), "bench"), as_json=True)
    peak = peak_mib()
    print(json.dumps({"problems": count, "peak_mib": round(peak, 1), "seconds": round(time.perf_counter() - start, 1)}))
    return code


def against_an_endpoint(count: int, folder: Path) -> dict[str, Any]:
    """A run of `count` problems whose roles are a local endpoint, which is started."""
    os.environ["OPENAI_API_KEY"] = "none"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Constant)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    role = {"model": f"openai:constant@http://127.0.0.1:{server.server_port}/v1", "prompts": "instruct-v1"}
    return {
        "name": "memory",
        "storage_path": str(folder),
        "backend": "inline",
        "tasks": [{"task": "lookup", "problems": count}],
        "roles": {"decomposer": role, "solver": role},
        "reasoning": {"strategy": "direct"},
    }


class Constant(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that always says the same."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        choice = {"index": 0, "message": {"role": "assistant", "content": "The answer is: 1"}, "finish_reason": "stop"}
        reply = {"id": "1", "object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 5}}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        return None


def show(results: dict[str, Any]) -> None:
    """Tables for people."""
    if "throughput" in results:
        found = results["throughput"]
        rows = [[name, f"{cost['wall']:.4f}", f"{cost['cpu']:.4f}"] for name, cost in found["seconds_per_problem"].items()]
        print_table(
            ["how", "wall s", "cpu s"],
            rows,
            title=f"Seconds per problem, {found['problems']} problems, static",
            numbers=["wall s", "cpu s"],
        )
        rows = [
            ["actors / direct throughput", *(f"{found['actors_over_direct'][kind]:.2f}" for kind in ("wall", "cpu")), ">= 0.9"],
            ["actors / sequential generate", *(f"{found['actors_over_sequential'][kind]:.2f}" for kind in ("wall", "cpu")), ">= 3"],
        ]
        print_table(["ratio", "wall", "cpu", "target"], rows, numbers=["wall", "cpu"])
    if "samples" in results:
        found = results["samples"]
        rows = [[name, f"{ratio:.2f}", found["targets"][name]] for name, ratio in found["eight_over_one"].items()]
        print_table(["n = 8 over n = 1", "cpu ratio", "target"], rows, title=f"{found['problems']} problems", numbers=["cpu ratio"])
    if "memory" in results:
        rows = [[f"{row['problems']:,}", f"{row['peak_mib']:.0f}", f"{row['seconds']:.0f}"] for row in results["memory"]["rows"]]
        print_table(["problems", "peak MiB", "seconds"], rows, title="cleave evaluate", numbers=["problems", "peak MiB", "seconds"])
    print(f"{results['machine']}, {results['cpus']} CPUs, load {results['load'][0]:.1f}")


if __name__ == "__main__":
    sys.exit(main())
