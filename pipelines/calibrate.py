"""At the end of a verifier's training: its scores as probabilities, fitted on the held-out problems of its collections.

First those of single solutions: all distinct answered ones of a held-out problem, as often right as in nature. Then the support of the
answer that the weighted vote chooses, for 2, 4, … samples. None of these problems was trained on. Of a verifier that learned from
beginnings of solutions, how often it points at the first wrong step.
Left out: the fit and the measures (cleave/calibration.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.judge import Judge
from cleave.calibration import Calibration, VerifierCalibration, VoteCalibration, auc, brier, ece, log_odds
from cleave.config.distill import DistillConfig
from cleave.console import say
from cleave.errors import DataError
from cleave.lm.build import host
from cleave.prompts import load_prompts
from cleave.roles import VerifyRequest
from cleave.selection import Candidate, choose, clusters, support
from cleave.selection_table import powers
from cleave.step_labels import first_wrong, pointed_at
from cleave.tasks.registry import get_task
from cleave.tasks.scoring import normalise
from cleave.types import Plan, Verdict
from cleave.verdict_examples import JudgedSolution
from pipelines.judged import JudgedProblem, judged, split
from pipelines.start import trained_checkpoint

GROUP = 64
"""Problems that are judged together."""
Verdicts = Mapping[JudgedSolution, Verdict]
"""What is said of one problem's solutions; those that cannot be judged are left out."""


def calibrate(config: DistillConfig, best: Path) -> dict[str, Any]:
    """Fit on held-out solutions and say how good the scores in `best` are: entries for result.json, of which `calibration` is what an
    exported checkpoint holds. Empty where nothing was held out."""
    problems = held_out_problems(config)
    if not problems:
        say("nothing was held out, so the verifier's scores are not calibrated; set collection.held_out.")
        return {}
    verdicts = asyncio.run(_judge(config, best, problems))
    raw = [verdict.raw for some in verdicts for verdict in some.values()]
    right = [each.right for some in verdicts for each in some]
    try:
        solution = Calibration.fit(raw, right)
    except DataError as error:
        say(f"the verifier's scores are not calibrated: {error}")
        return {}
    before, after = ([each(score) for score in raw] for each in (Calibration(), solution))
    figures = {"auc": auc(raw, right), "ece_before": ece(before, right), "ece": ece(after, right), "brier": brier(after, right)}
    votes, of_votes = _votes(problems, verdicts, solution)
    of_steps = _steps(problems, verdicts, solution) if config.judge.steps_per_problem else {}
    return {"calibration": VerifierCalibration(solution, votes).to_dict(), **figures, **of_votes, **of_steps}


def held_out_problems(config: DistillConfig) -> list[JudgedProblem]:
    """Those of all tasks that were not trained on."""
    held: list[JudgedProblem] = []
    for mix in config.tasks:
        traces = mix.collection or config.collection
        assert traces is not None
        held += split(judged(traces, mix.title, get_task(mix.task)), traces)[1]
    return held


async def _judge(config: DistillConfig, best: Path, problems: Sequence[JudgedProblem]) -> list[Verdicts]:
    """By problem."""
    model, prompts = host(trained_checkpoint(config, best), config.name), load_prompts(config.prompts)
    judge = Judge(model, prompts, step_scores=bool(config.judge.steps_per_problem))
    found: list[Verdicts] = []
    try:
        for start in range(0, len(problems), GROUP):
            some = problems[start : start + GROUP]
            for problem, reply in zip(some, await judge([_request(each) for each in some]), strict=True):
                judged_ones = zip(problem.solutions, reply.verdicts, strict=True)
                found.append({each: verdict for each, verdict in judged_ones if verdict is not None})
    finally:
        await judge.aclose()
    return found


def _request(each: JudgedProblem) -> VerifyRequest:
    return VerifyRequest(each.problem, tuple(one.solution for one in each.solutions), tuple(one.plan or Plan() for one in each.solutions))


def _votes(
    problems: Sequence[JudgedProblem], verdicts: Sequence[Verdicts], solution: Calibration
) -> tuple[VoteCalibration | None, dict[str, float]]:
    """How the support of a chosen answer becomes a probability, by number of samples; the error that is left at the most samples."""
    most = max(len(each.samples) for each in problems)
    by_samples: dict[int, Calibration] = {}
    figures: dict[str, float] = {}
    for n in powers(most)[1:]:
        chosen = [pair for each, some in zip(problems, verdicts, strict=True) for pair in _supports(each, some, solution, n)]
        try:
            by_samples[n] = Calibration.fit([log_odds(found) for found, _ in chosen], [right for _, right in chosen])
        except DataError:  # all right, or all wrong: nothing to fit
            continue
        figures = {"ece_votes": ece([by_samples[n](log_odds(found)) for found, _ in chosen], [right for _, right in chosen])}
    return (VoteCalibration(by_samples) if by_samples else None), figures


def _supports(problem: JudgedProblem, verdicts: Verdicts, solution: Calibration, n: int) -> list[tuple[float, bool]]:
    """The support of the heaviest answer, and whether it is right, for each n samples in a row."""
    found: list[tuple[float, bool]] = []
    for start in range(0, len(problem.samples) - n + 1, n):
        group = problem.samples[start : start + n]
        ranked = clusters(
            Candidate(i, normalise(each.solution.answer or ""), solution(verdicts[each].raw) if each in verdicts else 0.0)
            for i, each in enumerate(group)
            if each is not None
        )
        if ranked:
            best = choose("weighted", ranked)
            one = group[best.index]
            assert one is not None
            found.append((support(next(cluster for cluster in ranked if best in cluster.members), n), one.right))
    return found


def _steps(problems: Sequence[JudgedProblem], verdicts: Sequence[Verdicts], solution: Calibration) -> dict[str, float]:
    """Over wrong solutions of more than one step: how often the first wrong step is pointed at, and how often by pointing anywhere."""
    hits: list[bool] = []
    chance: list[float] = []
    for each, some in zip(problems, verdicts, strict=True):
        for one, verdict in some.items():
            where = first_wrong(each.problem, one.plan, one.solution, one.right)
            if where is not None and not one.right and len(verdict.step_scores) > 1:
                hits.append(pointed_at([solution(log_odds(score)) for score in verdict.step_scores]) == where)
                chance.append(1 / len(verdict.step_scores))
    if not hits:
        return {}
    return {"steps_judged": len(hits), "first_wrong_step": sum(hits) / len(hits), "first_wrong_step_by_chance": sum(chance) / len(chance)}
