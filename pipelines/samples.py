"""Samples of a finished evaluation as a workload: its plans and solutions are judged and chosen among anew, nothing else is asked.

Items come in the order of the file, of the variants and tasks that the config names, as many problems of each as it says.
Left out: how they are judged (cleave/reasoning.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256

from cleave.config.evaluate import EvaluateConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.config.workload import TaskShare
from cleave.errors import ConfigError
from cleave.report import read_config
from cleave.runs import RunFolder
from cleave.tasks.registry import get_task
from cleave.traces import TRACES, problem_key, read_rows, read_traces
from pipelines.workload import Item

SAMPLING = (
    "strategy", "n", "temperature", "top_p", "min_p", "plans", "plan_temperature", "stop_early", "gold_plan", "gold_steps", "stages", "seed"
)  # fmt: skip
"""Fields of `reasoning` that say how samples were drawn, and which cannot be other ones now."""


class RecordedWorkload:
    """What a Workload is, out of a finished run. Raises ConfigError, when made, for a run that is not there or drew other samples."""

    def __init__(self, config: EvaluateConfig) -> None:
        assert config.samples is not None
        self.strategies = config.strategies()
        self._folder = RunFolder.at(config.samples)
        self._shares = {share.title: share for share in config.tasks}
        self._tasks = {share.title: get_task(share.task) for share in config.tasks}
        self._digests = {share.title: sha256() for share in config.tasks}
        _check(config, read_config(self._folder))

    @property
    def total(self) -> int:
        """Number of items."""
        rows = read_rows(self._folder, [TRACES], ["variant", "task", "index"])
        return sum(self._wanted(row["variant"], row["task"], row["index"]) for row in rows)

    def sizes(self) -> dict[str, int | None]:
        """Problems by task label, as many as are asked for."""
        return {label: share.problems for label, share in self._shares.items()}

    def hashes(self) -> dict[str, str]:
        """A hash of the problems streamed so far, by task label."""
        return {label: digest.hexdigest()[:16] for label, digest in self._digests.items()}

    def items(self, is_finished: Callable[[Item], bool]) -> Iterator[Item]:
        """Stream what is left to judge."""
        for row in read_traces(self._folder):
            if not self._wanted(row.variant, row.task, row.index):
                continue
            self._digests[row.task].update(problem_key(row.trace.problem).encode())
            item = Item(row.variant, self.strategies[row.variant], self._tasks[row.task], row.task, row.index, row.trace.problem, row.trace)
            if not is_finished(item):
                yield item

    def _wanted(self, variant: str, label: str, index: int) -> bool:
        share = self._shares.get(label)
        return variant in self.strategies and share is not None and (share.problems is None or index < share.problems)


def _check(config: EvaluateConfig, drawn: EvaluateConfig) -> None:
    """Refuse what the samples are not."""
    before, now = drawn.strategies(), config.strategies()
    for variant, strategy in now.items():
        if variant not in before:
            raise ConfigError(f"{config.samples} has no variant {variant!r}; there are {', '.join(before)}.")
        if strategy.strategy == "adaptive":
            raise ConfigError(
                f"the samples of {variant} stopped by what was thought of them then; ask its stages as variants, and judge those."
            )
        _check_sampling(config, variant, before[variant], strategy)
    known = {share.title: share for share in drawn.tasks}
    for share in config.tasks:
        if share.title not in known:
            raise ConfigError(f"{config.samples} has no task {share.title!r}; there are {', '.join(known)}.")
        if _problems(share) != _problems(known[share.title]):
            raise ConfigError(f"{share.title} is another task than in {config.samples}; take split, seed and dials from its config.yaml.")


def _check_sampling(config: EvaluateConfig, variant: str, before: ReasoningConfig, now: ReasoningConfig) -> None:
    for field in SAMPLING:
        was, is_ = getattr(before, field), getattr(now, field)
        if was != is_:
            raise ConfigError(f"{config.samples} was drawn with {field}={was} ({variant}), not {is_}; set reasoning.{field}.")


def _problems(share: TaskShare) -> Mapping[str, object]:
    return share.model_dump(exclude={"problems", "label"})
