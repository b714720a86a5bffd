"""Training speed: the trainer of `cleave distill` against a bare loop on the same batches, and the choices of layout side by side.

    python -m bench.training                  # the whole table, in turns, medians
    python -m bench.training --rounds 3 --only padded,packed

Each row is a warm model of one shape; rounds alternate between the rows, so that load from elsewhere meets all of them. Tokens are real
ones (no padding). With one thread, seconds are of this process's CPU time, so that a busy machine changes the figures little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cleave.config.base import validate
from cleave.config.distill import DistillConfig
from cleave.console import print_table, say
from cleave.objectives import CrossEntropy
from pipelines.assembly import build_data, build_sampler, build_trainer
from pipelines.start import compile_layers, load_start

STEPS = 3
SHAPE = {"hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "padded": {},
    "packed": {"packing": True},
    "eager attention": {"attn_implementation": "eager"},
    "1 x 8192": {"per_device_train_batch_tokens": 8192, "gradient_accumulation_steps": 1},
    "8 x 1024": {"per_device_train_batch_tokens": 1024, "gradient_accumulation_steps": 8},
    "bf16": {"bf16": True},
    "compiled": {"torch_compile": True},
}


@dataclass
class Row:
    """One variant. `run` trains STEPS steps and returns (tokens, CPU seconds) of all but the first."""

    name: str
    run: Callable[[], tuple[int, float]]
    speeds: list[float] = field(default_factory=list)

    def round(self) -> None:
        tokens, seconds = self.run()
        self.speeds.append(tokens / seconds)


class Clock:
    """Notes CPU time and tokens at the end of each step."""

    def __init__(self) -> None:
        self.notes: list[tuple[int, float]] = []

    def note(self, tokens: int) -> None:
        self.notes.append((tokens, time.process_time()))

    def read(self) -> tuple[int, float]:
        (first, start), (last, end) = self.notes[0], self.notes[-1]
        self.notes.clear()
        return last - first, end - start


def make_config(changes: dict[str, Any]) -> DistillConfig:
    """A solver of the reference tasks, one million tokens, no evaluation."""
    data = {
        "name": "bench",
        "role": "solver",
        "tasks": ["arithmetic", "lookup", "reading"],
        "init": {"fresh": SHAPE},
        "train": {"report_to": [], "save_steps": 10**6, "logging_steps": 10**6, **changes},
        "evaluation": {"examples": 0},
    }
    return validate(DistillConfig, data, "the bench")


def bare(changes: dict[str, Any]) -> Row:
    """The same batches, model, objective and optimiser without Hugging Face's Trainer."""
    from cleave.stream import StepStream

    config = make_config(changes)
    train = config.train
    model, tokenizer = load_start(config)
    if train.torch_compile:
        compile_layers(model)
    stream = StepStream(
        build_sampler(config, build_data(config, tokenizer), 1),
        batch_tokens=train.per_device_train_batch_tokens,
        accumulation=train.gradient_accumulation_steps,
        packing=train.packing,
        max_length=train.max_length,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
    batches, objective = iter(stream), CrossEntropy()
    model.train()

    def step() -> None:
        some = [next(batches) for _ in range(train.gradient_accumulation_steps)]
        count = sum(float(objective.count(batch)) for batch in some)
        for batch in some:
            (objective.loss(model, batch, 0)[0] / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    def run() -> tuple[int, float]:
        clock = Clock()
        for _ in range(STEPS):
            step()
            clock.note(stream.tokens)
        return clock.read()

    return Row("bare loop", run)


def trained(name: str, changes: dict[str, Any], folder: Path) -> Row:
    """The real trainer, whose `fit` is called anew each round; its stream goes on."""
    from transformers import TrainerCallback

    clock = Clock()

    class Note(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.note(trainer.stream.tokens)

    trainer, _ = build_trainer(make_config(changes | {"max_steps": STEPS}), folder, callbacks=[Note()])

    def run() -> tuple[int, float]:
        trainer.fit(resume=False)
        return clock.read()

    return Row(name, run)


def rows(names: list[str], folder: Path) -> Iterator[Row]:
    yield bare({})
    for name in names:
        yield trained(name, VARIANTS[name], folder / name.replace(" ", "-"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds per row after one warm-up")
    parser.add_argument("--only", default=",".join(VARIANTS), help="rows, separated by commas")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        table = list(rows(options.only.split(","), Path(folder)))
        for row in table:
            row.round()
            row.speeds.clear()
            say(f"warm: {row.name}")
        for _ in range(options.rounds):
            for row in table:
                row.round()
                say(f"{row.name}: {row.speeds[-1]:,.0f} tokens per CPU second")
        reference = statistics.median(table[0].speeds)
        print_table(
            ["row", "tokens per CPU second", "of the bare loop"],
            [(row.name, f"{statistics.median(row.speeds):,.0f}", f"{statistics.median(row.speeds) / reference:.2f}") for row in table],
            numbers=["tokens per CPU second", "of the bare loop"],
        )


if __name__ == "__main__":
    main()
