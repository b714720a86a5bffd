"""`cleave replay RUN [--problem ID]`: an evaluation asked again from what its folder says, and what comes out differently.

    python -m cleave replay runs/demo
    python -m cleave replay runs/demo --problem arithmetic-test-0-17 backend=inline

The whole replay is an evaluation of its own, NAME-replay beside the run: stopped, it goes on when the same command runs again; finished,
the next replay starts anew. One problem is asked under every variant, and nothing is written. Overrides may change what changes no
answer, such as `backend`. Left out: what counts as different (cleave/replay.py); runs of other programs.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from cleave.config.base import overridden
from cleave.config.evaluate import EvaluateConfig
from cleave.console import out, print_table, say
from cleave.errors import ConfigError
from cleave.manifest import manifest
from cleave.replay import Place, Replayed, circumstances, compare
from cleave.report import read_config
from cleave.roles import ROLES, Role
from cleave.runs import RunFolder
from cleave.trace_view import print_trace
from cleave.traces import TRACES, ScoredTrace, read_rows, read_traces
from cleave.types import ModelInfo, to_dict
from pipelines import evaluate, session
from pipelines.evaluation_folder import changes, read_state
from pipelines.samples import RecordedWorkload
from pipelines.trace_sink import TraceSink
from pipelines.workload import Item, Workload

SHOWN = 10


def main(run: str, overrides: Sequence[str] = (), *, problem: str | None = None, as_json: bool = False) -> int:
    """Ask again, and say what differs. Returns 0 if nothing of what was answered does, 1 if something does, else the exit code of the
    signal that stopped the replay. Raises ConfigError for a run that is not finished and for an override that may change answers."""
    folder = RunFolder.at(run)
    config = _config(folder, overrides)
    then = read_state(folder) or {}
    if problem is None:
        return _whole(folder, config, then, as_json=as_json)
    return _one(folder, config, then, problem, as_json=as_json)


def _config(folder: RunFolder, overrides: Sequence[str]) -> EvaluateConfig:
    """The run's config, for a folder beside it. Raises ConfigError for an override that may change answers."""
    drawn = read_config(folder)
    beside = posixpath.dirname(folder.root) if folder.is_local else posixpath.dirname(folder.location.rstrip("/"))
    drawn = drawn.model_copy(update={"storage_path": beside, "overwrite": False, "report": False})
    config = overridden(drawn, overrides)
    for key, was, now in changes(drawn.model_dump(mode="json"), config.model_dump(mode="json")):
        raise ConfigError(f"a replay answers as the run did, so {key} stays {was!r}, not {now!r}; leave that override out.")
    return config.model_copy(update={"name": f"{drawn.name}-replay"})


def _whole(folder: RunFolder, config: EvaluateConfig, then: Mapping[str, Any], *, as_json: bool) -> int:
    """Ask everything, into a folder beside the run."""
    beside = RunFolder.open(config.storage_path, config.name)
    finished = bool((read_state(beside) or {}).get("complete"))
    code = evaluate.main(config.model_copy(update={"overwrite": finished or config.overwrite}), quiet=True)
    if code:
        return code
    found = compare(read_traces(folder), read_traces(beside))
    return _tell(folder, found, circumstances(then, read_state(beside) or {}), {"replay": beside.location}, as_json=as_json)


def _one(folder: RunFolder, config: EvaluateConfig, then: Mapping[str, Any], problem: str, *, as_json: bool) -> int:
    """Ask one problem, into memory."""
    before = list(read_traces(folder, problem_id=problem))
    if not before:
        known = [row["problem_id"] for row in islice(read_rows(folder, [TRACES], ["problem_id"]), 3)]
        raise ConfigError(f"{folder.location} has no problem {problem!r}; its ids look like {', '.join(known)}.")
    errand = OneProblem(config, {(row.variant, row.task, row.index) for row in before})
    code = session.run(errand, config)
    if code:
        return code
    found = compare(before, errand.rows)
    others = circumstances(then, manifest(models=errand.models))
    traces = {"then": _by_variant(before), "now": _by_variant(errand.rows)}
    if not as_json:
        show_traces(before, errand.rows)
    return _tell(folder, found, others, {"problem": problem, "traces": traces}, as_json=as_json)


class OneProblem:
    """Some items of a run, asked again into `rows`; `models` are those that answered."""

    name = "replay"

    def __init__(self, config: EvaluateConfig, wanted: set[Place]) -> None:
        self.hosted: Collection[Role] = ROLES if config.samples is None else ("verifier",)
        self.total: int | None = len(wanted)
        self.rows: list[ScoredTrace] = []
        self.models: dict[str, Any] = {}
        self._config = config
        self._wanted = wanted

    def begin(self, models: Mapping[str, ModelInfo]) -> TraceSink:
        self.models = {role: to_dict(info) for role, info in models.items()}
        return TraceSink(self._config, lambda _, rows: self.rows.extend(rows))

    def items(self) -> Iterator[Item]:
        """The problems as they are today; the stream is left once all are found."""
        config = self._config
        workload = Workload(config.tasks, config.strategies()) if config.samples is None else RecordedWorkload(config)
        return islice(workload.items(lambda item: (item.variant, item.label, item.index) not in self._wanted), len(self._wanted))

    def take(self, row: ScoredTrace) -> str:
        return ""

    def pause(self, seconds: float) -> None:
        """Nothing is kept."""

    def finish(self, seconds: float) -> None:
        """The rows are in memory."""


def _tell(folder: RunFolder, found: Replayed, others: list[tuple[str, Any, Any]], more: Mapping[str, Any], *, as_json: bool) -> int:
    if as_json:
        told = [{"what": what, "then": then, "now": now} for what, then, now in others]
        print(json.dumps({"run": folder.location, **found.as_dict(), "circumstances": told, **more}, ensure_ascii=False))
    else:
        show(found, others)
    say(f"{folder.location} and its replay {'are equal' if found.equal else 'differ'}.")
    return 0 if found.equal else 1


def show(found: Replayed, others: list[tuple[str, Any, Any]]) -> None:
    """Tables of what differs."""
    rows = [(name, count) for name, count in found.as_dict()["counts"].items()] + [("only then", found.gone), ("only now", found.new)]
    print_table(("differs", "problems"), rows, numbers=["problems"], title=f"{found.asked} problems and variants asked again")
    if found.differences:
        shown = [(one.problem_id, one.variant, one.then, one.now, ", ".join(one.differs)) for one in found.differences[:SHOWN]]
        more = f", the first {SHOWN} of {len(found.differences)} (all: --json)" if len(found.differences) > SHOWN else ""
        print_table(("problem", "variant", "answer then", "answer now", "differs"), shown, title=f"What differs{more}")
    if others:
        print_table(("made with", "then", "now"), others, title="What is other than then")


def show_traces(before: list[ScoredTrace], after: list[ScoredTrace]) -> None:
    """Each variant's trace, then and now."""
    now = {(row.variant, row.task): row for row in after}
    console = out()
    for row in before:
        for when, one in (("then", row), ("now", now.get((row.variant, row.task)))):
            console.rule(f"{row.variant}, {when}")
            if one is not None:
                print_trace(one.trace, console)


def _by_variant(rows: list[ScoredTrace]) -> dict[str, Any]:
    return {f"{row.task}/{row.variant}": to_dict(row.trace) for row in rows}
