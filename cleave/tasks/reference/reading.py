"""A short passage or table to count, compare and sum over, after DROP.

Every line gives a person, a team and one number (tables: one or two numbers). Left out: dates, percentages, coreference.

The written work of a step is `short` or `spelled` out: a row of a table with two numbers is then first written down whole with the columns'
names, and each team compared in writing with the one asked for. Small models learn the second, not the first (docs/results.md).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeGuard

from cleave.tasks.reference.arithmetic import Draft
from cleave.tasks.reference.node import Node, wrong_number

Work = Literal["short", "spelled"]
"""How the work of a step is written down."""
TEAMS = "Red Blue Green Gold".split()
# measure: (past form, base form) of the verb that takes it
MEASURES = {
    "points": ("scored", "score"),
    "pages": ("read", "read"),
    "laps": ("ran", "run"),
    "fish": ("caught", "catch"),
    "tickets": ("sold", "sell"),
    "boxes": ("packed", "pack"),
}
SENTENCES = (
    "{a} of the {t} team {v} {n} {m}.",
    "{a} {v} {n} {m} for the {t} team.",
    "For the {t} team, {a} {v} {n} {m}.",
    "The {t} team had {a}, who {v} {n} {m}.",
)
FILLERS = (
    "The weather was cold.",
    "It took {n} minutes to get there.",
    "A crowd of {n} came to watch.",
    "The event was held on day {n}.",
    "Nobody was late.",
)


@dataclass(frozen=True)
class ReadingDials:
    """What makes a reading problem hard."""

    sentences: tuple[int, int] = (4, 10)
    """Fewest and most sentences of a passage."""
    rows: tuple[int, int] = (3, 6)
    """Fewest and most rows of a table."""
    tables: float = 0.5
    """Share of problems with a table."""
    max_people: int = 6
    """Most people in a passage; the other sentences are filler."""
    max_number: int = 99
    """Largest number."""
    shuffled: float = 1.0
    """Share of passages whose filler stands anywhere instead of at the end."""
    paraphrases: int = 4
    """Sentence templates used."""


@dataclass(frozen=True)
class _Row:
    name: str
    team: str
    number: int
    extra: int


@dataclass(frozen=True)
class _Sheet:
    """What was told: rows in order, and the measure that is asked about with its verb."""

    rows: tuple[_Row, ...]
    measure: str
    columns: tuple[str, ...] = ()
    """The measures of a table in the order of its columns, where that is to be spelled out."""
    spelled: bool = False
    """Whether the work spells out what is compared."""

    @property
    def past(self) -> str:
        return MEASURES[self.measure][0]

    @property
    def base(self) -> str:
        return MEASURES[self.measure][1]

    def of_team(self, team: str) -> list[_Row]:
        return [row for row in self.rows if row.team == team]

    def number(self, name: str) -> int:
        return next((row.number for row in self.rows if row.name == name), 0)

    def numbers(self, row: _Row) -> list[int]:
        """A row's numbers, in the order of the columns."""
        return [row.number if column == self.measure else row.extra for column in self.columns]

    def row(self, name: str) -> _Row | None:
        """A person's row; None for somebody else, whom a wrong step may have brought up."""
        return next((row for row in self.rows if row.name == name), None)

    def found(self, name: str) -> str:
        """How a person's number is written down among others."""
        return f"{self._cells(row)} {self.measure} {row.number}" if self._wide(row := self.row(name)) else f"{name} {self.number(name)}"

    def looked_up(self, name: str, measure: str) -> str:
        """The work of a single entry, which its number follows."""
        return f"{self._cells(row)} {measure}" if self._wide(row := self.row(name)) else f"{measure} of {name}"

    def sided(self, row: _Row, team: str) -> str:
        """How it is written down whether a person is on a team."""
        compared = f": {team} {'yes' if row.team == team else 'no'}" if self.spelled else ""
        return f"{row.name} {row.team}{compared}"

    def _wide(self, row: _Row | None) -> TypeGuard[_Row]:
        return row is not None and self.spelled and len(self.columns) > 1

    def _cells(self, row: _Row) -> str:
        return " ".join([row.name, *(f"{column} {number}" for column, number in zip(self.columns, self.numbers(row), strict=True))]) + ":"


