"""What searching costs beside training: Ray Tune against a plain loop over the same trials, and samplers against a training step.

    python -m bench.tune                        # 20 trials of some seconds each, both ways
    python -m bench.tune --trials 8 --steps 20 --json

Reported: (1) wall time of a search of plain trials on Tune, one at a time, over that of the same trainings one after another in this
process. What Tune adds does not grow with the length of a trial, so `at_a_minute` is the same overhead beside trials of a minute each;
(2) CPU time in which a sampler chooses the examples of one optimiser step, and hears how they went where it listens, over that of the
step. Their texts are made in advance: they are made whoever chooses. A machine that does other work at the same time makes (1) noisy.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from actors.connection import connected
from cleave.config.base import validate
from cleave.config.distill import DistillConfig
from cleave.config.tune import CurriculumSearchConfig
from cleave.curriculum.sampler import Observation, Sampler, ShuffledSource
from cleave.packing import pad
from pipelines.assembly import build_data, build_objective, build_sampler
from pipelines.curriculum import build_curriculum
from pipelines.start import load_start
from tune.placement import check_placement
from tune.rounds import round_of
from tune.search import run_round
from tune.search_folder import open_search
from tune.trial import run_trial

SKILLS = ("sums", "products", "lookup")
SHAPE = {"hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 4, "num_attention_heads": 3, "num_key_value_heads": 3}
DISTILL: dict[str, Any] = {
    "role": "decomposer",
    "tasks": [
        {"task": "arithmetic", "label": "sums", "dials": {"operations": ["add", "sub"]}},
        {"task": "arithmetic", "label": "products", "dials": {"operations": ["mul", "div"]}},
        "lookup",
    ],
    "curriculum": {"mixture": "cumulative"},
    "init": {"fresh": SHAPE},
    "train": {"max_steps": 40, "per_device_train_batch_tokens": 1024, "gradient_accumulation_steps": 2, "report_to": []},
    "evaluation": {"eval_steps": 10, "examples": 8, "generate": 0, "skill_examples": 8},
    "num_threads": 1,
}
SAMPLERS: dict[str, dict[str, Any]] = {
    "shuffled": {"mixture": "shuffled"},
    "ordered": {"mixture": "ordered", "order": SKILLS},
    "cumulative": {"mixture": "cumulative", "order": SKILLS},
    "scheduled": {"mixture": "scheduled", "schedule": [{"at": 0.0, "weights": {"sums": 1.0}}, {"at": 1.0, "weights": {"lookup": 1.0}}]},
    "missing_skills": {"mixture": "missing_skills", "profile": {"every": 1}},
    "easy to hard": {"easy_to_hard": {"by": "depth"}},
    "loss gate": {"gate": {"min_loss": 0.0, "max_loss": 9.0}},
}
CHUNK = 2000
"""Examples per skill that are made in advance."""


def make_search(folder: str, trials: int, steps: int) -> CurriculumSearchConfig:
    """A grid of learning rates, so that no trial shares anything with another."""
    rates = [1e-3 * (1 + k / 100) for k in range(trials)]
    data = {
        "name": "bench",
        "storage_path": folder,
        "distill": DISTILL | {"train": DISTILL["train"] | {"max_steps": steps}},
        "space": {"train.learning_rate": rates},
        "searcher": "grid",
        "num_samples": None,
        "max_concurrent_trials": 1,
    }
    return validate(CurriculumSearchConfig, data, "the bench")


def overhead(trials: int, steps: int) -> dict[str, float]:
    """Seconds of both ways, the connection to Ray included."""
    with tempfile.TemporaryDirectory() as folder:
        config = make_search(folder, trials, steps)
        whole = round_of(config, open_search(config), 0, [])
        run_trial(config.trial(next(iter(whole.points.values())), 0, "warm", f"{folder}/loop"), lambda figures: None)
        started = time.perf_counter()
        for k, point in enumerate(whole.points.values()):
            run_trial(config.trial(point, 0, f"trial-{k}", f"{folder}/loop"), lambda figures: None)
        loop = time.perf_counter() - started
        started = time.perf_counter()
        with connected():
            check_placement(config)
            run_round(whole, slots=1, seconds=None, scheduled=False)
            searched = time.perf_counter() - started
        finished = len(list(Path(folder).glob("bench/trials/*/result.json")))
    if finished != trials:
        raise RuntimeError(f"{finished} of {trials} trials finished")
    extra = searched - loop
    return {
        "trials": trials,
        "loop_s": loop,
        "tune_s": searched,
        "tune_over_loop": searched / loop,
        "extra_s_per_trial": extra / trials,
        "at_a_minute": 1 + extra / (60 * trials),
    }


def samplers(repeats: int) -> dict[str, float]:
    """CPU seconds of each sampler per step over those of the step."""
    config = make_config({"mixture": "shuffled"})
    model, tokenizer = load_start(config)
    data = build_data(config, tokenizer)
    sources: Any = {skill: ShuffledSource([*source.examples(CHUNK)]) for skill, source in data.sources.items()}  # type: ignore[union-attr]
    whole = config.train.per_device_train_batch_tokens * config.train.gradient_accumulation_steps
    step_s = training_step(config, model, tokenizer, build_sampler(config, data, 1), repeats)
    found = {"step_s": step_s}
    for name, curriculum in SAMPLERS.items():
        wanted = make_config(curriculum)
        sampler = build_curriculum(wanted, sources, data.shares, total_tokens=whole * 200, seed=0)
        found[name] = choosing(sampler, whole, repeats) / step_s
    return found


def make_config(curriculum: dict[str, Any]) -> DistillConfig:
    """The bench's training with another curriculum."""
    return validate(DistillConfig, DISTILL | {"name": "bench", "curriculum": curriculum}, "the bench")


