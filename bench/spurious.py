"""Right answers with wrong reasons: does ranking traces by the probability of the question find them (MIMAX, arXiv 2106.07174)?

    python -m bench.spurious --threads 2          # two reconstructors of 6M tokens, 12,000 problems with 8 traces each
    python -m bench.spurious --noise static --problems 50 --fitted 200 --tokens 20000 --name spurious-try        # the mechanics
    python -m bench.spurious --traces-only        # the noisy traces, for configs/studies/noise.yaml: seconds

The teacher is gold with a noise dial on (arXiv 2402.04004): each problem is answered several times along its gold plan, every step wrong
with a given probability. static: the mistake is on paper only and later steps see the truth; dynamic: later steps inherit it, and the
answer is right by luck. The collection holds each problem with its true steps, which judge the traces and are shown to nobody else.

A reconstructor is trained per kind of noise on traces of other problems, screened by their answers alone. Then one right trace per
problem is chosen by it (`ranked`). Controls: the first right one, which is what S_D-R keeps and, samples being exchangeable, a random one;
the one that was sampled most often, which costs nothing more; any of the distinct ones by chance, among which a ranking chooses, and of
which more are wrong, because right ones repeat each other. `at best` is what choosing could reach: problems of which every right
answer has a wrong reason stay. Everything is kept in runs/NAME and goes on after a stop. A student is then trained on either choice with

    cleave distill configs/distill/student.yaml name=ranked role=solver collection.path=runs/spurious/static-screened \
        collection.reconstruction.model=hf:runs/spurious/static/checkpoint
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cleave.collection import Collection, recipe_hash
from cleave.config.distill import DistillConfig
from cleave.config.screening import CollectionConfig
from cleave.config.students import load_distill
from cleave.console import print_table, say
from cleave.intervals import Pairs, paired_difference, wilson
from cleave.reasons import reason_of
from cleave.runs import METRICS, RunFolder
from cleave.screening import rivals, screened
from cleave.solutions import render_solution
from cleave.tasks.reference.task import ReferenceTask, reference_task
from cleave.traces import ScoredTrace
from cleave.types import Problem, Solution, SolutionStep, Trace
from pipelines import distill
from pipelines.reconstruction import score_task
from pipelines.screened import ranking_of, screen_of, traces_of

RECONSTRUCTOR = "configs/distill/reconstructor.yaml"
SHARD = 1000
"""Traces per file."""


@dataclass(frozen=True)
class Choice:
    """One problem with a right answer: whether the right trace that came first, most often, or is ranked best has a wrong reason, and
    which share of its distinct right traces do."""

    first: bool
    most_often: bool
    ranked: bool
    distinct: float

    @property
    def differs(self) -> bool:
        """Whether there is anything to choose."""
        return 0 < self.distinct < 1


def main() -> None:
    args = arguments()
    folder = RunFolder.open(args.storage_path, args.name)
    folder.prepare()
    for kind in args.noise:
        teach(args, kind, "screened", args.problems, args.samples, seed=0)
    if args.traces_only:
        return
    rows: list[dict[str, Any]] = []
    for kind in args.noise:
        teach(args, kind, "fitted", args.fitted, 1, seed=1)
        model = fit(args, kind)
        for family in args.tasks:
            rows.append({"noise": kind, "task": family, **figures(choose(args, kind, family, model))})
    folder.write_lines(METRICS, rows)
    columns = ["noise", "task", "n", "first", "most often", "any distinct", "ranked", "ranked - first", "at best"]
    print_table(columns, [[row[name] for name in columns] for row in rows], title="Right for the wrong reason, %", numbers=columns[2:])
    say(f"figures are in {folder.location}/{METRICS}")


def teach(args: argparse.Namespace, kind: str, part: str, problems: int, samples: int, seed: int) -> None:
    """Write a collection of the noisy teacher, unless it is there: registered last, so that half a collection is written again."""
    recipe = {"noise": kind, "intensity": args.intensity, "problems": problems, "samples": samples, "seed": seed, "tasks": args.tasks}
    collection = Collection(RunFolder.open(f"{args.storage_path}/{args.name}", f"{kind}-{part}"))
    if recipe_hash(recipe) in collection.recipes():
        return
    say(f"{kind}: {samples} traces of {problems:,} problems of each task ({part})")
    for family in args.tasks:
        task = reference_task(family, noise=kind, noise_share=1.0, noise_intensity=args.intensity)
        assert isinstance(task, ReferenceTask)
        rows = noisy_traces(task, problems, samples, seed)
        number = 0
        while shard := list(islice(rows, SHARD)):
            collection.write(recipe_hash(recipe), f"{number:05d}", shard)
            number += 1
    collection.register(recipe)


def noisy_traces(task: ReferenceTask, problems: int, samples: int, seed: int) -> Iterator[ScoredTrace]:
    """What the task's noise makes of its gold solutions; the problem in each trace has the true steps."""
    for index, (problem, draws) in enumerate(task.noisy_steps("train", samples, problems, seed)):
        solutions = tuple(as_solution(steps) for steps in draws)
        assert problem.gold_plan is not None
        trace = Trace(problem, "static", seed, (problem.gold_plan,), solutions, answer=solutions[0].answer, chosen=0)
        yield ScoredTrace("teacher", task.name, index, trace, task.score(problem, trace.answer))