@dataclass(frozen=True)
class _Told:
    """A sheet in words; `second` is the measure of a table's other column, if it has one."""

    context: str
    table: bool
    second: str


def draft(rng: random.Random, dials: ReadingDials, names: Sequence[str], work: Work = "short") -> Draft:
    """Draw one problem."""
    sheet, told = _tell(rng, dials, names, work)
    kinds = [count_team, count_more, compare, difference, total, team_total, most]
    question, nodes = (kind := rng.choice(kinds))(rng, sheet)
    skills = (kind.__name__, "table" if told.table else "passage")
    return Draft(told.context, question, tuple(nodes), skills, len(nodes), f"{told.context}\n{question}")


def records(rng: random.Random, dials: ReadingDials, names: Sequence[str], work: Work = "short") -> tuple[str, list[tuple[str, str, str]]]:
    """A passage or table with everything that can be read off it: (`fish of Tapas`, the work of the solutions, `58`)."""
    sheet, told = _tell(rng, dials, names, work)
    asked = [(sheet.measure, row, row.number) for row in sheet.rows]
    if told.table and told.second in told.context:
        asked += [(told.second, row, row.extra) for row in sheet.rows]
    entries = [(f"{measure} of {row.name}", sheet.looked_up(row.name, measure), str(number)) for measure, row, number in asked]
    return told.context, entries + [(f"team of {row.name}", f"team of {row.name}", row.team) for row in sheet.rows]


def columns(rng: random.Random, dials: ReadingDials, names: Sequence[str]) -> tuple[str, list[tuple[str, str, str]]]:
    """A table of one row and two to six columns under measures and names, with every entry: (`fish`, the work, `58`)."""
    heads = rng.sample([*MEASURES, *names], rng.randint(2, 6))
    cells = [(head, str(rng.randint(1, dials.max_number))) for head in heads]
    context = "\n".join(" | ".join(line) for line in zip(*cells, strict=True))
    written = " ".join(f"{head} {number}" for head, number in cells)
    return context, [(head, f"{written}: {head}", number) for head, number in cells]


def lists(rng: random.Random, dials: ReadingDials, names: Sequence[str], work: Work = "short") -> tuple[str, list[Node]]:
    """A passage or table with every question whose answer is a list of people or of their numbers: each team, two thresholds, all."""
    sheet, told = _tell(rng, dials, names, work)
    nodes = [_members(sheet, team) for team in dict.fromkeys(row.team for row in sheet.rows)]
    thresholds = dict.fromkeys(_between(rng, sheet) for _ in range(2))
    return told.context, [*nodes, *(_above(sheet, threshold) for threshold in thresholds), _everyone(sheet)]


def _tell(rng: random.Random, dials: ReadingDials, names: Sequence[str], work: Work) -> tuple[_Sheet, _Told]:
    """Draw rows and write them as a passage or a table."""
    table = rng.random() < dials.tables
    measure, second = rng.sample(list(MEASURES), 2)
    length = rng.randint(*(dials.rows if table else dials.sentences))
    people = length if table else rng.randint(min(3, length), min(length, dials.max_people))
    sheet = _Sheet(_rows(rng, dials, names, people), measure, spelled=work == "spelled")
    if not table:
        return sheet, _Told(_passage(rng, dials, sheet, length - people), table, second)
    sheet = replace(sheet, columns=rng.choice(((measure,), (measure, second), (second, measure))))
    return sheet, _Told(_table(sheet), table, second)