def training_step(config: DistillConfig, model: Any, tokenizer: Any, sampler: Sampler, repeats: int) -> float:
    """Median CPU seconds of forward, backward and update of one step."""
    train, objective = config.train, build_objective(config, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    examples = iter(sampler)
    model.train()

    def step() -> None:
        for _ in range(train.gradient_accumulation_steps):
            batch, tokens = [], 0
            while tokens < train.per_device_train_batch_tokens:
                batch.append(next(examples))
                tokens += len(batch[-1])
            total, count, _ = objective.loss(model, pad(batch, 0), 0)
            (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()

    return median_cpu(step, repeats)


def choosing(sampler: Sampler, tokens: int, repeats: int) -> float:
    """Median CPU seconds in which a sampler chooses a step's examples and hears of them."""
    examples = iter(sampler)

    def step() -> None:
        drawn, seen = [], 0
        while seen < tokens:
            drawn.append(next(examples))
            seen += len(drawn[-1])
        if sampler.listens:
            sampler.observe([Observation(one.problem_id, one.skill, one.depth, 1.0) for one in drawn])

    return median_cpu(step, 20 * repeats)


def median_cpu(step: Callable[[], None], repeats: int) -> float:
    """CPU seconds of this process, after one step that warms up."""
    step()
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        spent.append(time.process_time() - start)
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="trials (default 20)")
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps of a trial (default 40, a few seconds)")
    parser.add_argument("--repeats", type=int, default=9, help="training steps that are timed (default 9)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("sampling …", file=sys.stderr)
    results: dict[str, Any] = {"load_average": os.getloadavg()[0], "sampler over step": samplers(options.repeats)}
    print("searching …", file=sys.stderr)
    results["tune"] = overhead(options.trials, options.steps)
    if options.json:
        print(json.dumps(results))
        return
    for name, value in results.items():
        print(f"{name}: {value if not isinstance(value, dict) else ', '.join(f'{key} {number:.3g}' for key, number in value.items())}")


if __name__ == "__main__":
    main()