def as_solution(steps: tuple[SolutionStep, ...]) -> Solution:
    """A solver's reply that concludes what its last step says."""
    return Solution(steps, steps[-1].answer, render_solution(steps, steps[-1].answer))


def fit(args: argparse.Namespace, kind: str) -> str:
    """Train the reconstructor on other problems than it is asked about; returns its checkpoint."""
    place = f"{args.storage_path}/{args.name}"
    overrides = {
        "name": kind,
        "storage_path": place,
        "collection.path": f"{place}/{kind}-fitted",
        "tasks": json.dumps(args.tasks),
        "train.max_tokens": args.tokens,
        "num_threads": args.threads,
    }
    config = load_distill(RECONSTRUCTOR, [f"{key}={value}" for key, value in overrides.items()])
    assert isinstance(config, DistillConfig)
    if code := distill.main(config, quiet=True):
        raise SystemExit(code)
    result: dict[str, Any] = json.loads(RunFolder.open(place, kind).read_text("result.json"))
    return str(result["checkpoint"])


def choose(args: argparse.Namespace, kind: str, family: str, model: str) -> list[Choice]:
    """Every problem that was answered right at all, with what both screens keep of it."""
    task = reference_task(family)
    data = {"path": f"{args.storage_path}/{args.name}/{kind}-screened", "reconstruction": {"model": f"hf:{model}"}}
    config = CollectionConfig.model_validate(data)
    score_task(config, family, task)
    ranking = ranking_of(config, config.path)
    found = []
    for row in traces_of(config, config.path, family):
        first, ranked = (list(screened([row], screen_of(config), task.score, ranking=rank)) for rank in (None, ranking))
        if not first:
            continue
        truth = row.trace.problem
        [(most_often, _)] = Counter(each for each in row.trace.solutions if task.score(truth, each.answer)).most_common(1)
        wrong = [is_wrong(truth, each.gold_steps) for each in rivals([row], screen_of(config), task.score, 0)]
        chosen = {"first": first[0].gold_steps, "most_often": most_often.steps, "ranked": ranked[0].gold_steps}
        judged = {name: is_wrong(truth, steps) for name, steps in chosen.items()}
        found.append(Choice(**judged, distinct=sum(wrong) / len(wrong)))
    return found


def is_wrong(truth: Problem, steps: Sequence[SolutionStep]) -> bool:
    """Whether these steps of the gold plan are a wrong reason; along that plan there is always one or the other."""
    return reason_of(truth, truth.gold_plan, steps) == "wrong"


def figures(found: list[Choice]) -> dict[str, Any]:
    """Shares in percent with their 95 % intervals, of all problems, and of those whose right traces differ in their reasons."""
    pairs = Pairs(len(found), sum(each.ranked > each.first for each in found), sum(each.first > each.ranked for each in found))
    return {
        **shares(found),
        "ranked - first": str(paired_difference(pairs)),
        "at best": f"{100 * sum(each.distinct == 1 for each in found) / max(1, len(found)):.1f}",
        "where traces differ": shares([each for each in found if each.differs]),
    }


def shares(found: list[Choice]) -> dict[str, Any]:
    """Wrong reasons by way of choosing."""
    wrong = {"first": [each.first for each in found], "most often": [each.most_often for each in found]}
    wrong["ranked"] = [each.ranked for each in found]
    measured = {name: str(wilson(sum(values), len(found))) for name, values in wrong.items()}
    return {"n": len(found), **measured, "any distinct": f"{100 * sum(each.distinct for each in found) / max(1, len(found)):.1f}"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="spurious")
    parser.add_argument("--storage-path", default="runs")
    parser.add_argument("--tasks", nargs="+", default=["arithmetic", "lookup", "reading"])
    parser.add_argument("--noise", nargs="+", default=["static", "dynamic"])
    parser.add_argument("--intensity", type=float, default=0.25, help="probability that a step is wrong")
    parser.add_argument("--problems", type=int, default=2000, help="problems of each task that are screened")
    parser.add_argument("--samples", type=int, default=8, help="traces per problem")
    parser.add_argument("--fitted", type=int, default=20_000, help="problems of each task that the reconstructor is trained on")
    parser.add_argument("--tokens", type=int, default=6_000_000, help="training tokens of each reconstructor")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--traces-only", action="store_true", help="write the noisy traces and train nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
