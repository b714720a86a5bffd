"""How long a user waits before anything happens: `cleave --help` and `import cleave`, against a bare Python start, in turn, medians.

python -m bench.startup --repeats 7
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import cleave": [sys.executable, "-c", "import cleave"],
    "import cleave.types": [sys.executable, "-c", "import cleave.types"],
    "cleave --help": [sys.executable, "-m", "cleave", "--help"],
    "cleave evaluate --help": [sys.executable, "-m", "cleave", "evaluate", "--help"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    print(
        json.dumps({"machine": platform.platform(), "cpu_count": os.cpu_count(), "repeats": repeats, "median_seconds": medians}, indent=2)
    )


if __name__ == "__main__":
    main()
