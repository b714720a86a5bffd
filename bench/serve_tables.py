"""The results of bench/serve.py as tables for people, one function per part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cleave.console import print_table

Found = Mapping[str, Any]


def show(results: Found) -> None:
    """Every part that was measured, and the machine."""
    for part, table in TABLES.items():
        if part in results:
            table(results[part])
    print(f"{results['machine']}, {results['cpus']} CPUs, load {results['load'][0]:.1f}")


def hops(found: Found) -> None:
    columns = ["/health p50", "p95", "static p50", "p95 ", "empty p50", "p95  "]
    rows = [
        [name, *(f"{kinds[kind][p]:.1f}" for kind in ("health", "static", "empty") for p in ("p50", "p95"))]
        for name, kinds in found["milliseconds"].items()
    ]
    print_table(["front", *columns], rows, title=f"Milliseconds (targets: static {found['targets']['static']})", numbers=columns)
    if "missing" in found:
        print(found["missing"])


def throughput(found: Found) -> None:
    columns = ["HTTP", "actors", "HTTP / actors"]
    rows = [
        [front, *(f"{row['problems_per_s'][way]:.1f}" for way in ("http", "actors")), f"{row['http_over_actors']:.2f}"]
        for front, row in found["fronts"].items()
    ]
    print_table(["front", *columns], rows, title=f"Problems per second (target {found['target']})", numbers=columns)


def overload(found: Found) -> None:
    rows = [
        [name, f"{times['p50']:.0f}", f"{times['p95']:.0f}", _counts(found["statuses"][name])]
        for name, times in found["milliseconds"].items()
    ]
    ratios = ", ".join(f"{p} x {ratio:.2f}" for p, ratio in found["accepted_over_saturating"].items())
    title = f"Saturated at {found['saturating_per_s']:.1f}/s; at four times that {100 * found['share_429']:.0f} % are 429, latency {ratios}"
    print_table(["load", "p50 ms", "p95 ms", "statuses"], rows, title=title, numbers=["p50 ms", "p95 ms"])


def memory(found: Found) -> None:
    columns = [f"{number:,} requests" for number in found["requests"].values()]
    rows = [[name, *(f"{number:.1f}" for number in mib.values())] for name, mib in sorted(found["mib"].items())]
    growth = found["growth_mib"]
    title = f"Growth from a tenth of the requests on {growth['early']:+.1f} MiB, from half of them {growth['half']:+.1f} MiB"
    print_table(["MiB of", *columns], rows, title=title, numbers=columns)


def kills(found: Found) -> None:
    figures = ("kills", "requests", "lost", "other_answers")
    rows = [[name, *(found[name][figure] for figure in figures), _counts(found[name]["statuses"])] for name in ("roles", "ingress")]
    print_table(["replicas of", "kills", "requests", "lost", "other answers", "statuses"], rows, title="Kills under load")


def promotion(found: Found) -> None:
    row = [*(found[figure] for figure in ("requests", "lost", "mixed")), _counts(found["by_version"]), found["seconds"]]
    print_table(["requests", "lost", "mixed", "by version", "seconds"], [row], title="A promotion under load")


def optillm(found: Found) -> None:
    columns = ["questions/s", "right %", "errors"]
    rows = [[row["name"], f"{row['questions_per_s']:.2f}", f"{100 * row['accuracy']:.1f}", row["errors"]] for row in found["rows"]]
    print_table(["self-consistency by", *columns], rows, title=found["title"], numbers=columns)


def _counts(found: Found) -> str:
    return ", ".join(f"{name}: {number}" for name, number in found.items())


TABLES: dict[str, Callable[[Found], None]] = {
    "hops": hops,
    "throughput": throughput,
    "overload": overload,
    "memory": memory,
    "kills": kills,
    "promotion": promotion,
    "optillm": optillm,
}
