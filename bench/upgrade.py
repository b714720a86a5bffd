"""Does learning to agree with the version in use spare problems that it solves (MUSCLE, arXiv 2407.09435)?

    python -m bench.upgrade                              # three seeds, 2,000 problems; some 20M training tokens
    python -m bench.upgrade --seeds 0 --tokens 20000 --problems 20 --name upgrade-try             # the mechanics

A solver is trained from reference:base on gold solutions twice: v1 shortly, v2 with another seed and longer. Two successors start from v2
and take as many more tokens: `compatible` learns v1's distribution at tokens that it would get wrong and v2's elsewhere (beta 0, as in the
paper), `longer` goes on as v2 did, the control. All are asked the same test problems along their gold plans, so that a lost problem is
the solver's doing. Lost: v1 solves it, the new version does not (NFR); NFR_mc also counts a wrong answer that is another one than v1's.

Runs are kept in runs/NAME and go on after a stop. Figures of all seeds are pooled; the interval of the gain is paired over problems.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from cleave.comparison import compare, rows_of
from cleave.config.base import validate
from cleave.config.distill import DistillConfig
from cleave.config.evaluate import EvaluateConfig
from cleave.console import print_table, say
from cleave.flips import Flips
from cleave.report import read_config
from cleave.runs import METRICS, RunFolder
from pipelines import distill, evaluate

ARMS = ("v1", "v2", "longer", "compatible")
COLUMNS = ("against v1", "n", "v1 %", "new %", "gain", "NFR %", "NFR_mc %", "p")
OTHER_SEED = 100
"""What the seed of v2 is more than that of v1."""


def main() -> None:
    args = arguments()
    folder = RunFolder.open(args.storage_path, args.name)
    folder.prepare()
    pooled = {arm: Flips() for arm in ARMS[1:]}
    for seed in args.seeds:
        runs = {}
        for arm in ARMS:
            checkpoint = train(args, arm, seed)
            runs[arm] = measure(args, arm, seed, checkpoint)
        for arm, flips in pooled.items():
            add(flips, flips_between(runs["v1"], runs[arm]))
    folder.write_lines(METRICS, [{"arm": arm, **asdict(flips), "nfr": flips.nfr, "nfr_mc": flips.nfr_mc} for arm, flips in pooled.items()])
    print_table(COLUMNS, [row(arm, flips) for arm, flips in pooled.items()], title="Upgrades of a solver", numbers=COLUMNS[1:])
    say(f"figures are in {folder.location}/{METRICS}")


def train(args: argparse.Namespace, arm: str, seed: int) -> str:
    """Train one version, unless it is there; returns its checkpoint."""
    place = f"{args.storage_path}/{args.name}"
    later = arm in ("longer", "compatible")
    tokens = {"v1": args.tokens, "v2": 2 * args.tokens}.get(arm, args.tokens)
    objective = {"teacher": f"hf:{place}/v2-{seed}/checkpoint", "previous": f"hf:{place}/v1-{seed}/checkpoint", "beta": 0.0}
    data: dict[str, Any] = {
        "name": f"{arm}-{seed}",
        "storage_path": place,
        "role": "solver",
        "backend": "inline",
        "formats": {"steps_with_plan": 1.0},
        "tasks": [{"task": "arithmetic", "weight": 2}, "reading"],
        "init": {"model": f"hf:{place}/v2-{seed}/checkpoint" if later else "reference:base"},
        "train": {
            "max_tokens": tokens,
            "per_device_train_batch_tokens": 1024,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3 if later else 2e-3,
        },
        "evaluation": {"eval_steps": 200, "examples": 240, "generate": 0},
        "seed": seed if arm == "v1" else seed + OTHER_SEED,
        "num_threads": args.threads,
        **({"objective": objective} if arm == "compatible" else {}),
    }
    if code := distill.main(validate(DistillConfig, data, arm), quiet=True):
        raise SystemExit(code)
    result: dict[str, Any] = json.loads(RunFolder.open(place, f"{arm}-{seed}").read_text("result.json"))
    return str(result["checkpoint"])


def measure(args: argparse.Namespace, arm: str, seed: int, checkpoint: str) -> RunFolder:
    """Ask one version the test problems, unless that was done; returns the run."""
    data: dict[str, Any] = {
        "name": f"{arm}-{seed}-test",
        "storage_path": f"{args.storage_path}/{args.name}",
        "backend": "inline",
        "tasks": [{"task": task, "problems": args.problems // 2} for task in ("arithmetic", "reading")],
        "roles": {"solver": {"model": f"hf:{checkpoint}"}},
        "reasoning": {"strategy": "static", "gold_plan": True},
        "report": False,
    }
    config = validate(EvaluateConfig, data, arm)
    if code := evaluate.main(config, quiet=True):
        raise SystemExit(code)
    return RunFolder.open(config.storage_path, config.name)


def flips_between(old: RunFolder, new: RunFolder) -> Flips:
    """Over all problems of two runs."""
    rows = [rows_of(folder, read_config(folder), None) for folder in (old, new)]
    return compare(*rows).tasks["all"]


def add(total: Flips, part: Flips) -> None:
    """Count the problems of another seed too."""
    for name, count in asdict(part).items():
        setattr(total, name, getattr(total, name) + count)


def row(arm: str, flips: Flips) -> list[str]:
    """A line of the table."""
    shares = (f"{100 * flips.nfr:.1f}", f"{100 * flips.nfr_mc:.1f}", f"{flips.p_value:.2g}")
    return [arm, str(flips.n), str(flips.old()), str(flips.new()), str(flips.gain()), *shares]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="upgrade")
    parser.add_argument("--storage-path", default="runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=1_200_000, help="training tokens of v1; v2 has twice as many")
    parser.add_argument("--problems", type=int, default=2000, help="half arithmetic, half reading")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
