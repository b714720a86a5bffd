"""Work sheets for training alone: many sums or many facts per problem, in the same written form as the solutions of the three families.

A word problem teaches two or three calculations in 140 tokens, a sheet one in 17. Not a measure of anything: there is only a train split.
"""

import random
from collections.abc import Iterator
from itertools import count, islice
from typing import NamedTuple

from cleave.errors import ConfigError
from cleave.tasks.reference import arithmetic, reading
from cleave.tasks.reference.arithmetic import APPLY, SYMBOLS, ArithmeticDials
from cleave.tasks.reference.lookup import LookupDials, fact_text
from cleave.tasks.reference.names import open_names
from cleave.tasks.reference.profile import Profile
from cleave.tasks.reference.sheet import Work
from cleave.tasks.reference.world import covered, world
from cleave.tasks.scoring import equal, lenient
from cleave.types import Problem, SolutionStep

DRILLS = {
    "sums": "work sheets of single calculations in the range of arithmetic (for training)",
    "facts": "work sheets of single facts of the lookup world (for training)",
    "relations": "work sheets of what a word problem says of each person, of any name (for training)",
    "lists": "work sheets of whole lists read off passages and tables, such as a team's people, of any name (for training)",
    "columns": "work sheets of single entries of a row of two to six columns (for training)",
    "records": "work sheets of single entries read off passages and tables, about people of any name (for training)",
}


class Line(NamedTuple):
    """One line of a sheet: what is asked, how it is worked out, what comes out."""

    asked: str
    work: str
    answer: str


OTHER_COLUMNS = 4
"""Names that stand in the heads of a sheet of columns beside the measures."""
MOST_PEOPLE = 12
"""Names at hand for one sheet; the profile has at most nine people in a text."""


class DrillTask:
    """One kind of sheet. Follows the Task protocol. `lines` per sheet; `coverage` limits the facts as in lookup."""

    def __init__(self, name: str, profile: Profile, lines: int = 10, coverage: float | None = None, work: Work = "short") -> None:
        if not 1 <= lines <= 40:
            raise ConfigError(f"a sheet has 1 to 40 lines, not {lines}.")
        self.name = name
        self.description = DRILLS[name]
        self.profile = profile
        self.lines = lines
        self._work = work
        self._coverage = profile.lookup.coverage if coverage is None else coverage
        self._facts = _known_facts(profile.lookup, self._coverage) if name == "facts" else []

    @property
    def splits(self) -> dict[str, int | None]:
        """Sheets are for training."""
        return {"train": None}

    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """Stream sheets; endless without a limit. Raises ConfigError for an unknown split."""
        if split not in self.splits:
            raise ConfigError(f"{self.name} is for training; its only split is train, not {split!r}.")
        return islice((self._problem(seed, index) for index in count()), limit)

    def score(self, problem: Problem, answer: str | None) -> bool:
        """Strict final-answer rule, on the last line of the sheet."""
        return answer is not None and problem.answer is not None and equal(problem.answer, answer)

    def lenient(self, problem: Problem, text: str) -> bool:
        """The any-token rule."""
        return problem.answer is not None and lenient(problem.answer, text)

    def _problem(self, seed: int, index: int) -> Problem:
        rng = random.Random(f"{self.profile.name}/{self.name}/{seed}/{index}")
        context, lines = self._sheet(rng)
        steps = tuple(SolutionStep(k, f"{line.work} = {line.answer}", line.answer) for k, line in enumerate(lines, start=1))
        question = " , ".join(line.asked for line in lines)
        return Problem(
            f"{self.name}-{seed}-{index}",
            question,
            context,
            answer=steps[-1].answer,
            task=self.name,
            skills=(self.name,),
            depth=1,
            gold_steps=steps,
        )

    def _sheet(self, rng: random.Random) -> tuple[str, list[Line]]:
        """What is told, if anything, and the lines."""
        if self.name == "lists":
            context, nodes = reading.lists(rng, self.profile.reading, open_names(rng, MOST_PEOPLE), self._work)
            found = [Line(node.question, *node.compute(())) for node in nodes]
        elif self.name == "columns":
            context, entries = reading.columns(rng, self.profile.reading, open_names(rng, OTHER_COLUMNS))
            found = [Line(*entry) for entry in entries]
        elif self.name == "records":
            context, entries = reading.records(rng, self.profile.reading, open_names(rng, MOST_PEOPLE), self._work)
            found = [Line(*entry) for entry in entries]
        elif self.name == "relations":
            context, relations = arithmetic.relations(rng, self.profile.arithmetic, open_names(rng, MOST_PEOPLE))
            found = [Line(work, work, answer) for work, answer in relations]
        else:
            return "", [Line(work, work, answer) for work, answer in (self._line(rng) for _ in range(self.lines))]
        return context, rng.sample(found, min(self.lines, len(found)))

    def _line(self, rng: random.Random) -> tuple[str, str]:
        if self.name == "facts":
            subject, relation, value = rng.choice(self._facts)
            return fact_text(subject, relation), value
        return _sum(rng, self.profile.arithmetic)


def _known_facts(dials: LookupDials, coverage: float) -> list[tuple[str, str, str]]:
    return [(subject, relation, value) for subject, relation, value in world(dials.world_seed) if covered(subject, relation, coverage)]


def _sum(rng: random.Random, dials: ArithmeticDials) -> tuple[str, str]:
    """One calculation whose operands and result lie in the range of the dials; small numbers are as likely as large ones."""
    operation = rng.choice(dials.operations)
    large = dials.max_result if rng.random() < 0.5 else dials.max_operand
    if operation == "add":
        a = rng.randint(1, large)
        b = rng.randint(1, max(1, min(dials.max_result - a, rng.choice((dials.max_operand, large)))))
    elif operation == "sub":
        a = rng.randint(2, large)
        b = rng.randint(1, min(a - 1, rng.choice((dials.max_operand, large))))
    else:
        b = rng.randint(2, dials.max_factor)
        a = rng.randint(1, dials.max_result // b)
        if operation == "div":
            a *= b
    if operation == "add" and a + b > dials.max_result:
        a = dials.max_result - b
    return f"{a} {SYMBOLS[operation]} {b}", str(APPLY[operation](a, b))
