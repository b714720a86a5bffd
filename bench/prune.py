"""What pruning brings and costs: generation and file size of a model sliced to half against the dense one; gates in a training step.

    python -m bench.prune
    python -m bench.prune --rounds 3 --new-tokens 16

Rows take turns, so that load from elsewhere meets all of them; medians of rounds after one to warm up. Generation is timed by the clock, a
training step, with one thread, by this process's CPU time. Weights are random: speed depends on shapes alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config, TrainerCallback

from bench.training import STEPS, Clock, Row, make_config
from cleave.config.prune import PruneConfig
from cleave.console import print_table, say
from cleave.pruning.baselines import at_random
from cleave.pruning.size import BATCHES, generation_speed, size_of
from cleave.pruning.slicing import slice_model
from cleave.pruning.target import targets
from cleave.pruning.units import Anatomy
from pipelines.assembly import build_trainer

SHAPE: dict[str, Any] = {
    "vocab_size": 4000,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
HALF = PruneConfig(sparsity={"heads": 0.5, "neurons": 0.5}, sparsity_ramp=(0, 0), polarization_ramp=(0, 0), freeze=1.0)
_NEVER = 10**6
"""Steps of a schedule whose gates do not freeze while they are measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds per row after one to warm up")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens generated per row of a batch")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        generation(Path(folder), options.new_tokens, options.rounds)
        training(Path(folder), options.rounds)


def generation(folder: Path, new_tokens: int, rounds: int) -> None:
    """Dense and sliced side by side."""
    dense: PreTrainedModel = AutoModelForCausalLM.from_config(Qwen3Config(**SHAPE)).eval()
    anatomy = Anatomy.of(dense, HALF.block)
    models = {"dense": dense, "sliced": slice_model(dense, at_random(anatomy, targets(anatomy, HALF.sparsity)), anatomy)}
    speeds = generation_speed(models, new_tokens, rounds)
    rows = []
    for name, model in models.items():
        model.save_pretrained(folder / name)
        size = (folder / name / "model.safetensors").stat().st_size
        first = (folder / "dense" / "model.safetensors").stat().st_size
        cells = [f"{size_of(model)['parameters']:,}", f"{size / 2**20:.1f}", f"{size / first:.2f}"]
        for batch in BATCHES:
            speed = speeds[name][f"tokens_per_second_{batch}"]
            cells += [f"{speed:,.0f}", f"{speed / speeds['dense'][f'tokens_per_second_{batch}']:.2f}"]
        rows.append((name, *cells))
    columns = ["model", "parameters", "MiB", "of dense", *(part for batch in BATCHES for part in (f"tokens/s at {batch}", "of dense"))]
    print_table(columns, rows, title="generation", numbers=columns[1:])


def training(folder: Path, rounds: int) -> None:
    """A step without gates, with gates that decide by input, and with frozen ones."""
    table = [trained(name, folder / name) for name in ("without gates", "gates decide", "gates are frozen")]
    for number in range(1 + rounds):
        for row in table:
            row.round()
            say(f"{row.name}: {row.speeds[-1]:,.0f} tokens per CPU second{' (warm-up)' if number == 0 else ''}")
            row.speeds = row.speeds[number == 0 :]
    plain = statistics.median(table[0].speeds)
    rows = [(row.name, f"{(speed := statistics.median(row.speeds)):,.0f}", f"{plain / speed:.2f}") for row in table]
    print_table(
        ["step", "tokens per CPU second", "time of a step, of that without"], rows, title="training", numbers=["tokens per CPU second"]
    )


def trained(name: str, folder: Path) -> Row:
    """The trainer of `cleave distill`, whose `fit` is called anew each round; its stream goes on."""
    clock = Clock()

    class Note(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.note(trainer.stream.tokens)

    config = make_config({"max_steps": _NEVER})
    gated = config if name == "without gates" else config.model_copy(update={"prune": HALF})
    trainer, _ = build_trainer(gated, folder, callbacks=[Note()])
    trainer.args.max_steps = STEPS
    if name == "gates are frozen":
        trainer.gates.consensus()

    def run() -> tuple[int, float]:
        trainer.fit(resume=False)
        return clock.read()

    return Row(name, run)


if __name__ == "__main__":
    main()
