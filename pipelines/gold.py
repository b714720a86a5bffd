"""Examples with gold targets, written from a task's own plans and steps: the `source: gold` of `cleave distill`.

A format says what is asked and what is learned; each problem is written in one format, drawn by weight. An endless task is read in chunks
with a seed each, so that any place of the stream can be reached at once and nothing is held in memory; a finite one in shuffled epochs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from cleave.config.distill import Format
from cleave.console import say
from cleave.errors import DataError
from cleave.examples import Encoder, Example, Pair
from cleave.plans import ancestors, subplan
from cleave.prompts import PromptSet
from cleave.tasks.files import FileTask
from cleave.tasks.hub import HubTask
from cleave.tasks.task import Task, check_split
from cleave.types import Plan, Problem, Prompt, SolutionStep

CHUNK = 512
"""Problems per chunk: large enough for batch tokenisation, small enough to be made again on resume."""
_MOST_STORED = 500_000


class GoldSource:
    """Examples of one task split; a Source of curriculum/sampler.py. Held-out examples come from the same class with another split."""

    def __init__(
        self, task: Task, split: str, *, prompts: PromptSet, formats: Mapping[Format, float], encoder: Encoder, seed: int = 0
    ) -> None:
        check_split(task, split)
        self._task, self._split, self._seed = task, split, seed
        self._prompts, self._formats, self._encoder = prompts, dict(formats), encoder
        self._stored = _stored(task, split) if _is_finite(task, split) else None

    def chunk(self, index: int) -> list[Example]:
        """512 problems of an endless task, or one epoch of a finite one; problems without what the format needs are left out."""
        return self._encoder(list(self._pairs(index)))

    def examples(self, count: int) -> list[Example]:
        """The first `count` examples, fewer where the split ends; what chunks 0, 1, … begin with, without computing them whole."""
        found: list[Example] = []
        for index in range(1 if self._stored is not None else 1 + 8 * count // CHUNK):
            pairs = self._pairs(index)
            while len(found) < count and (some := list(islice(pairs, count - len(found)))):
                found.extend(self._encoder(some))
        return found

    def _pairs(self, index: int) -> Iterator[Pair]:
        rng = random.Random(f"{self._seed}/{self._task.name}/{self._split}/{index}")
        return (pair for problem in self._problems(index, rng) if (pair := self._pair(problem, rng)) is not None)

    def _problems(self, index: int, rng: random.Random) -> Iterable[Problem]:
        if self._stored is None:
            return self._task.problems(self._split, CHUNK, seed=rng.getrandbits(62))
        order = list(self._stored)
        rng.shuffle(order)
        return order

    def _pair(self, problem: Problem, rng: random.Random) -> Pair | None:
        usable = {name: weight for name, weight in self._formats.items() if weight > 0 and _has_gold(problem, name)}
        if not usable:
            return None
        name = rng.choices(list(usable), list(usable.values()))[0]
        prompt, target = _FORMATS[name](self._prompts, problem, rng)
        skill = problem.skills[0] if problem.skills else ""
        return Pair(prompt, target, problem_id=problem.id, skill=skill, depth=problem.depth, learn_prompt=name == "text")


def held_out(sources: Sequence[GoldSource], count: int) -> list[Example]:
    """`count` examples in all, evenly from the sources, interleaved so that a prefix covers all of them."""
    each = [source.examples(-(-count // len(sources))) for source in sources]
    longest = max(map(len, each), default=0)
    mixed = [examples[k] for k in range(longest) for examples in each if k < len(examples)]
    return mixed[:count]


def _is_finite(task: Task, split: str) -> bool:
    """Files know no size before they are read, as generators have none; only files end."""
    return task.splits[split] is not None or isinstance(task, FileTask | HubTask)


def _stored(task: Task, split: str) -> list[Problem]:
    problems = list(islice(_labelled(task.problems(split)), _MOST_STORED))
    if len(problems) == _MOST_STORED:
        say(f"{task.name}/{split}: only the first {_MOST_STORED:,} problems are used.")
    if not problems:
        raise DataError(f"no problem of {task.name}/{split} has a gold answer, so there is nothing to learn; choose another split or task.")
    return problems


def _labelled(problems: Iterable[Problem]) -> Iterator[Problem]:
    return (problem for problem in problems if problem.answer is not None)


def _has_gold(problem: Problem, name: Format) -> bool:
    if problem.answer is None:
        return False
    if name == "decompose":
        return problem.gold_plan is not None
    if name in ("steps_with_plan", "step"):
        return problem.gold_plan is not None and bool(problem.gold_plan.steps) and len(problem.gold_steps) == len(problem.gold_plan.steps)
    return name == "direct" or bool(problem.gold_steps)


def _plan(problem: Problem) -> Plan:
    assert problem.gold_plan is not None
    return problem.gold_plan


def _answer(problem: Problem) -> str:
    assert problem.answer is not None
    return problem.answer


def _decompose(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    return prompts.decompose(problem), prompts.decompose_target(_plan(problem))


def _steps_with_plan(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    return prompts.solve(problem, "steps", _plan(problem)), prompts.solve_target(problem.gold_steps, _answer(problem))


def _step(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    """Solve the part of the plan that leads to one step, as the stepwise strategy asks it."""
    asked = rng.choice(_plan(problem).steps)
    part, kept = _part(_plan(problem), problem.gold_steps, asked.id)
    return prompts.solve(problem, "steps", part), prompts.solve_target(kept, kept[-1].answer)


def _part(plan: Plan, steps: Sequence[SolutionStep], step_id: int) -> tuple[Plan, list[SolutionStep]]:
    kept = (*ancestors(plan, step_id), step_id)
    renumbered = [SolutionStep(new, steps[old - 1].text, steps[old - 1].answer) for new, old in enumerate(kept, start=1)]
    return subplan(plan, step_id), renumbered


def _single(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    return prompts.solve(problem, "steps"), prompts.solve_target(problem.gold_steps, _answer(problem))


def _direct(prompts: PromptSet, problem: Problem, rng: random.Random) -> tuple[Prompt, str]:
    return prompts.solve(problem, "answer"), prompts.solve_target((), _answer(problem))


_FORMATS: dict[Format, Callable[[PromptSet, Problem, random.Random], tuple[Prompt, str]]] = {
    "decompose": _decompose,
    "steps_with_plan": _steps_with_plan,
    "step": _step,
    "single": _single,
    "direct": _direct,
    "text": _single,
}
