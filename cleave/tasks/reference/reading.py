"""A short passage or table to count, compare and sum over, after DROP: the questions, and the work sheets of the same kind.

Every line gives a person, a team and one number (tables: one or two numbers). Left out: dates, percentages, coreference; how the lines are
told (sheet.py).
"""

import random
from collections.abc import Callable, Sequence

from cleave.tasks.reference.arithmetic import Draft
from cleave.tasks.reference.node import Node, wrong_number
from cleave.tasks.reference.sheet import MEASURES, ReadingDials, Sheet, Work, tell

Question = tuple[str, list[Node]]
Compute = Callable[[Sequence[str]], tuple[str, str]]


def draft(rng: random.Random, dials: ReadingDials, names: Sequence[str], work: Work = "short") -> Draft:
    """Draw one problem."""
    sheet, told = tell(rng, dials, names, work)
    kinds = [count_team, count_more, compare, difference, total, team_total, most]
    question, nodes = (kind := rng.choice(kinds))(rng, sheet)
    skills = (kind.__name__, "table" if told.table else "passage")
    return Draft(told.context, question, tuple(nodes), skills, len(nodes), f"{told.context}\n{question}")


def records(rng: random.Random, dials: ReadingDials, names: Sequence[str], work: Work = "short") -> tuple[str, list[tuple[str, str, str]]]:
    """A passage or table with everything that can be read off it: (`fish of Tapas`, the work of the solutions, `58`)."""
    sheet, told = tell(rng, dials, names, work)
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
    sheet, told = tell(rng, dials, names, work)
    nodes = [_members(sheet, team) for team in dict.fromkeys(row.team for row in sheet.rows)]
    thresholds = dict.fromkeys(_between(rng, sheet) for _ in range(2))
    return told.context, [*nodes, *(_above(sheet, threshold) for threshold in thresholds), _everyone(sheet)]


def count_team(rng: random.Random, sheet: Sheet) -> Question:
    team = rng.choice(sheet.rows).team
    return f"How many people are on the {team} team?", [_members(sheet, team), _count(1)]


def count_more(rng: random.Random, sheet: Sheet) -> Question:
    threshold = _between(rng, sheet)
    return f"How many people {sheet.past} more than {threshold} {sheet.measure}?", [_above(sheet, threshold), _count(1)]


def compare(rng: random.Random, sheet: Sheet) -> Question:
    a, b = rng.sample([row.name for row in sheet.rows], 2)

    def compute(answers: Sequence[str]) -> tuple[str, str]:
        left, right = int(answers[0]), int(answers[1])
        return f"{left} {'>' if left > right else '<'} {right}", a if left > right else b

    last = Node(f"Who has more, {a} with #1 or {b} with #2?", compute, lambda answer, _: b if answer == a else a)
    return f"Who {sheet.past} more {sheet.measure}, {a} or {b}?", [_amount(sheet, a), _amount(sheet, b), last]


def difference(rng: random.Random, sheet: Sheet) -> Question:
    big, small = sorted(rng.sample(sheet.rows, 2), key=lambda row: -row.number)

    def compute(answers: Sequence[str]) -> tuple[str, str]:
        return f"{answers[0]} - {answers[1]}", str(int(answers[0]) - int(answers[1]))

    question = f"How many more {sheet.measure} did {big.name} {sheet.base} than {small.name}?"
    return question, [_amount(sheet, big.name), _amount(sheet, small.name), Node("What is #1 minus #2?", compute, wrong_number)]


def total(rng: random.Random, sheet: Sheet) -> Question:
    a, b = rng.sample([row.name for row in sheet.rows], 2)

    def compute(answers: Sequence[str]) -> tuple[str, str]:
        return f"{answers[0]} + {answers[1]}", str(int(answers[0]) + int(answers[1]))

    question = f"How many {sheet.measure} did {a} and {b} {sheet.base} together?"
    return question, [_amount(sheet, a), _amount(sheet, b), Node("What is #1 plus #2?", compute, wrong_number)]


def team_total(rng: random.Random, sheet: Sheet) -> Question:
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


def most(rng: random.Random, sheet: Sheet) -> Question:
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


def _amount(sheet: Sheet, name: str) -> Node:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        return sheet.looked_up(name, sheet.measure), str(sheet.number(name))

    return Node(f"How many {sheet.measure} did {name} {sheet.base}?", compute, wrong_number)


def _members(sheet: Sheet, team: str) -> Node:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        work = ", ".join(sheet.sided(row, team) for row in sheet.rows)
        return work, ", ".join(row.name for row in sheet.of_team(team))

    return Node(f"Who is on the {team} team?", compute, _fewer)


def _above(sheet: Sheet, threshold: int) -> Node:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        work = ", ".join(f"{sheet.found(row.name)} {'>' if row.number > threshold else '<'} {threshold}" for row in sheet.rows)
        return work, ", ".join(row.name for row in sheet.rows if row.number > threshold)

    return Node(f"Who {sheet.past} more than {threshold} {sheet.measure}?", compute, _fewer)


def _everyone(sheet: Sheet) -> Node:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        return ", ".join(sheet.found(row.name) for row in sheet.rows), ", ".join(str(row.number) for row in sheet.rows)

    return Node(f"How many {sheet.measure} did each {sheet.base}?", compute, _one_wrong)


def _count(step: int) -> Node:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        names = answers[step - 1].split(", ")
        return ", ".join(f"{index} {name}" for index, name in enumerate(names, start=1)), str(len(names))

    return Node(f"How many names are in #{step}?", compute, wrong_number)


def _between(rng: random.Random, sheet: Sheet) -> int:
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