def _rows(rng: random.Random, dials: ReadingDials, names: Sequence[str], people: int) -> tuple[_Row, ...]:
    """Numbers are distinct; two or three teams share the people."""
    teams = rng.sample(TEAMS, rng.randint(2, 3))
    numbers = rng.sample(range(1, dials.max_number + 1), people)
    return tuple(
        _Row(name, rng.choice(teams), number, rng.randint(1, dials.max_number))
        for name, number in zip(rng.sample(names, people), numbers, strict=True)
    )


def _passage(rng: random.Random, dials: ReadingDials, sheet: _Sheet, fillers: int) -> str:
    lines = [
        rng.choice(SENTENCES[: dials.paraphrases]).format(a=row.name, t=row.team, v=sheet.past, n=row.number, m=sheet.measure)
        for row in sheet.rows
    ]
    anywhere = rng.random() < dials.shuffled
    for _ in range(fillers):
        filler = rng.choice(FILLERS).format(n=rng.randint(1, dials.max_number))
        lines.insert(rng.randint(0, len(lines)) if anywhere else len(lines), filler)
    return " ".join(lines)


def _table(sheet: _Sheet) -> str:
    """Three or four columns; the asked measure may be either of two."""
    lines = [["name", "team", *sheet.columns], *([row.name, row.team, *map(str, sheet.numbers(row))] for row in sheet.rows)]
    return "\n".join(" | ".join(line) for line in lines)


Question = tuple[str, list[Node]]
Compute = Callable[[Sequence[str]], tuple[str, str]]


def count_team(rng: random.Random, sheet: _Sheet) -> Question:
    team = rng.choice(sheet.rows).team
    return f"How many people are on the {team} team?", [_members(sheet, team), _count(1)]


def count_more(rng: random.Random, sheet: _Sheet) -> Question:
    threshold = _between(rng, sheet)
    return f"How many people {sheet.past} more than {threshold} {sheet.measure}?", [_above(sheet, threshold), _count(1)]


def compare(rng: random.Random, sheet: _Sheet) -> Question:
    a, b = rng.sample([row.name for row in sheet.rows], 2)

    def compute(answers: Sequence[str]) -> tuple[str, str]:
        left, right = int(answers[0]), int(answers[1])
        return f"{left} {'>' if left > right else '<'} {right}", a if left > right else b

    last = Node(f"Who has more, {a} with #1 or {b} with #2?", compute, lambda answer, _: b if answer == a else a)
    return f"Who {sheet.past} more {sheet.measure}, {a} or {b}?", [_amount(sheet, a), _amount(sheet, b), last]


def difference(rng: random.Random, sheet: _Sheet) -> Question:
    big, small = sorted(rng.sample(sheet.rows, 2), key=lambda row: -row.number)

    def compute(answers: Sequence[str]) -> tuple[str, str]:
        return f"{answers[0]} - {answers[1]}", str(int(answers[0]) - int(answers[1]))

    question = f"How many more {sheet.measure} did {big.name} {sheet.base} than {small.name}?"
    return question, [_amount(sheet, big.name), _amount(sheet, small.name), Node("What is #1 minus #2?", compute, wrong_number)]


def total(rng: random.Random, sheet: _Sheet) -> Question:
    a, b = rng.sample([row.name for row in sheet.rows], 2)

    def compute(answers: Sequence[str]) -> tuple[str, str]:
        return f"{answers[0]} + {answers[1]}", str(int(answers[0]) + int(answers[1]))

    question = f"How many {sheet.measure} did {a} and {b} {sheet.base} together?"
    return question, [_amount(sheet, a), _amount(sheet, b), Node("What is #1 plus #2?", compute, wrong_number)]


