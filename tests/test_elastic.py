"""Elastic training: how many workers share a step changes neither its examples nor the tokens, and a lost node is no end."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cleave.config.base import validate
from cleave.config.distill import DistillConfig
from cleave.errors import ConfigError
from cleave.lm.checkpoint import load_checkpoint
from pipelines.distill import main
from tests.test_distill import make_config
from tests.test_training import STEPS, make_stream, make_trainer, weights

MOST = 4


def step_of(state: dict[str, Any], count: int, accumulation: int) -> tuple[list[str], dict[str, Any]]:
    """The problems of the next step, drawn by `count` workers from a state, and the state after it."""
    shared: list[str] = []
    for rank in range(count):
        stream = make_stream(40, accumulation, rank=rank, world_size=count, workers=(1, MOST))
        stream.load_state_dict(state)
        batches = list(islice(iter(stream), stream.passes))
        assert all(len(batch["input_ids"]) for batch in batches)
        shared += [problem for part in stream.problems for problem in part]
        after = stream.state_dict()
    return sorted(shared), json.loads(json.dumps(after))


@given(counts=st.lists(st.integers(1, MOST), min_size=1, max_size=4), accumulation=st.integers(1, 3))
def test_each_step_takes_the_same_examples_whoever_is_there(counts: list[int], accumulation: int) -> None:
    full = changing = make_stream(40, accumulation, workers=(1, MOST)).state_dict()
    for count in counts:
        expected, full = step_of(full, MOST, accumulation)
        found, changing = step_of(changing, count, accumulation)
        assert found == expected
        assert changing == full


def test_a_smaller_group_makes_more_passes_and_ends_at_the_same_weights(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole", make_stream(100))
    whole.fit()
    stream = make_stream(50, workers=(1, 2))
    assert stream.passes == 2
    alone = make_trainer(tmp_path / "alone", stream, stream.passes)
    alone.fit()
    torch.testing.assert_close(weights(alone), weights(whole), atol=2e-5, rtol=0)
    assert alone.stream.tokens == whole.stream.tokens
    assert alone.args.max_steps == STEPS


def test_a_fixed_group_draws_as_it_always_did() -> None:
    """Each step ends with the example that reaches the tokens of the step, and no sooner."""
    stream = make_stream(30, 2, world_size=2)
    lengths = [len(example) for example in islice(make_stream().sampler, 400)]
    for batches in (list(islice(iter(stream), stream.passes)) for _ in range(3)):
        assert len(batches) == stream.passes == 2
        drawn = 0
        while drawn < 120:
            drawn += lengths.pop(0)
        assert stream.tokens == drawn
        stream.tokens = 0


@pytest.mark.parametrize(("workers", "expected"), [(3, (3, 3)), ([1, 4], (1, 4))])
def test_the_number_of_workers_is_one_or_a_range(tmp_path: Path, workers: Any, expected: tuple[int, int]) -> None:
    config = make_config(tmp_path, backend="ray", num_workers=workers)
    assert (config.min_workers, config.max_workers) == expected
    assert validate(DistillConfig, config.model_dump(mode="json"), "its own dump") == config


@pytest.mark.parametrize("workers", [0, [0, 2], [3, 2]])
def test_no_workers_are_refused(tmp_path: Path, workers: Any) -> None:
    with pytest.raises(ConfigError, match="a number from 1 on, or \\[fewest, most\\]"):
        make_config(tmp_path, backend="ray", num_workers=workers)


LOSE_A_NODE = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from cleave.config.base import load
from cleave.config.distill import DistillConfig
from pipelines.distill import main

config = load(DistillConfig, sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
lost = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
codes = []
training = threading.Thread(target=lambda: codes.append(main(config)))
training.start()
run = Path(config.storage_path) / config.name
while not list(run.glob("ray/**/rng_state_1.pth")):  # a checkpoint of the second worker
    assert training.is_alive()
    time.sleep(0.05)
cluster.remove_node(lost, allow_graceful=False)
training.join()
sys.exit(codes[0] if codes else 1)
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_that_loses_a_node_goes_on_with_one_worker_to_the_same_end(tmp_path: Path, short_tmp: Path) -> None:
    """From two workers to one in mid-run: the same tokens, every step once, and the weights of a process that was never disturbed."""
    train = {"max_steps": 60, "per_device_train_batch_tokens": 150, "save_steps": 3, "logging_steps": 1}
    steady = make_config(tmp_path / "whole", train=train | {"gradient_accumulation_steps": 2}, evaluation={"examples": 0})
    assert main(steady) == 0
    options = {"backend": "ray", "num_workers": [1, 2], "elastic_resize_monitor_interval_s": 5}
    elastic = make_config(tmp_path / "elastic", train=train | {"gradient_accumulation_steps": 1}, evaluation={"examples": 0}, **options)
    path = tmp_path / "elastic.yaml"
    path.write_text(json.dumps(elastic.model_dump(mode="json")))
    beat = {"period_ms": "1000", "failure_threshold": "5", "timeout_ms": "5000"}
    quick = {f"RAY_health_check_{name}": value for name, value in beat.items()}
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | quick | {"RAY_TMPDIR": str(short_tmp / "nodes"), "PYTHONPATH": root}
    (short_tmp / "nodes").mkdir()
    done = subprocess.run([sys.executable, "-c", LOSE_A_NODE, str(path)], env=environment, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (tmp_path / name / "tiny" for name in ("whole", "elastic"))
    results = [json.loads((run / "result.json").read_text()) for run in (one, other)]
    assert results[0]["tokens"] == results[1]["tokens"]
    rows = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 61))
    first, second = (load_checkpoint(str(run / "checkpoint")).model.state_dict() for run in (one, other))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-5, rtol=0)
