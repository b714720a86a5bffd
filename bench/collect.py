"""What collecting costs beside generating: `cleave collect` against the teacher's models asked in batches and nothing else; its memory
against the number of traces. Ratios of things measured in turn in one run, with medians.

    python -m bench.collect                                  # the shipped teachers, 192 problems, 4 samples each
    python -m bench.collect --problems 64 --rounds 3 --json

Bare: prompts of a batch of problems to the decomposer, its plans to the solver, n samples each; no loop, no scoring, no files. Rates are
generated tokens per CPU second of one process with one thread. Left out: collecting through actors (bench/evaluate.py has their price).
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
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from actors.local import local_roles
from bench.evaluate import BATCH, FAMILIES, MEMORY_COUNTS, WAIT_S, against_an_endpoint, make_problems, peak_mib
from cleave.collection import Collection
from cleave.config.base import validate
from cleave.config.collect import CollectConfig
from cleave.config.roles import RolesConfig
from cleave.console import print_table, say
from cleave.roles import DecomposeRequest, SolveRequest
from cleave.runs import RunFolder
from cleave.types import Problem, Sampling
from pipelines.collect import main as collect

SAMPLES, TEMPERATURE = 4, 0.7
Role = dict[str, Any]


def cast() -> dict[str, Role]:
    batching = {"max_batch_size": BATCH, "batch_wait_timeout_s": WAIT_S}
    return {role: {"model": f"reference:{role}", "batching": batching} for role in ("decomposer", "solver")}


def collected(count: int, folder: str) -> int:
    """Generated tokens of one collection of `count` problems."""
    tasks = [{"task": family, "problems": count // len(FAMILIES), "split": "test"} for family in FAMILIES]
    data = {
        "name": "collection",
        "storage_path": folder,
        "backend": "inline",
        "tasks": tasks,
        "roles": cast(),
        "reasoning": {"strategy": "static", "n": SAMPLES, "temperature": TEMPERATURE},
        "leakage": {"action": "allow", "problems": 1},
    }
    assert collect(validate(CollectConfig, data, "bench"), quiet=True) == 0
    there = Collection(RunFolder.open(folder, "collection"))
    return sum(row.trace.total_usage.completion_tokens for row in there.traces(there.only_recipe()))


async def bare(problems: Sequence[Problem]) -> int:
    """Generated tokens of the two models asked for the same."""
    roles = local_roles(RolesConfig.model_validate(cast()))
    decomposer, solver = roles.decomposer.role, roles.solver.role  # type: ignore[attr-defined]
    tokens = 0
    share = BATCH // SAMPLES  # as many sequences as a host asks its model for
    for start in range(0, len(problems), BATCH):
        some = problems[start : start + BATCH]
        replies = await decomposer([DecomposeRequest(problem) for problem in some])
        planned = [(problem, reply.plans[0]) for problem, reply in zip(some, replies, strict=True) if reply.plans[0] is not None]
        sampling = Sampling(1 << 20, TEMPERATURE, n=SAMPLES)
        for first in range(0, len(planned), share):
            asked = [SolveRequest(problem, "steps", plan, sampling=sampling) for problem, plan in planned[first : first + share]]
            tokens += sum(reply.usage.completion_tokens for reply in await solver(asked))
        tokens += sum(reply.usage.completion_tokens for reply in replies)
    await decomposer.aclose()
    await solver.aclose()
    return tokens


def rate(work: Callable[[], int]) -> float:
    """Tokens per CPU second."""
    start = time.process_time()
    tokens = work()
    return tokens / (time.process_time() - start)


def speed(count: int, rounds: int) -> dict[str, Any]:
    """The two rates in turn; starting the models is part of both."""
    problems = make_problems(count)
    rates: dict[str, list[float]] = {"collect": [], "bare": []}
    asyncio.run(bare(problems[:BATCH]))  # warm-up
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            rates["collect"].append(rate(lambda folder=folder: collected(count, folder)))  # type: ignore[misc]
        rates["bare"].append(rate(lambda: asyncio.run(bare(problems))))
        say(f"round {number + 1} of {rounds}")
    middle = {name: statistics.median(found) for name, found in rates.items()}
    return {"problems": count, "rounds": rounds, "tokens_per_s": middle, "collect_over_bare": middle["collect"] / middle["bare"]}


def memory() -> list[dict[str, Any]]:
    """Peak resident memory of `cleave collect` by number of problems, each in a process of its own, against a local endpoint."""
    rows = []
    for count in MEMORY_COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "bench.collect", "--one", str(count), folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            say(f"{count} problems: {rows[-1]['peak_mib']:.0f} MiB")
    return rows


def serve_and_collect(count: int, folder: Path) -> int:
    """Collect `count` problems against an endpoint in this process, and print the peak memory as JSON."""
    code = collect(validate(CollectConfig, against_an_endpoint(count, folder), "bench"), quiet=True)
    print(json.dumps({"problems": count, "peak_mib": round(peak_mib(), 1)}))
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sections", nargs="+", default=["speed", "memory"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return serve_and_collect(int(arguments.one[0]), Path(arguments.one[1]))
    results: dict[str, Any] = {"machine": platform.platform(), "cpus": os.cpu_count(), "load": os.getloadavg()}
    if "speed" in arguments.sections:
        results["speed"] = speed(arguments.problems, arguments.rounds)
    if "memory" in arguments.sections:
        results["memory"] = memory()
    if arguments.json:
        print(json.dumps(results, indent=2))
        return 0
    if found := results.get("speed"):
        rates = [[name, f"{value:.0f}"] for name, value in found["tokens_per_s"].items()]
        title = f"{found['problems']} problems, {SAMPLES} samples: collect / bare {found['collect_over_bare']:.2f} (target 0.9)"
        print_table(["how", "tokens per CPU s"], rates, title=title)
    if rows := results.get("memory"):
        print_table(["problems", "peak MiB"], [[f"{row['problems']:,}", f"{row['peak_mib']:.0f}"] for row in rows], title="cleave collect")
    print(f"{results['machine']}, {results['cpus']} CPUs, load {results['load'][0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