def team_total(rng: random.Random, sheet: _Sheet) -> Question:
    team = rng.choice(sheet.rows).team

    def amounts(answers: Sequence[str]) -> tuple[str, str]:
        names = answers[0].split(", ")
        return ", ".join(map(sheet.found, names)), ", ".join(str(sheet.number(name)) for name in names)

    def add(answers: Sequence[str]) -> tuple[str, str]:
        numbers = [int(number) for number in answers[1].split(", ")]
        running, parts = numbers[0], []
        for number in numbers[1:]:
            parts.append(f"{running} + {number} = {running + number}")
            running += number
        work = ", ".join(parts).rpartition(" = ")[0] if parts else str(running)
        return work, str(running)

    nodes = [
        _members(sheet, team),
        Node(f"How many {sheet.measure} did #1 {sheet.base}?", amounts, _one_wrong),
        Node("What is the sum of #2?", add, wrong_number),
    ]
    return f"How many {sheet.measure} did the {team} team {sheet.base} in all?", nodes


def most(rng: random.Random, sheet: _Sheet) -> Question:
    def largest(answers: Sequence[str]) -> tuple[str, str]:
        return f"largest of {answers[0]}", str(max(int(number) for number in answers[0].split(", ")))

    def holder(answers: Sequence[str]) -> tuple[str, str]:
        name = next((row.name for row in sheet.rows if str(row.number) == answers[1]), sheet.rows[0].name)
        return f"{name} {answers[1]}", name

    nodes = [
        _everyone(sheet),
        Node("What is the largest of #1?", largest, wrong_number),
        Node(
            f"Who {sheet.past} #2 {sheet.measure}?",
            holder,
            lambda answer, rng: rng.choice([row.name for row in sheet.rows if row.name != answer]),
        ),
    ]
    return f"Who {sheet.past} the most {sheet.measure}?", nodes


def _amount(sheet: _Sheet, name: str) -> Node:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        return sheet.looked_up(name, sheet.measure), str(sheet.number(name))

    return Node(f"How many {sheet.measure} did {name} {sheet.base}?", compute, wrong_number)


def _members(sheet: _Sheet, team: str) -> Node:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        work = ", ".join(sheet.sided(row, team) for row in sheet.rows)
        return work, ", ".join(row.name for row in sheet.of_team(team))

    return Node(f"Who is on the {team} team?", compute, _fewer)


def _above(sheet: _Sheet, threshold: int) -> Node:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        work = ", ".join(f"{sheet.found(row.name)} {'>' if row.number > threshold else '<'} {threshold}" for row in sheet.rows)
        return work, ", ".join(row.name for row in sheet.rows if row.number > threshold)

    return Node(f"Who {sheet.past} more than {threshold} {sheet.measure}?", compute, _fewer)


def _everyone(sheet: _Sheet) -> Node:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        return ", ".join(sheet.found(row.name) for row in sheet.rows), ", ".join(str(row.number) for row in sheet.rows)

    return Node(f"How many {sheet.measure} did each {sheet.base}?", compute, _one_wrong)


def _count(step: int) -> Node:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        names = answers[step - 1].split(", ")
        return ", ".join(f"{index} {name}" for index, name in enumerate(names, start=1)), str(len(names))

    return Node(f"How many names are in #{step}?", compute, wrong_number)


def _between(rng: random.Random, sheet: _Sheet) -> int:
    """A threshold that at least one number exceeds and that equals none."""
    numbers = sorted(row.number for row in sheet.rows)
    taken = set(numbers)
    free = [number for number in range(1, numbers[-1]) if number not in taken]
    return rng.choice(free) if free else 0


def _fewer(answer: str, rng: random.Random) -> str:
    """The list with one name left out, or doubled where it has only one."""
    names = answer.split(", ")
    if len(names) == 1:
        return f"{names[0]}, {names[0]}"
    names.pop(rng.randrange(len(names)))
    return ", ".join(names)


def _one_wrong(answer: str, rng: random.Random) -> str:
    numbers = answer.split(", ")
    index = rng.randrange(len(numbers))
    numbers[index] = wrong_number(numbers[index], rng)
    return ", ".join(numbers)
