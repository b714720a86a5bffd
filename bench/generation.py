"""How fast and in how much memory the reference tasks generate problems: problems per second and peak resident memory by count.

    python -m bench.generation --problems 100000

Each measurement is its own process, so that one's peak is not another's. Prints one JSON object.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time


def measure(family: str, split: str, problems: int) -> dict[str, float | int | str]:
    """Generate and count; run in a fresh process."""
    from cleave.tasks.registry import get_task

    start = time.perf_counter()
    count = sum(1 for _ in get_task(family).problems(split, limit=problems))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "family": family,
        "split": split,
        "problems": count,
        "seconds": round(seconds, 2),
        "per_second": round(count / seconds),
        "peak_mib": round(peak, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=100_000)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], arguments.one[1], int(arguments.one[2]))))
        return
    rows = []
    for family in ("arithmetic", "lookup", "reading"):
        for problems in (arguments.problems // 100, arguments.problems):
            command = [sys.executable, "-m", "bench.generation", "--one", family, "train", str(problems)]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(json.dumps({"machine": platform.platform(), "cpu_count": os.cpu_count(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
