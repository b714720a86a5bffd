"""At the end of a verifier's training: its scores as probabilities, fitted on the held-out problems of its collections.

All distinct answered solutions of a held-out problem count, as often as they are right in nature; none of them was trained on.
Left out: the fit and the measures (cleave/calibration.py), whole traces with their votes (cleave/selection_table.py).
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.judge import Judge
from cleave.calibration import Calibration, auc, brier, ece
from cleave.config.distill import DistillConfig
from cleave.console import say
from cleave.errors import DataError
from cleave.lm.build import host
from cleave.prompts import load_prompts
from cleave.roles import VerifyRequest
from cleave.tasks.registry import get_task
from cleave.types import Plan, Solution, Verdict
from pipelines.judged import JudgedProblem, judged, split
from pipelines.start import trained_checkpoint

GROUP = 64
"""Problems that are judged together."""


def calibrate(config: DistillConfig, best: Path) -> dict[str, Any]:
    """Fit on held-out solutions and say how good the scores in `best` are: entries for result.json, of which `calibration` is what an
    exported checkpoint holds. Empty where nothing was held out."""
    problems = held_out_problems(config)
    if not problems:
        say("nothing was held out, so the verifier's scores are not calibrated; set collection.held_out.")
        return {}
    raw, right = asyncio.run(_judge(config, best, problems))
    try:
        calibration = Calibration.fit(raw, right)
    except DataError as error:
        say(f"the verifier's scores are not calibrated: {error}")
        return {}
    before, after = ([each(score) for score in raw] for each in (Calibration(), calibration))
    figures = {"auc": auc(raw, right), "ece_before": ece(before, right), "ece": ece(after, right), "brier": brier(after, right)}
    return {"calibration": asdict(calibration), **figures}


def held_out_problems(config: DistillConfig) -> list[JudgedProblem]:
    """Those of all tasks that were not trained on."""
    held: list[JudgedProblem] = []
    for mix in config.tasks:
        traces = mix.collection or config.collection
        assert traces is not None
        held += split(judged(traces, mix.title, get_task(mix.task)), traces)[1]
    return held


async def _judge(config: DistillConfig, best: Path, problems: list[JudgedProblem]) -> tuple[list[float], list[bool]]:
    """Raw scores, and whether the solution is right; solutions that cannot be judged are left out."""
    model = host(trained_checkpoint(config, best), config.name)
    judge = Judge(model, load_prompts(config.prompts), Calibration())
    raw: list[float] = []
    right: list[bool] = []
    try:
        for start in range(0, len(problems), GROUP):
            some = problems[start : start + GROUP]
            for problem, reply in zip(some, await judge([_request(each) for each in some]), strict=True):
                known: list[tuple[Verdict | None, bool]] = [
                    (verdict, each.right) for verdict, each in zip(reply.verdicts, problem.solutions, strict=True)
                ]
                raw += [verdict.raw for verdict, _ in known if verdict is not None]
                right += [label for verdict, label in known if verdict is not None]
    finally:
        await judge.aclose()
    return raw, right


def _request(each: JudgedProblem) -> VerifyRequest:
    solutions: tuple[Solution, ...] = tuple(one.solution for one in each.solutions)
    plans: tuple[Plan, ...] = tuple(one.plan or Plan() for one in each.solutions)
    return VerifyRequest(each.problem, solutions, plans)
