"""Training speed against TRL's trainers, what packing and sorting by length bring, and Ray Train's workers against threads.

    python -m bench.distill                                # all sections, in turns, medians; wants a free machine
    python -m bench.distill --sections layout --rounds 3
    python -m bench.distill --tiny                         # only whether every section runs
    pip install trl && python -m bench.distill --sections trl       # or the extra `bench`

trl       the trainer of `cleave distill` against SFTTrainer with packing, and against DistillationTrainer, ours with a live teacher and
          with its 16 best tokens stored. DistillationTrainer writes its own targets; here it is handed ours, so that no sampling counts.
layout    the same examples in rows as they come, sorted by length, and packed.
workers   two workers of Ray Train with a thread each against one process with two threads, each a `cleave distill` of its own.

Same student, teacher, examples, tokens per batch, attention (sdpa) and number format everywhere. Rows take turns; tokens are real ones,
no padding. Seconds of `trl` and `layout` are CPU time of one thread, or wall time on a GPU; those of `workers` are wall time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from bench.trainers import Row, Setting, distillation_trainer, ours, sft_trainer
from cleave.config.base import validate
from cleave.config.distill import DistillConfig
from cleave.console import print_table, say
from cleave.distribution_matching import DistributionMatching, LiveTeachers, StoredDistributions
from cleave.objectives import CrossEntropy
from pipelines.assembly import build_data
from pipelines.capture import ask
from pipelines.start import load_start

TOP_K = 16
BETA = 0.5
LOGS = 6
"""How often a run of the section workers logs."""
SECTIONS = ("trl", "layout", "workers")
TARGETS = {
    "ours / SFTTrainer": ">= 1.0",
    "ours, live teacher / DistillationTrainer": ">= 1.0",
    "ours, stored / DistillationTrainer": ">= 1.5",
    "two workers / two threads": ">= 0.9",
}


def main() -> int:
    arguments = parse()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"machine": machine(), "cpus": os.cpu_count(), "load": os.getloadavg(), "rounds": arguments.rounds}
    with tempfile.TemporaryDirectory() as folder:
        setting = make_setting(arguments, Path(folder))
        if "trl" in arguments.sections and has_trl():
            results["trl"] = turns(against_trl(setting), arguments.rounds)
        if "layout" in arguments.sections:
            results["layout"] = turns(layouts(setting), arguments.rounds)
        if "workers" in arguments.sections:
            results["workers"] = workers(setting, arguments.rounds, arguments.worker_steps)
    results["ratios"] = ratios(results)
    print(json.dumps(results, indent=2)) if arguments.json else show(results)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    parser.add_argument("--rounds", type=int, default=5, help="rounds per row after one to warm up")
    parser.add_argument("--steps", type=int, default=4, help="optimiser steps per round, of which the first is not counted")
    parser.add_argument("--worker-steps", type=int, default=48, help="steps of each run of the section workers")
    parser.add_argument("--teacher", default="reference:solver")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="few short steps, figures without meaning")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.rounds, arguments.steps, arguments.worker_steps = 1, 2, 4
    return arguments


def machine() -> str:
    """The processor's name, and the GPU's if there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    )
    found = names[0] if names else platform.platform()
    return f"{found}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else found


def has_trl() -> bool:
    """Whether the section can run; says how to make it."""
    if importlib.util.find_spec("trl") is None:
        say("section trl is left out: pip install trl (the extra `bench`).")
        return False
    return True


