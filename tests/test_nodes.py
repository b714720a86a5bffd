"""Several nodes on one machine: roles spread over them, one is lost in the middle and comes back; nothing is lost, doubled or different.

Each test starts a cluster of its own in a child process, which ends with it (`ray.cluster_utils.Cluster`: one raylet per node).
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cleave.collection import Collection
from cleave.config.base import dump, validate
from cleave.config.collect import CollectConfig
from cleave.config.evaluate import EvaluateConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.runs import RunFolder
from cleave.tasks.reference.task import reference_task
from cleave.traces import read_traces
from pipelines import collect, evaluate
from tests.scripted import record

ROOT = Path(__file__).resolve().parent.parent
COUNT = 40
VARIANTS = ("static", "single", "direct")
SOLVERS = 2

NODES = """
import json, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from cleave.config.base import load
from cleave.config.collect import CollectConfig
from cleave.config.evaluate import EvaluateConfig
from cleave.doctor import worst
from pipelines import collect, evaluate
from pipelines.doctor import diagnose

def homes():
    actors = ray._private.state.actors().values()
    return sorted({actor["Address"]["NodeID"] for actor in actors if actor["State"] == "ALIVE"})

def disturb(config, run, done, node):
    '''Run it; once `done` says that some of it is finished, lose a node, wait, and give it back. Returns the exit code and the homes.'''
    codes = []
    def work():
        codes.append(run(config))
    working = threading.Thread(target=work)
    working.start()
    while done() < 3:
        assert working.is_alive(), "it ended before it could be disturbed"
        time.sleep(0.05)
    where = homes()
    cluster.remove_node(node, allow_graceful=False)
    before = done()
    while done() == before and working.is_alive():  # it goes on with the nodes that are left
        time.sleep(0.05)
    alone = done()
    back = cluster.add_node(num_cpus=2)
    working.join()
    return {"code": codes[0] if codes else None, "homes": len(where), "alone": alone - before}, back

evaluation, collection = load(EvaluateConfig, sys.argv[1]), load(CollectConfig, sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
first, second = cluster.add_node(num_cpus=2), cluster.add_node(num_cpus=2)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)

findings, examined = diagnose(evaluation, cluster.address)
told = {"status": worst(findings), "nodes": len(examined.reports), "findings": {one.name: one.what for one in findings}}
run = Path(evaluation.storage_path, evaluation.name)
told["evaluate"], second = disturb(evaluation, evaluate.main, lambda: len(list(run.glob("**/*.parquet"))), second)
kept = Path(collection.storage_path, collection.name)
told["collect"], second = disturb(collection, collect.main, lambda: len(list(kept.glob("traces/**/*.parquet"))), second)
Path(sys.argv[3]).write_text(json.dumps(told))
ray.shutdown()
cluster.shutdown()
"""


def cast(recording: Path, wait_s: float = 0.005) -> dict[str, Any]:
    """A decomposer and two solvers that are too large to share a node of two CPUs; each batch waits, so that a run takes a while."""
    role = {"model": f"recorded:{recording}", "prompts": "reference-v1", "batching": {"batch_wait_timeout_s": wait_s}}
    solver = role | {"resources": {"num_cpus": 1.5, "num_replicas": SOLVERS, "max_restarts": -1, "max_task_retries": -1}}
    return {"decomposer": role | {"resources": {"num_cpus": 0.5, "max_restarts": -1, "max_task_retries": -1}}, "solver": solver}


def configs(folder: Path, recording: Path, **changes: Any) -> tuple[EvaluateConfig, CollectConfig]:
    """An evaluation and a collection of the recorded problems."""
    common = {"storage_path": str(folder), "flush_traces": 8, "max_in_flight": 8, **changes}
    problems = {"tasks": [{"task": "arithmetic", "problems": COUNT}, {"task": "lookup", "problems": COUNT}]}
    evaluated = common | problems | {"name": "evaluated", "variants": dict.fromkeys(VARIANTS), "report": False}
    collected = common | problems | {"name": "collected", "leakage": {"problems": 20}}
    return validate(EvaluateConfig, evaluated, "a test"), validate(CollectConfig, collected, "a test")


def answers(config: EvaluateConfig) -> dict[Any, Any]:
    """What came out, by variant, task and problem; fails on a problem that is there twice."""
    rows = list(read_traces(RunFolder.open(config.storage_path, config.name)))
    found = {(row.variant, row.task, row.index): (row.trace.answer, row.outcome) for row in rows}
    assert len(found) == len(rows)
    return found


def content(config: CollectConfig) -> dict[str, Any]:
    """What was collected, by problem; fails on a problem that is there twice."""
    there = Collection(RunFolder.open(config.storage_path, config.name))
    rows = list(there.traces(there.only_recipe()))
    found = {row.trace.problem.id: (row.trace.answer, row.correct) for row in rows}
    assert len(found) == len(rows)
    return found


def in_cluster(script: str, arguments: Sequence[str], short_tmp: Path, timeout_s: float = 800) -> None:
    """Run a script that starts nodes, in a process of its own whose end is theirs; a node that is lost is noticed within seconds."""
    beat = {"period_ms": "1000", "failure_threshold": "5", "timeout_ms": "5000"}
    quick = {f"RAY_health_check_{name}": value for name, value in beat.items()}
    environment = os.environ | quick | {"RAY_TMPDIR": str(short_tmp / "nodes"), "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "none"}
    environment.pop("RAY_ADDRESS", None)
    (short_tmp / "nodes").mkdir(exist_ok=True)
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    families = [reference_task("arithmetic"), reference_task("lookup")]
    problems = [problem for task in families for split in ("test", "train") for problem in task.problems(split, limit=COUNT)]
    path = tmp_path_factory.mktemp("recording") / "calls.jsonl"
    record(path, problems, [ReasoningConfig(strategy=name) for name in VARIANTS])  # type: ignore[arg-type]
    return path


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_that_is_lost_and_comes_back_changes_nothing(recording: Path, tmp_path: Path, short_tmp: Path) -> None:
    calm = configs(tmp_path / "calm", recording, backend="inline", roles=cast(recording))
    assert (evaluate.main(calm[0], quiet=True), collect.main(calm[1])) == (0, 0)

    disturbed = configs(tmp_path / "disturbed", recording, roles=cast(recording, wait_s=0.3))
    for config in disturbed:
        (tmp_path / f"{config.name}.yaml").write_text(dump(config))
    arguments = [*(str(tmp_path / f"{config.name}.yaml") for config in disturbed), str(tmp_path / "told.json")]
    in_cluster(NODES, arguments, short_tmp)
    told = json.loads((tmp_path / "told.json").read_text())

    assert told["nodes"] == 3
    assert told["status"] != "fail", told["findings"]
    assert "all 3 nodes see each other's files" in told["findings"]["shared storage"]
    for run in ("evaluate", "collect"):
        assert told[run]["code"] == 0
        assert told[run]["homes"] == SOLVERS, "each node hosts a solver"
        assert told[run]["alone"] > 0, "it went on while the node was away"
    assert answers(disturbed[0]) == answers(calm[0])
    assert len(answers(calm[0])) == 2 * COUNT * len(VARIANTS)
    assert content(disturbed[1]) == content(calm[1])
    assert len(content(calm[1])) == 2 * COUNT
