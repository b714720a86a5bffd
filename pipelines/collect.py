"""`cleave collect CONFIG`: a teacher's roles over a train split, n samples each, into a collection that students are trained on.

    python -m cleave collect configs/collect/demo.yaml tasks.0.problems=2000

Run it again to go on after a stop, with more problems to add, with another teacher to put its traces beside the first's. Failed rows are
kept as data. The run ends early where the budget does. Left out: what is good enough to learn from (cleave/screening.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from actors.role import prompts_name
from cleave.collection import Collection, Spent
from cleave.config.base import dump
from cleave.config.collect import CollectConfig
from cleave.config.roles import DecomposerConfig, RoleConfig
from cleave.console import say
from cleave.errors import BudgetExceeded
from cleave.evaluation import Evaluation
from cleave.prompts import load_prompts
from cleave.roles import ROLES
from cleave.runs import CONFIG, METRICS, RunFolder
from cleave.traces import ScoredTrace
from cleave.types import ModelInfo, Usage
from pipelines import session
from pipelines.evaluation_summary import print_summary
from pipelines.leakage import Leakage, check_leakage
from pipelines.trace_sink import TraceSink
from pipelines.workload import Item, Workload

TEACHER = "teacher"
"""The variant of all rows: a collection has one way of reasoning per recipe."""


def main(config: CollectConfig, *, dry_run: bool = False, as_json: bool = False, record: Path | None = None, quiet: bool = False) -> int:
    """Collect, or go on; returns the exit code. Raises CleaveError for what the user has to put right. `quiet`: no figures on stdout."""
    workload = Workload(config.tasks, {TEACHER: config.reasoning})
    if dry_run:
        return check(config, workload, as_json=as_json)
    folder = RunFolder.open(config.storage_path, config.name)
    folder.prepare()
    leakage = check_leakage(config)
    folder.write_text(CONFIG, dump(config))
    errand = CollectErrand(config, workload, Collection(folder), leakage)
    code = session.run(errand, config, record)
    if code:
        return code
    publish(errand, as_json=as_json, quiet=quiet)
    if errand.exhausted:
        raise BudgetExceeded(f"{errand.exhausted}: {errand.asked} of {errand.total or 'its'} problems are collected; raise it to go on.")
    return 0


class CollectErrand:
    """Every problem that the collection does not hold yet, until the budget is used up."""

    name = "collect"
    hosted = ROLES

    def __init__(self, config: CollectConfig, workload: Workload, collection: Collection, leakage: Leakage) -> None:
        self.collection = collection
        self.leakage = leakage
        self.total = workload.total
        if self.total is not None and config.leakage.action == "drop":
            self.total -= sum(leakage.shared.values())
        self.recipe = ""
        self.exhausted = ""
        self._config = config
        self._workload = workload
        self._spent = Spent()
        self._yielded = self._asked = self._before = 0
        self._began = time.monotonic()

    @property
    def asked(self) -> int:
        """Problems of this config that the collection holds."""
        return self._before + self._asked

    def begin(self, models: Mapping[str, ModelInfo]) -> TraceSink:
        self.recipe = self.collection.register(
            describe_recipe(self._config, models), models={role: info.name for role, info in models.items()}
        )
        self._keys = {task.title: self.collection.keys(self.recipe, task.title) for task in self._config.tasks}
        self._spent = self.collection.spent(self.recipe)
        self._before = sum(len(keys) for keys in self._keys.values())
        if self._before:
            say(f"{self.collection.folder.location} holds {self._before} traces of this teacher; they are not asked again.")
        self._began = time.monotonic()
        return TraceSink(self._config, partial(self.collection.write, self.recipe), self._before)

    def items(self) -> Iterator[Item]:
        for item in self._workload.items(self._is_there):
            self.exhausted = self._limit_reached()
            if self.exhausted:
                return
            self._yielded += 1
            yield item

    def take(self, row: ScoredTrace) -> str:
        usage = row.trace.total_usage
        self._spent.add(usage.tokens, usage.price)
        self._asked += 1
        return self._note()

    def pause(self, seconds: float) -> None:
        """Rows are all there is to keep."""

    def finish(self, seconds: float) -> None:
        """Rows are all there is to keep."""

    def _is_there(self, item: Item) -> bool:
        if self._config.leakage.action == "drop" and self.leakage.has(item.problem):
            return True
        return item.problem in self._keys[item.label]

    def _limit_reached(self) -> str:
        """Which limit leaves no room for one more problem beside those in flight, at the price of the dearest so far; '' for none."""
        budget, spent = self._config.budget, self._spent
        flying = self._yielded - self._asked + 1
        if budget.tokens is not None and spent.tokens + flying * spent.most_tokens > budget.tokens:
            return f"budget.tokens={budget.tokens:,} leaves no room for another problem ({spent.tokens:,} are used)"
        if budget.usd is not None and spent.price + flying * spent.most_price > budget.usd:
            return f"budget.usd={budget.usd:g} leaves no room for another problem ({spent.price:.4f} are used)"
        return ""

    def _note(self) -> str:
        """Rate, time left and cost."""
        rate = self._asked / max(1e-9, time.monotonic() - self._began)
        left = "" if self.total is None else f"  {max(0, self.total - self.asked) / rate / 60:.0f} min left"
        money = f"  ${self._spent.price:.2f}" if self._spent.price else ""
        return f"{rate:.1f}/s{left}  {self._spent.tokens:,} tokens{money}"


def describe_recipe(config: CollectConfig, models: Mapping[str, ModelInfo]) -> dict[str, Any]:
    """What decides the teacher's replies."""
    afterwards = {"budget", "abstain_below", "otherwise"}
    if config.reasoning.strategy != "adaptive":  # there the choice within a stage decides whether the next is entered
        afterwards |= {"selection", "rerank_top_k", "majority_top_n", "stages"}
        if config.reasoning.stop_early is None:
            afterwards.add("samples_per_round")
    reasoning = config.reasoning.model_dump(mode="json", exclude=afterwards, exclude_none=True)
    return {
        "decomposer": _describe_role(config.roles.decomposer, models["decomposer"]),
        "solver": _describe_role(config.roles.solver, models["solver"]),
        "reasoning": reasoning,
    }


