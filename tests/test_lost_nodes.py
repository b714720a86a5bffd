"""A node that is lost and comes back in the middle of a training, of a search and of serving: the same results, and nobody waits for ever.

Each test starts a cluster of several raylets in a child process (test_nodes.py), beside what happens when nothing is lost.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.endpoint import ANSWER, Endpoint
from cleave.config.base import dump, validate
from cleave.config.serve import ServeConfig
from cleave.lm.checkpoint import load_checkpoint
from pipelines.distill import main as distill
from tests.test_distill import make_config
from tests.test_nodes import in_cluster
from tests.test_tune import DISTILL, make_search

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

START = """
import json, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from cleave.config.base import load

def until(condition, working=None, seconds=900):
    end = time.monotonic() + seconds
    while not condition():
        assert working is None or working.is_alive(), "it ended too early"
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)

def start(head, *nodes):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head})
    added = [cluster.add_node(num_cpus=cpus) for cpus in nodes]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    return cluster, added

def stop(cluster):
    ray.shutdown()
    cluster.shutdown()
"""

TRAIN = (
    START
    + """
from cleave.config.distill import DistillConfig
from pipelines.distill import main

config = load(DistillConfig, sys.argv[1])
cluster, (lost,) = start(1, 1)
codes = []
training = threading.Thread(target=lambda: codes.append(main(config)))
training.start()
run = Path(config.storage_path) / config.name
until(lambda: list(run.glob("ray/**/rng_state_1.pth")), training)  # a checkpoint of the second worker
cluster.remove_node(lost, allow_graceful=False)
time.sleep(2)
cluster.add_node(num_cpus=1)
training.join()
stop(cluster)
sys.exit(codes[0] if codes else 1)
"""
)

SEARCH = (
    START
    + """
from cleave.config.tune import CurriculumSearchConfig
from tune.curriculum import main

calm, disturbed = (load(CurriculumSearchConfig, path) for path in sys.argv[1:3])
cluster, (first, second) = start(0, 1, 1)
assert main(calm, as_json=True) == 0
codes = []
searching = threading.Thread(target=lambda: codes.append(main(disturbed, as_json=True)))
searching.start()
trials = Path(disturbed.storage_path) / disturbed.name / "trials"
until(lambda: list(trials.glob("*/outcome.json")), searching)
cluster.remove_node(second, allow_graceful=False)
until(lambda: len([node for node in ray.nodes() if node["Alive"]]) == 2)
cluster.add_node(num_cpus=1)
searching.join()
stop(cluster)
sys.exit(codes[0] if codes else 1)
"""
)

SERVE = (
    START
    + """
import httpx
from ray import serve as ray_serve
from cleave.config.serve import ServeConfig
from serve.run import main

config = load(ServeConfig, sys.argv[1])
url = f"http://{config.host}:{config.port}/v1/solve"
cluster, (first, second) = start(1, 2, 2)  # a solver does not fit on the head
assert main(config, blocking=False) == 0
codes, over = [], threading.Event()

def ask():
    while not over.is_set():
        try:
            reply = httpx.post(url, json={"question": "How many?"}, timeout=60)
            codes.append((reply.status_code, reply.json().get("answer")))
        except httpx.HTTPError as error:
            codes.append((type(error).__name__, None))

def homes(deployment="Solver"):
    actors = ray._private.state.actors().values()
    return {actor["Address"]["NodeID"] for actor in actors if actor["State"] == "ALIVE" and deployment in actor["Name"]}

def healthy():
    (application,) = ray_serve.status().applications.values()
    return application.status.value == "RUNNING" and len(homes()) == 2

