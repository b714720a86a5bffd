"""Who did how much for which team, told in a passage or a table: what a reading problem is about, and how its solutions write it down.

The written work of a step is `short` or `spelled` out: a row of a table with two numbers is then first written down whole with the columns'
names, and each team compared in writing with the one asked for. Small models learn the second, not the first (docs/results.md).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeGuard

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
class Row:
    """One line: a person, the team, the number of the measure asked about, and the number of a table's other column."""

    name: str
    team: str
    number: int
    extra: int


@dataclass(frozen=True)
class Sheet:
    """What was told: rows in order, and the measure that is asked about with its verb."""

    rows: tuple[Row, ...]
    measure: str
    columns: tuple[str, ...] = ()
    """The measures of a table in the order of its columns; empty for a passage."""
    spelled: bool = False
    """Whether the work spells out what is compared."""

    @property
    def past(self) -> str:
        """The verb in the past."""
        return MEASURES[self.measure][0]

    @property
    def base(self) -> str:
        """The verb after `did`."""
        return MEASURES[self.measure][1]

    def of_team(self, team: str) -> list[Row]:
        """The rows of a team's people."""
        return [row for row in self.rows if row.team == team]

    def number(self, name: str) -> int:
        """A person's number, 0 for somebody else."""
        return row.number if (row := self.row(name)) else 0

    def numbers(self, row: Row) -> list[int]:
        """A row's numbers, in the order of the columns."""
        return [row.number if column == self.measure else row.extra for column in self.columns]

    def row(self, name: str) -> Row | None:
        """A person's row; None for somebody else, whom a wrong step may have brought up."""
        return next((row for row in self.rows if row.name == name), None)

    def found(self, name: str) -> str:
        """How a person's number is written down among others."""
        return f"{self._cells(row)} {self.measure} {row.number}" if self._wide(row := self.row(name)) else f"{name} {self.number(name)}"

    def looked_up(self, name: str, measure: str) -> str:
        """The work of a single entry, which its number follows."""
        return f"{self._cells(row)} {measure}" if self._wide(row := self.row(name)) else f"{measure} of {name}"

    def sided(self, row: Row, team: str) -> str:
        """How it is written down whether a person is on a team."""
        compared = f": {team} {'yes' if row.team == team else 'no'}" if self.spelled else ""
        return f"{row.name} {row.team}{compared}"

    def _wide(self, row: Row | None) -> TypeGuard[Row]:
        return row is not None and self.spelled and len(self.columns) > 1

    def _cells(self, row: Row) -> str:
        return " ".join([row.name, *(f"{column} {number}" for column, number in zip(self.columns, self.numbers(row), strict=True))]) + ":"


@dataclass(frozen=True)
class Told:
    """A sheet in words; `second` is the measure of a table's other column, if it has one."""

    context: str
    table: bool
    second: str


def tell(rng: random.Random, dials: ReadingDials, names: Sequence[str], work: Work) -> tuple[Sheet, Told]:
    """Draw rows and write them as a passage or a table."""
    table = rng.random() < dials.tables
    measure, second = rng.sample(list(MEASURES), 2)
    length = rng.randint(*(dials.rows if table else dials.sentences))
    people = length if table else rng.randint(min(3, length), min(length, dials.max_people))
    sheet = Sheet(_rows(rng, dials, names, people), measure, spelled=work == "spelled")
    if not table:
        return sheet, Told(_passage(rng, dials, sheet, length - people), table, second)
    sheet = replace(sheet, columns=rng.choice(((measure,), (measure, second), (second, measure))))
    return sheet, Told(_table(sheet), table, second)


def _rows(rng: random.Random, dials: ReadingDials, names: Sequence[str], people: int) -> tuple[Row, ...]:
    """Numbers are distinct; two or three teams share the people."""
    teams = rng.sample(TEAMS, rng.randint(2, 3))
    numbers = rng.sample(range(1, dials.max_number + 1), people)
    return tuple(
        Row(name, rng.choice(teams), number, rng.randint(1, dials.max_number))
        for name, number in zip(rng.sample(names, people), numbers, strict=True)
    )


def _passage(rng: random.Random, dials: ReadingDials, sheet: Sheet, fillers: int) -> str:
    lines = [
        rng.choice(SENTENCES[: dials.paraphrases]).format(a=row.name, t=row.team, v=sheet.past, n=row.number, m=sheet.measure)
        for row in sheet.rows
    ]
    anywhere = rng.random() < dials.shuffled
    for _ in range(fillers):
        filler = rng.choice(FILLERS).format(n=rng.randint(1, dials.max_number))
        lines.insert(rng.randint(0, len(lines)) if anywhere else len(lines), filler)
    return " ".join(lines)


def _table(sheet: Sheet) -> str:
    """Three or four columns; the asked measure may be either of two."""
    lines = [["name", "team", *sheet.columns], *([row.name, row.team, *map(str, sheet.numbers(row))] for row in sheet.rows)]
    return "\n".join(" | ".join(line) for line in lines)
