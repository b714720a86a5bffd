"""`cleave serve` in this process, for measurements: the application on a Ray cluster of its own, its replicas as processes, and models
that reply at once.

    paths = record_trivial(Path(folder), [problem, ...])                       # recordings of a made-up model, one file per role
    with application({"roles": trivial_cast(paths)}) as served:
        httpx.post(f"{served.url}/v1/solve", json={"question": problem.question})
        os.kill(served.replicas("Solver")[0], signal.SIGKILL)

Ray reads its options when it is imported: `HAPROXY` and the like have to be in the environment of the process before. Linux only (/proc).
Left out: asking (load.py) and what is measured (serve.py, faults.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.decomposer import build_decomposer
from actors.local import LocalHandle
from actors.solver import build_solver
from actors.verifier import build_verifier
from cleave.config.reasoning import ReasoningConfig
from cleave.config.roles import RolesConfig
from cleave.config.serve import LimitsConfig, ServeConfig
from cleave.lm.recorded import Recorder
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.solutions import ANSWER_MARKER
from cleave.types import Completion, ModelInfo, Problem, Prompt, Sampling, Usage
from serve.request import problem_of

NAME = "cleave"
LOGICAL_CPUS = 16
"""Room for every replica beside its successor; what they share is the machine's cores."""
OBJECT_STORE_BYTES = 200 * 2**20
PLAN = "1. How many at first?\n2. How many is #1 and 7?"
VERSION_SIZE = 1000
"""Answers of version v are v thousands."""


# --- models ---


class Trivial:
    """A model without weights: always the same plan, an answer that is a function of the question and the version."""

    capabilities = frozenset({"text", "seed", "logprobs", "score"})

    def __init__(self, version: int = 1) -> None:
        self.info = ModelInfo("trivial", str(version), "float32", 1)
        self._version = version

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        return [[self._said(prompt.text or "") for _ in range(sampling.n)] for prompt in prompts]

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        return [Completion(text, (1,), (-0.1,), usage=Usage(1, 1, 0)) for text in continuations]

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        yield self._said(prompt.text or "").text

    def reads(self, prompt: Prompt, continuation: str) -> bool:
        return True

    async def aclose(self) -> None:
        return None

    def _said(self, prompt: str) -> Completion:
        number = VERSION_SIZE * self._version + zlib.crc32(prompt.partition("\n")[0].encode()) % VERSION_SIZE
        text = PLAN if prompt.endswith("Plan:\n") else f"1. {number}\n2. {number}\n{ANSWER_MARKER} {number}"
        return Completion(text, (1, 2), (-0.1, -0.1), usage=Usage(1, 9, 9))


def make_bodies(count: int, **options: Any) -> list[dict[str, Any]]:
    """Requests for /v1/solve, all with other questions."""
    return [{"question": f"Tom has {i} apples and buys 7 more. How many apples does Tom have?", **options} for i in range(count)]


def problems_of(bodies: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """What the application makes of the requests."""
    return [problem_of(body["question"], "", LimitsConfig()) for body in bodies]


def record_trivial(folder: Path, problems: Sequence[Problem], *ways: ReasoningConfig, version: int = 1) -> dict[str, Path]:
    """Recordings by role of the trivial model, asked every problem in every way (static, if none is given)."""
    paths = {role: folder / f"{role}-{version}.jsonl" for role in ("decomposer", "solver", "verifier")}
    asyncio.run(_record(paths, problems, ways or (ReasoningConfig(strategy="static"),), version))
    return paths


async def _record(paths: Mapping[str, Path], problems: Sequence[Problem], ways: Sequence[ReasoningConfig], version: int) -> None:
    models = {role: Recorder(Trivial(version), path) for role, path in paths.items()}
    cast = RolesConfig.model_validate(trivial_cast(paths))
    assert cast.verifier is not None
    roles = Roles(
        LocalHandle(build_decomposer(cast.decomposer, models["decomposer"])),
        LocalHandle(build_solver(cast.solver, models["solver"])),
        LocalHandle(build_verifier(cast.verifier, models["verifier"])),
    )
    for problem in problems:
        for way in ways:
            assert (await reason(problem, roles, way)).error is None


def trivial_cast(paths: Mapping[str, Path], replicas: int = 1, batch_wait_timeout_s: float = 0.0) -> dict[str, Any]:
    """Three roles that replay recordings, each in `replicas` processes."""
    cast: dict[str, Any] = {
        role: {
            "model": f"recorded:{path}",
            "prompts": "reference-v1",
            "batching": {"batch_wait_timeout_s": batch_wait_timeout_s},
            "resources": {"num_cpus": 0.1, "num_replicas": replicas},
        }
        for role, path in paths.items()
    }
    cast["verifier"]["scoring"] = "likelihood"
    return cast


# --- the application ---


@dataclass(frozen=True)
class Served:
    """An application that runs. `url` without a path."""

    url: str

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of a deployment's replicas, those that are starting included."""
        title = f"ray::ServeReplica:{NAME}:{deployment}"
        return sorted(pid for pid, name in cluster_processes().items() if name.startswith(title))

    def running(self, deployment: str) -> int:
        """Replicas that Serve counts as ready."""
        from ray import serve as ray_serve

        return ray_serve.status().applications[NAME].deployments[deployment].replica_states.get("RUNNING", 0)

    def wait_for(self, deployment: str, replicas: int, without: int, within_s: float = 120.0) -> float:
        """Seconds until so many replicas are ready and none of them is process `without`."""
        start = time.monotonic()
        while True:
            pids = self.replicas(deployment)
            if without not in pids and len(pids) == replicas and self.running(deployment) == replicas:
                return time.monotonic() - start
            if time.monotonic() - start > within_s:
                raise TimeoutError(f"{deployment} has not {replicas} replicas again after {within_s:g} s.")
            time.sleep(0.2)


@contextmanager
def application(config: Mapping[str, Any], cpus: float = LOGICAL_CPUS) -> Iterator[Served]:
    """Serve for the body of the `with`, on a cluster of `cpus` logical CPUs that ends with it."""
    import ray

    from serve.run import ROOT

    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    runtime_env = {"env_vars": {"PYTHONPATH": path}}
    ray.init(address="local", num_cpus=cpus, object_store_memory=OBJECT_STORE_BYTES, runtime_env=runtime_env, **options)
    try:
        with serving(config) as served:
            yield served
    finally:
        ray.shutdown()


@contextmanager
def serving(config: Mapping[str, Any]) -> Iterator[Served]:
    """Serve for the body of the `with`, on the cluster that this process is connected to."""
    from ray import serve as ray_serve

    from serve.run import main

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    main(ServeConfig.model_validate({"ingress": {"num_cpus": 0.1}, "port": port, "application": NAME, **config}), blocking=False)
    try:
        yield Served(f"http://127.0.0.1:{port}")
    finally:
        ray_serve.shutdown()


# --- processes ---


def cluster_processes() -> dict[int, str]:
    """The processes below this one with their titles."""
    parents, titles = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return {pid: titles[pid] for pid in parents if pid in titles and titles[pid] and os.getpid() in _ancestors(pid, parents)}


def _ancestors(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    while (pid := parents.get(pid, 0)) > 1:
        yield pid


def memory_mib(pid: int) -> float:
    """Memory of a process, with what it shares counted in shares (PSS); 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))