until(healthy)
asking = threading.Thread(target=ask)
asking.start()
until(lambda: len(codes) > 20)
lost = next(node for node in (first, second) if node.node_id in homes() - homes("Ingress"))
cluster.remove_node(lost, allow_graceful=False)
after = len(codes)
until(lambda: [code for code, _ in codes[after:]].count(200) > 20)  # the replica that is left goes on
alone = len(homes() - {lost.node_id})
cluster.add_node(num_cpus=2)
until(healthy)
back = len(codes)
until(lambda: len(codes) > back + 20)
over.set()
asking.join()
Path(sys.argv[2]).write_text(json.dumps({"codes": codes, "after": after, "back": back, "alone": alone}))
ray_serve.shutdown()
stop(cluster)
"""
)


def written(path: Path, config: Any) -> str:
    path.write_text(dump(config))
    return str(path)


def test_a_training_waits_for_its_node_and_ends_at_the_same_weights(
    tmp_path: Path, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    train = {"max_steps": 40, "per_device_train_batch_tokens": 150, "save_steps": 3, "logging_steps": 1}
    steady = make_config(tmp_path / "whole", train=train | {"gradient_accumulation_steps": 2}, evaluation={"examples": 0})
    assert distill(steady) == 0
    options = {"backend": "ray", "num_workers": 2, "max_failures": -1}
    lost = make_config(tmp_path / "lost", train=train | {"gradient_accumulation_steps": 1}, evaluation={"examples": 0}, **options)
    in_cluster(TRAIN, [written(tmp_path / "lost.yaml", lost)], short_tmp, 1400)
    runs = [tmp_path / name / "tiny" for name in ("whole", "lost")]
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    assert results[0]["tokens"] == results[1]["tokens"]
    rows = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 41))
    first, second = (load_checkpoint(str(run / "checkpoint")).model.state_dict() for run in runs)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-5, rtol=0)


def outcomes(folder: Path) -> dict[str, tuple[str, dict[str, float]]]:
    """How each trial ended and its figures that are not times."""
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("trials/*/outcome.json")}
    return {
        name: (one["status"], {key: value for key, value in one["values"].items() if "second" not in key}) for name, one in found.items()
    }


def test_a_search_finishes_every_trial_with_the_same_figures(tmp_path: Path, short_tmp: Path) -> None:
    pair = DISTILL | {"tasks": DISTILL["tasks"][:2], "train": DISTILL["train"] | {"max_steps": 12}}
    space = {"curriculum.order": {"permutations": []}, "train.learning_rate": [1e-3, 2e-3, 3e-3]}
    options = {"distill": pair, "space": space, "searcher": "grid", "num_samples": None, "max_failures": 3}
    configs = [make_search(tmp_path / name, **options) for name in ("calm", "disturbed")]
    in_cluster(SEARCH, [written(tmp_path / f"{k}.yaml", config) for k, config in enumerate(configs)], short_tmp, 1400)
    calm, disturbed = (outcomes(tmp_path / name / "search") for name in ("calm", "disturbed"))
    assert len(calm) == 6
    assert {status for status, _ in disturbed.values()} == {"finished"}
    assert disturbed.keys() == calm.keys()
    for name, (_, values) in calm.items():
        assert disturbed[name][1] == pytest.approx(values, abs=1e-5)


def test_an_application_goes_on_with_the_replica_that_is_left(tmp_path: Path, short_tmp: Path) -> None:
    with Endpoint(latency_s=0.05) as endpoint:
        role = {"model": endpoint.model, "prompts": "instruct-v1"}
        data = {
            "roles": {
                "decomposer": role | {"resources": {"num_cpus": 0.25}},
                "solver": role | {"resources": {"num_cpus": 1.5, "num_replicas": 2}},
            },
            "reasoning": {"strategy": "direct"},
            "ingress": {"num_cpus": 0.1},
            "port": 8123,
        }
        path = written(tmp_path / "serve.yaml", validate(ServeConfig, data, "a test"))
        in_cluster(SERVE, [path, str(tmp_path / "told.json")], short_tmp, 1400)
    told = json.loads((tmp_path / "told.json").read_text())
    answers = {answer for code, answer in told["codes"] if code == 200}
    assert answers == {ANSWER.rpartition(" ")[2]}, "whoever is answered is answered right"
    before, away = told["codes"][: told["after"]], told["codes"][told["after"] : told["back"]]
    assert {code for code, _ in before} == {200}
    assert {code for code, _ in told["codes"][told["back"] :]} == {200}
    lost = [code for code, _ in away if code != 200]
    assert set(lost) <= {502, 503}, "what was under way there is refused as something that may be asked again"
    assert told["alone"] == 1