def make_setting(arguments: argparse.Namespace, folder: Path) -> Setting:
    """A solver of a third of the teacher's size, and enough gold examples for all steps of a round."""
    shape = {"hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 4, "num_attention_heads": 3, "num_key_value_heads": 3}
    batch, passes = (256, 2) if arguments.tiny else (2048, 4)
    data = {
        "name": "bench",
        "role": "solver",
        "tasks": ["arithmetic", "lookup", "reading"],
        "init": {"fresh": shape},
        "objective": {"teacher": arguments.teacher, "beta": BETA},
        "train": {
            "max_steps": arguments.steps,
            "per_device_train_batch_tokens": batch,
            "gradient_accumulation_steps": passes,
            "bf16": arguments.bf16,
            "report_to": [],
            "save_steps": 10**6,
            "logging_steps": 10**6,
        },
        "evaluation": {"examples": 0},
    }
    config = validate(DistillConfig, data, "the bench")
    _, tokenizer = load_start(config)
    sources = build_data(config, tokenizer).sources.values()
    examples = [example for group in zip(*(source.chunk(0) for source in sources), strict=False) for example in group]
    setting = Setting(config, examples[: 60 if arguments.tiny else None], [], tokenizer, folder, arguments.steps)
    setting.stored.extend(ask(setting.teacher(), tokenizer, setting.examples, TOP_K, batch))
    return setting


def layouts(setting: Setting) -> list[Row]:
    """Padding and what is done against it."""
    return [
        ours("padded, as they come", setting, CrossEntropy(), in_order=True),
        ours("padded, sorted by length", setting, CrossEntropy()),
        ours("packed", setting, CrossEntropy(), packing=True),
    ]


def against_trl(setting: Setting) -> list[Row]:
    """Cross-entropy and distillation, theirs and ours; ours in the faster of its layouts on a CPU."""
    live = DistributionMatching(LiveTeachers([setting.teacher()], beta=BETA))
    return [
        sft_trainer(setting),
        ours("ours", setting, CrossEntropy()),
        ours("ours, packed", setting, CrossEntropy(), packing=True),
        distillation_trainer(setting, BETA),
        ours("ours, live teacher", setting, live),
        ours("ours, stored", setting, DistributionMatching(StoredDistributions(beta=BETA)), stored=True),
    ]


def turns(rows: list[Row], rounds: int) -> dict[str, float]:
    """Median tokens per second of each row, after a round to warm up."""
    for number in range(rounds + 1):
        for row in rows:
            tokens, seconds = row.run()
            if number:
                row.speeds.append(tokens / seconds)
        say(f"round {number} of {rounds}")
    return {row.name: statistics.median(row.speeds) for row in rows}


def workers(setting: Setting, rounds: int, steps: int) -> dict[str, float]:
    """Median tokens per second that either kind of run logs."""
    passes = setting.config.train.gradient_accumulation_steps
    kinds: dict[str, dict[str, Any]] = {
        "two threads": {"backend": "inline", "num_threads": 2, "train": {"gradient_accumulation_steps": passes}},
        "two workers": {"backend": "ray", "num_workers": 2, "train": {"gradient_accumulation_steps": passes // 2}},
    }
    speeds: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds):
        for name, changes in kinds.items():
            speeds[name] += logged(setting, f"{name.replace(' ', '-')}-{number}", changes, steps)
        say(f"round {number + 1} of {rounds}")
    return {name: statistics.median(found) for name, found in speeds.items()}


def logged(setting: Setting, name: str, changes: dict[str, Any], steps: int) -> list[float]:
    """Train in a process of its own; tokens per second by log but the first, which has the start in it.

    A log of every step would measure something else: on Ray Train one waits until the log before it was fetched, every two seconds.
    """
    data = setting.config.model_dump(mode="json", exclude={"objective"}) | changes | {"name": name, "storage_path": str(setting.folder)}
    every = max(1, steps // LOGS)
    data["train"] = setting.config.train.model_dump(mode="json") | {"max_steps": steps, "logging_steps": every} | changes["train"]
    path = setting.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data))
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-m", "cleave", "distill", str(path), "--json"], check=True, env=environment, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (setting.folder / name / "metrics.jsonl").read_text().splitlines()]
    return [row["tokens_per_second"] for row in rows if row.get("step", 0) > every and "loss" in row]


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """What the targets speak of, as far as it was measured."""
    speed: dict[str, float] = {**results.get("trl", {}), **results.get("layout", {}), **results.get("workers", {})}
    pairs = {
        "ours / SFTTrainer": ("ours", "SFTTrainer, packing"),
        "ours, packed / SFTTrainer": ("ours, packed", "SFTTrainer, packing"),
        "ours, live teacher / DistillationTrainer": ("ours, live teacher", "DistillationTrainer"),
        "ours, stored / DistillationTrainer": ("ours, stored", "DistillationTrainer"),
        "sorted / as they come": ("padded, sorted by length", "padded, as they come"),
        "packed / as they come": ("packed", "padded, as they come"),
        "two workers / two threads": ("two workers", "two threads"),
    }
    return {name: speed[one] / speed[other] for name, (one, other) in pairs.items() if one in speed and other in speed}


def show(results: dict[str, Any]) -> None:
    """Tables for people."""
    for section in SECTIONS:
        if section in results:
            rows = [[name, f"{speed:,.0f}"] for name, speed in results[section].items()]
            print_table(["row", "tokens per second"], rows, title=section, numbers=["tokens per second"])
    rows = [[name, f"{ratio:.2f}", TARGETS.get(name, "")] for name, ratio in results["ratios"].items()]
    print_table(["ratio", "measured", "target"], rows, numbers=["measured"])
    print(f"{results['machine']}, {results['cpus']} CPUs, load {results['load'][0]:.1f}")


if __name__ == "__main__":
    sys.exit(main())
