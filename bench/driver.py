"""What one problem costs the driver of an evaluation beside its models: CPU time by step, bytes on disk. docs/scale.md builds on it.

    python -m bench.driver                      # 4,000 problems
    python -m bench.driver --problems 500 --json

CPU seconds of one process with one thread, which a busy machine changes little; medians of rounds. A trace is that of `direct` with one
solution, so plans and samples come on top. Left out: the calls through Ray (bench/cluster.py) and the models.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from cleave.config.base import validate
from cleave.config.evaluate import EvaluateConfig
from cleave.console import print_table, say
from cleave.problem_file import ProblemFile, write_problems
from cleave.report import write_results
from cleave.runs import CONFIG, RunFolder
from cleave.traces import ScoredTrace, merge, problem_key, read_traces, write_shard
from cleave.types import Problem, Solution, Trace, Usage
from pipelines.session import score
from pipelines.workload import Finished, Item, Workload

STEPS = ("generate", "key", "score", "write", "resume", "merge", "count", "store_problem", "read_problem")
SHARD = 256


def measure(count: int) -> dict[str, Any]:
    """CPU milliseconds per problem of each step, and bytes per problem of each file."""
    config = evaluation(count)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.open(place, "driver")
        folder.write_text(CONFIG, json.dumps(config.model_dump(mode="json")))
        costs: dict[str, float] = {}

        def timed(step: str, work: Callable[[], Any]) -> Any:
            start = time.process_time()
            found = work()
            costs[step] = 1e3 * (time.process_time() - start) / count
            return found

        workload = Workload(config.tasks, config.strategies())
        items: list[Item] = timed("generate", lambda: list(workload.items(lambda item: False)))
        timed("key", lambda: [problem_key(item.problem) for item in items])
        rows = timed("score", lambda: [score(item, answered(item.problem)) for item in items])
        timed("write", lambda: write_all(folder, rows))
        finished: Finished = timed("resume", lambda: Finished.read(folder))
        assert len(finished) == count
        timed("merge", lambda: merge(folder))
        timed("count", lambda: write_results(folder, report=False))
        problems = [item.problem for item in items]
        timed("store_problem", lambda: write_problems(folder, "problems.parquet", problems, dict))
        stored = ProblemFile(folder, "problems.parquet")
        timed("read_problem", lambda: [stored.group(group) for group in range(stored.groups)])
        assert sum(1 for _ in read_traces(folder)) == count
        sizes = {"trace": "traces.parquet", "problem": "problems.parquet"}
        size = {name: Path(place, "driver", file).stat().st_size / count for name, file in sizes.items()}
    return {"cpu_ms": costs, "bytes": size}


def evaluation(count: int) -> EvaluateConfig:
    data = {"name": "driver", "tasks": [{"task": "arithmetic", "problems": count}], "reasoning": {"strategy": "direct"}, "report": False}
    return validate(EvaluateConfig, data, "bench")


def answered(problem: Problem) -> Trace:
    """A trace of one solution."""
    solution = Solution(answer=problem.answer, text=f"The answer is: {problem.answer}", logprob=-0.1, usage=Usage(1, 80, 6, 0.1))
    return Trace(
        problem, "direct", solutions=(solution,), answer=problem.answer, chosen=0, confidence=0.9, usage={"solver": solution.usage}
    )


def write_all(folder: RunFolder, rows: Sequence[ScoredTrace]) -> None:
    """As a session does it, some at a time."""
    left = iter(rows)
    for number in range(-(-len(rows) // SHARD)):
        write_shard(folder, f"{number:06d}", list(islice(left, SHARD)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    measure(SHARD)  # imports, and whatever is made once
    rounds = []
    for number in range(arguments.rounds):
        rounds.append(measure(arguments.problems))
        say(f"round {number + 1} of {arguments.rounds}")
    costs = {step: statistics.median(one["cpu_ms"][step] for one in rounds) for step in STEPS}
    results = {
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "problems": arguments.problems,
        "rounds": arguments.rounds,
        "cpu_ms": costs,
        "bytes": rounds[0]["bytes"],
    }
    if arguments.json:
        print(json.dumps(results, indent=2))
        return 0
    print_table(["step", "CPU ms per problem"], [[step, f"{costs[step]:.3f}"] for step in STEPS], numbers=["CPU ms per problem"])
    print(", ".join(f"{name}: {size:.0f} bytes" for name, size in results["bytes"].items()))
    print(f"{results['machine']}, {results['cpus']} CPUs, load {results['load'][0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
