"""What clients see while replicas are killed and a role is promoted: parts `kills` and `promotion` of bench/serve.py.

Models that reply at once and always the same (application.py), so every answer is held against that of the same application left alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from bench.application import VERSION_SIZE, Served, application, make_bodies, problems_of, record_trivial, trivial_cast
from bench.load import Load, Outcome, answered, closed, milliseconds, statuses
from cleave.config.reasoning import ReasoningConfig
from cleave.config.task import TaskConfig
from cleave.console import say
from cleave.tasks.registry import get_task

ROOT = Path(__file__).resolve().parent.parent
REPLICAS = 2
CLIENTS = 6
QUESTIONS = 48
SETTLE_S = 2.0
"""Load before the first and after the last event."""
ROLES = ("Solver", "Decomposer", "Verifier")


def kills(folder: Path, count: int) -> dict[str, Any]:
    """`count` kills of role replicas in turn, each once the last one is ready again; then one of an ingress replica."""
    bodies = make_bodies(QUESTIONS, strategy="static")
    cast = trivial_cast(record_trivial(folder, problems_of(bodies)), REPLICAS)
    with application({"roles": cast, "ingress": {"num_replicas": REPLICAS, "num_cpus": 0.1}}) as served:
        url = f"{served.url}/v1/solve"
        undisturbed = closed(url, bodies, CLIENTS)
        with Load(url, bodies, CLIENTS) as load:
            time.sleep(SETTLE_S)
            seconds = [kill(served, ROLES[number % len(ROLES)]) for number in range(count)]
            time.sleep(SETTLE_S)
        with Load(url, bodies, CLIENTS) as at_ingress:
            time.sleep(SETTLE_S)
            kill(served, "Ingress")
            time.sleep(SETTLE_S)
    return {
        "roles": {"kills": count, "seconds_until_ready": seconds, **seen(load.outcomes, undisturbed)},
        "ingress": {"kills": 1, "clients": CLIENTS, **seen(at_ingress.outcomes, undisturbed)},
        "targets": {"roles": "0 lost, 0 other answers", "ingress": "at most the requests in flight lost"},
    }


def kill(served: Served, deployment: str) -> float:
    """Kill one replica; returns the seconds until there are as many as before."""
    pid = served.replicas(deployment)[0]
    os.kill(pid, signal.SIGKILL)
    seconds = served.wait_for(deployment, REPLICAS, without=pid)
    say(f"{deployment} replica {pid} killed, {seconds:.1f} s until the next one was ready")
    return round(seconds, 1)


def seen(outcomes: Sequence[Outcome], undisturbed: Sequence[Outcome]) -> dict[str, Any]:
    """How requests ended, and how many answers differ from those given in peace."""
    expected = {outcome.question: outcome.said for outcome in undisturbed}
    replies = answered(outcomes)
    return {
        "requests": len(outcomes),
        "lost": len(outcomes) - len(replies),
        "other_answers": sum(outcome.said != expected[outcome.question] for outcome in replies),
        "statuses": statuses(outcomes),
        "milliseconds": milliseconds(outcomes),
        "longest_s": round(max(outcome.seconds for outcome in outcomes), 2),
    }


def promotion(folder: Path) -> dict[str, Any]:
    """`cleave serve promote` of another solver under a load of `stepwise` requests, which call the solver once per sub-question."""
    bodies, probe = make_bodies(QUESTIONS, strategy="stepwise"), folder / "probe.jsonl"
    probe.write_text("".join(json.dumps({"question": body["question"], "answer": "1"}) + "\n" for body in bodies[:8]))
    task = get_task(TaskConfig.model_validate(f"jsonl:{probe}"))
    problems = [*problems_of(bodies), *task.problems("all", None, 0)]
    ways = [ReasoningConfig(strategy="static"), ReasoningConfig(strategy="stepwise")]
    old, new = (record_trivial(folder, problems, *ways, version=version) for version in (1, 2))
    with application({"roles": trivial_cast(old, REPLICAS)}) as served:
        with Load(f"{served.url}/v1/solve", bodies, CLIENTS) as load:
            time.sleep(SETTLE_S)
            seconds = promote("solver", f"recorded:{new['solver']}", probe)
            time.sleep(SETTLE_S)
        after = versions_of(closed(f"{served.url}/v1/solve", bodies, CLIENTS))
    found = versions_of(load.outcomes)
    return {
        "seconds": round(seconds, 1),
        "requests": len(load.outcomes),
        "lost": len(load.outcomes) - len(answered(load.outcomes)),
        "mixed": sum(len(versions) > 1 for versions in found),
        "by_version": {version: sum(versions == {version} for versions in found) for version in (1, 2)},
        "new_version_answers_afterwards": all(versions == {2} for versions in after),
        "statuses": statuses(load.outcomes),
        "milliseconds": milliseconds(load.outcomes),
        "target": "0 lost, 0 mixed",
    }


def promote(role: str, model: str, probe: Path) -> float:
    """Seconds that the command took. It may lose and gain whatever it likes here. Raises CalledProcessError where it refuses."""
    start = time.monotonic()
    command = [sys.executable, "-m", "cleave", "serve", "promote", role, model, "--task", f"jsonl:{probe}", "--split", "all", "-n", "8"]
    command += ["--max-nfr", "100", "--min-gain", "-100", "--address", ray.get_runtime_context().gcs_address]
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
    return time.monotonic() - start


def versions_of(outcomes: Sequence[Outcome]) -> list[set[int]]:
    """The solver's versions that took part in each answer: the thousands of its numbers."""
    return [{int(answer.rstrip(".")) // VERSION_SIZE for answer in numbers(outcome)} for outcome in answered(outcomes)]


def numbers(outcome: Outcome) -> list[str]:
    """The number at the end of each line of the solutions."""
    assert outcome.said is not None
    return [line.split()[-1] for text in outcome.said[1:] for line in text.splitlines()]
