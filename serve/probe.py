"""Problems with known answers, put to two casts of roles in the same way: what a promotion is judged by.

    comparison = asyncio.run(probe(tasks, reasoning, old, new))

Both are asked the same problems with the same seeds, so that they differ in nothing else. Left out: the judgement (serve/promote.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from cleave.comparison import Comparison, Row, compare
from cleave.config.reasoning import ReasoningConfig
from cleave.config.workload import TaskShare
from cleave.console import say
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.tasks.registry import get_task
from cleave.tasks.task import Task
from cleave.traces import ScoredTrace, problem_key
from cleave.types import Problem

AT_A_TIME = 8
"""Problems asked at the same time, so that the application's own requests keep most of it."""
Asked = tuple[TaskShare, Task, int, Problem]


async def probe(tasks: Sequence[TaskShare], reasoning: ReasoningConfig, old: Roles, new: Roles) -> Comparison:
    """Ask both and compare. Raises ConfigError or DataError for tasks that cannot be read or have no answers."""
    problems = list(_problems(tasks))
    say(f"asking both versions {len(problems)} problems.")
    rows = [await _rows(problems, reasoning, roles) for roles in (old, new)]
    return compare(*(iter(each) for each in rows))


def _problems(tasks: Sequence[TaskShare]) -> Iterable[Asked]:
    for share in tasks:
        task = get_task(share.task)
        for index, problem in enumerate(task.problems(share.split, share.problems, share.seed)):
            yield share, task, index, problem


async def _rows(problems: Sequence[Asked], reasoning: ReasoningConfig, roles: Roles) -> list[Row]:
    places = asyncio.Semaphore(AT_A_TIME)

    async def ask(asked: Asked) -> Row:
        share, task, index, problem = asked
        async with places:
            trace = await reason(problem, roles, reasoning)
        return _row(ScoredTrace("probe", share.title, index, trace, task.score(problem, trace.answer)))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(each)) for each in problems]
    return [task.result() for task in tasks]


def _row(row: ScoredTrace) -> Row:
    """What a comparison reads of a trace."""
    problem, usage = row.trace.problem, row.trace.total_usage
    return {
        "task": row.task,
        "index": row.index,
        "problem_id": problem.id,
        "problem_key": problem_key(problem),
        "question": problem.question,
        "gold": problem.answer,
        "answer": row.trace.answer,
        "outcome": row.outcome,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "model_seconds": usage.seconds,
        "price": usage.price,
    }