def _describe_role(role: RoleConfig, model: ModelInfo) -> dict[str, Any]:
    prompts = load_prompts(prompts_name(role))
    return {
        "model": model.revision or model.name,  # the same weights at another path are the same teacher
        "dtype": model.dtype,
        "prompts": prompts.name,
        "prompts_sha256": prompts.fingerprint,
        "max_tokens": role.max_tokens,
        "repair_retries": role.repair_retries,
    } | _describe_plans(role)


def _describe_plans(role: RoleConfig) -> dict[str, Any]:
    if not isinstance(role, DecomposerConfig):
        return {}
    redrawn = {"redraws": role.redraws} if role.redraws else {}
    return redrawn if role.drafts is None else {"drafts": role.drafts.model_dump(mode="json"), "ngrams": role.model.ngrams}


def publish(errand: CollectErrand, *, as_json: bool, quiet: bool = False) -> None:
    """Count the collection's traces, write metrics.jsonl and show them."""
    folder = errand.collection.folder
    evaluation = Evaluation([TEACHER]).add_all(errand.collection.traces(errand.recipe))
    leak = {"checked": errand.leakage.checked, "shared": dict(errand.leakage.shared), "against": errand.leakage.against}
    rows = [*evaluation.rows(), {"kind": "leakage", **leak}]
    folder.write_lines(METRICS, rows)
    if as_json:
        summary = {"run": folder.location, "recipe": errand.recipe, "traces": evaluation.problems, "figures": rows}
        print(json.dumps(summary, ensure_ascii=False))
        return
    if not quiet:
        print_summary(evaluation)
    total: Usage = evaluation.costs[TEACHER].total
    shared = sum(errand.leakage.shared.values())
    say(f"{evaluation.problems:,} traces, {total.tokens:,} tokens; {shared} problems shared with evaluation splits.")
    say(f"the collection is {folder.location}, recipe {errand.recipe}")


def check(config: CollectConfig, workload: Workload, *, as_json: bool) -> int:
    """What a run would do, for --dry-run: nothing is loaded, started or written."""
    plan = {"run": f"{config.storage_path.rstrip('/')}/{config.name}", "tasks": workload.sizes(), "traces": workload.total}
    if as_json:
        print(json.dumps(plan | {"config": config.model_dump(mode="json")}, ensure_ascii=False))
    else:
        print(dump(config), end="")
        say(f"would ask {workload.total or 'an unknown number of'} problems into {plan['run']}")
    return 0
