"""`cleave evaluate CONFIG`: problems stream through the roles, traces stream into the run folder, figures and a report come out.

    python -m cleave evaluate configs/evaluate/demo.yaml tasks.0.problems=50

Every submitted problem yields one trace, failed or not. A run that was stopped, by Ctrl-C, a kill or an outage, goes on when the same
command runs again; what is finished is not asked again. Memory does not grow with the number of problems.
With `samples` the plans and solutions of an earlier run are judged and chosen among anew.
Left out: the asking (session.py), the figures (cleave/evaluation.py), the report (cleave/report.py), the folder's rules
(evaluation_folder.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from cleave.config.evaluate import EvaluateConfig
from cleave.console import say
from cleave.evaluation import Evaluation
from cleave.roles import ROLES, Role
from cleave.traces import ScoredTrace, write_shard
from cleave.types import ModelInfo
from pipelines import session
from pipelines.evaluation_folder import EvaluationFolder
from pipelines.evaluation_summary import print_plan, publish
from pipelines.samples import RecordedWorkload
from pipelines.trace_sink import TraceSink
from pipelines.workload import Finished, Item, Workload


def main(config: EvaluateConfig, *, dry_run: bool = False, as_json: bool = False, record: Path | None = None, quiet: bool = False) -> int:
    """Run, or go on with, an evaluation; returns the exit code. Raises CleaveError for what the user has to put right.

    `record` appends every call of a model to that file; the roles are then hosted in this process. `quiet`: no figures on stdout.
    """
    workload = Workload(config.tasks, config.strategies()) if config.samples is None else RecordedWorkload(config)
    if dry_run:
        print_plan(config, workload, as_json=as_json)
        return 0
    folder = EvaluationFolder.claim(config)
    if folder.complete:
        folder.check_models()
        say(f"{folder.folder.location} is complete, nothing is asked again; set overwrite=true to start anew.")
    else:
        code = session.run(EvaluationErrand(config, workload, folder), config, record)
        if code:
            return code
    publish(config, folder, as_json=as_json, quiet=quiet)
    return 0


class EvaluationErrand:
    """Every problem under every variant, into the run folder."""

    name = "evaluate"

    def __init__(self, config: EvaluateConfig, workload: Workload | RecordedWorkload, folder: EvaluationFolder) -> None:
        self.hosted: tuple[Role, ...] = ROLES if config.samples is None else ("verifier",)
        self.total = workload.total
        self._config = config
        self._workload = workload
        self._folder = folder
        self._live = Evaluation(list(workload.strategies))
        self._finished = Finished.read(folder.folder)

    def begin(self, models: Mapping[str, ModelInfo]) -> TraceSink:
        self._folder.begin(models)
        before = len(self._finished)
        if before:
            say(f"going on with {self._folder.folder.location}: {before} of {self.total or 'its'} traces are there already.")
        return TraceSink(self._config, partial(write_shard, self._folder.folder), before)

    def items(self) -> Iterator[Item]:
        return self._workload.items(self._finished.has)

    def take(self, row: ScoredTrace) -> str:
        self._live.add(row)
        tallies = ((variant, self._live.tally(variant)) for variant in self._live.variants)
        return "  ".join(f"{variant} {100 * tally.right / tally.n:.0f} %" for variant, tally in tallies if tally.n)

    def pause(self, seconds: float) -> None:
        self._folder.pause(seconds)

    def finish(self, seconds: float) -> None:
        self._folder.finish(seconds, self._workload.hashes())
