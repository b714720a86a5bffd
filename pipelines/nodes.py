"""Asking every node of a cluster the same thing, by small tasks that are bound to their nodes and reserve nothing.

    asked = Asked({"a1b2c3d4@10.0.0.7": node_id})
    reports = asked.ask(examine, wanted, own_name=True)

A node that does not answer in time is a finding and is asked no more. Left out: what is asked (cleave/node_report.py).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from cleave.console import say
from cleave.doctor import Finding, Marks
from cleave.errors import CleaveError
from cleave.node_report import remove_marks, seen_marks, write_mark

ANSWER_WITHIN_S = 120.0
"""For a node to start a worker, with the job's environment, and look at itself."""
SAY_EVERY_S = 10.0


class Asked:
    """Nodes that are asked by tasks; one that does not answer is asked no more."""

    def __init__(self, nodes: Mapping[str, str]) -> None:
        self.nodes = dict(nodes)
        self.findings: list[Finding] = []

    def ask(self, function: Callable[..., Any], *arguments: Any, own_name: bool = False) -> dict[str, Any]:
        """What each node returned, by its name, which is the last argument of the function where it wants it."""
        import ray
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task: Any = ray.remote(num_cpus=0, max_retries=0)(lambda *given: function(*given))
        waiting = {}
        for name, node in self.nodes.items():
            given = (*arguments, name) if own_name else arguments
            waiting[task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*given)] = name
        answers: dict[str, Any] = {}
        for reference, name in self._until_deadline(waiting):
            try:
                answers[name] = ray.get(reference)
            except RayError as error:
                self._silent(name, f"cannot be asked: {_last_line(error)}")
        return answers

    def clocks(self) -> dict[str, tuple[float, float]]:
        """How far each node is ahead of this one, and how sure that is: half of the time that asking took."""
        offsets = {}
        for name, node in list(self.nodes.items()):
            alone = Asked({name: node})
            before = time.time()
            answer = alone.ask(time.time)
            after = time.time()
            if name in answer:
                offsets[name] = (answer[name] - (before + after) / 2, (after - before) / 2)
            else:
                self._silent(name, "does not say its time")
        return offsets

    def marks(self, storage_path: str | None) -> Marks:
        """Each node writes a file to the storage; then each says whose files it sees."""
        if storage_path is None:
            return Marks({}, {})
        probe = f"doctor-{secrets.token_hex(4)}"
        complaints = self.ask(write_mark, storage_path, probe, own_name=True)
        seen = self.ask(seen_marks, storage_path, probe)
        for name, node in list(self.nodes.items()):  # one after another: they may delete the same folder
            Asked({name: node}).ask(tidy, storage_path, probe)
        return Marks(complaints, seen)

    def _until_deadline(self, waiting: dict[Any, str]) -> list[tuple[Any, str]]:
        import ray

        start, done = time.monotonic(), []
        while waiting and time.monotonic() - start < ANSWER_WITHIN_S:
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=SAY_EVERY_S)
            done += [(reference, waiting.pop(reference)) for reference in ready]
            if waiting:
                say(f"waiting for {len(waiting)} of {len(waiting) + len(done)} nodes: {', '.join(sorted(waiting.values())[:3])}")
        for reference, name in waiting.items():
            ray.cancel(reference, force=True)
            self._silent(name, f"did not answer within {ANSWER_WITHIN_S:.0f} s")
        return done

    def _silent(self, name: str, what: str) -> None:
        if self.nodes.pop(name, None) is not None:
            self.findings.append(Finding("node", "fail", f"{name} {what}", "look at its raylet log, then restart Ray there or remove it"))


def tidy(storage_path: str, probe: str) -> None:
    """Take the files of a check away again, saying where that fails."""
    try:
        remove_marks(storage_path, probe)
    except CleaveError as error:
        say(f"{probe} stays in {storage_path}: {error}")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")[:300]
