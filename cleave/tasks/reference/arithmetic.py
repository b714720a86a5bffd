"""Word problems over a dependency graph of quantities, after GSM8K.

One or two chains of people start from a stated number; each next person's number is the one before, changed by + − × ÷; with two chains
the question joins their ends. Distractors speak of other items. Left out: units, fractions, negative numbers.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cleave.tasks.reference.node import Node, wrong_number

ITEMS = (
    "apples pens coins books shells cards stamps marbles eggs cups keys rocks toys hats bags nuts figs pears plums beads bricks candles "
    "tickets photos stickers flowers leaves seeds lamps boxes bottles letters maps ropes rings shirts socks spoons forks plates"
).split()
# (past or present form, base form, auxiliary)
VERBS = (
    ("has", "have", "does"),
    ("picked", "pick", "did"),
    ("bought", "buy", "did"),
    ("found", "find", "did"),
    ("made", "make", "did"),
    ("sold", "sell", "did"),
    ("packed", "pack", "did"),
    ("saved", "save", "did"),
    ("counted", "count", "did"),
    ("got", "get", "did"),
)
LEAF = (
    "{a} {v} {n} {i}.",
    "{a} {v} exactly {n} {i}.",
    "In all, {a} {v} {n} {i}.",
    "We know that {a} {v} {n} {i}.",
    "The number of {i} {a} {v} is {n}.",
)
# Each relation template gives person b's number from person a's. A trailing (n) limits it to that operand.
RELATIONS: dict[str, tuple[tuple[str, int | None], ...]] = {
    "add": (
        ("{b} {v} {n} more {i} than {a}.", None),
        ("{b} {v} {n} {i} more than {a}.", None),
        ("Compared to {a}, {b} {v} {n} more {i}.", None),
        ("{b} {v} as many {i} as {a} plus {n} extra.", None),
        ("Add {n} to the {i} of {a} to get the {i} of {b}.", None),
        ("{b} is ahead of {a} by {n} {i}.", None),
    ),
    "sub": (
        ("{b} {v} {n} fewer {i} than {a}.", None),
        ("{b} {v} {n} {i} less than {a}.", None),
        ("Compared to {a}, {b} {v} {n} fewer {i}.", None),
        ("{b} {v} as many {i} as {a} minus {n}.", None),
        ("Take {n} from the {i} of {a} to get the {i} of {b}.", None),
        ("{b} is behind {a} by {n} {i}.", None),
    ),
    "mul": (
        ("{b} {v} {n} times as many {i} as {a}.", None),
        ("{b} {v} {n} times the {i} of {a}.", None),
        ("Multiply the {i} of {a} by {n} to get the {i} of {b}.", None),
        ("For each of the {i} of {a}, {b} {v} {n}.", None),
        ("{b} {v} twice as many {i} as {a}.", 2),
    ),
    "div": (
        ("{b} {v} the {i} of {a} divided by {n}.", None),
        ("Divide the {i} of {a} by {n} to get the {i} of {b}.", None),
        ("For every {n} {i} of {a}, {b} {v} one.", None),
        ("{b} {v} half as many {i} as {a}.", 2),
        ("{b} {v} a third as many {i} as {a}.", 3),
        ("{b} {v} a quarter as many {i} as {a}.", 4),
    ),
}
DISTRACTORS = (
    "{a} also {v} {n} {j}.",
    "{c} {v} {n} {j}.",
    "{c} {v} {n} more {j} than {a}.",
    "The market opened {n} days ago.",
    "It took {n} minutes to get there.",
)
SYMBOLS = {"add": "+", "sub": "-", "mul": "x", "div": "/"}
APPLY: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a // b,
}


@dataclass(frozen=True)
class ArithmeticDials:
    """What makes an arithmetic problem hard."""

    depths: tuple[int, ...] = (1, 2, 3, 4)
    """Longest chains of operations, drawn uniformly."""
    joined: float = 0.3
    """Share of problems whose question joins two chains."""
    max_distractors: int = 2
    """Distractor sentences, uniform from 0."""
    shuffled: float = 0.5
    """Share of problems whose sentences come in any order."""
    max_operand: int = 99
    """Largest stated number and largest operand of + and −."""
    max_factor: int = 12
    """Largest operand of × and ÷."""
    max_result: int = 999
    """Largest intermediate or final result."""
    side_branches: bool = False
    """Let a distractor use the asked item: a branch that the question does not need."""
    paraphrases: int = 6
    """Templates used per kind of sentence."""
    operations: tuple[str, ...] = ("add", "sub", "mul", "div")
    """Operations that may occur."""


@dataclass(frozen=True)
class Draft:
    """A generated problem: what is told, what is asked, how it is answered."""

    context: str
    question: str
    nodes: tuple[Node, ...]
    skills: tuple[str, ...]
    depth: int
    key: str
    """What decides the split: two problems with equal keys are the same problem."""


@dataclass
class _Chain:
    """People in order, each one's number known from the one before."""

    people: list[str]
    values: list[int]
    operations: list[tuple[str, int]] = field(default_factory=list)


def draft(rng: random.Random, dials: ArithmeticDials, names: Sequence[str]) -> Draft:
    """Draw one problem."""
    depth = rng.choice(dials.depths)
    people = rng.sample(names, depth + 5)
    verb, item, other = rng.choice(VERBS), *rng.sample(ITEMS, 2)
    joined = rng.random() < dials.joined
    chains = [_chain(rng, dials, depth - 1 if joined else depth, people)]
    if joined:
        chains.append(_chain(rng, dials, rng.randint(0, min(1, depth - 1)), people))
    told = [line for chain in chains for line in _tell(rng, dials, chain, verb[0], item)]
    told = _arrange(rng, dials, told, _distractors(rng, dials, chains, people, verb[0], item, other))
    chains.sort(key=lambda chain: next(at for at, line in enumerate(told) if line[1] == ("leaf", chain.people[0])))
    nodes, question, skills = _ask(rng, dials, chains, verb, item)
    text = " ".join(line for line, _ in told)
    return Draft("", f"{text} {question}", tuple(nodes), tuple(skills), depth, f"{text} {question}")


def relations(rng: random.Random, dials: ArithmeticDials, names: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """A text like those of the problems, with what it says of each person: (`Ranis`, `36`), (`Ganor`, `Ranis x 3`)."""
    depth = rng.choice(dials.depths)
    people = rng.sample(names, depth + 5)
    verb, item, other = rng.choice(VERBS), *rng.sample(ITEMS, 2)
    chains = [_chain(rng, dials, depth, people)]
    if rng.random() < dials.joined:
        chains.append(_chain(rng, dials, rng.randint(0, min(1, depth - 1)), people))
    told = [line for chain in chains for line in _tell(rng, dials, chain, verb[0], item)]
    told = _arrange(rng, dials, told, _distractors(rng, dials, chains, people, verb[0], item, other))
    entries = [(chain.people[0], str(chain.values[0])) for chain in chains]
    for chain in chains:
        for a, b, (operation, n) in zip(chain.people, chain.people[1:], chain.operations, strict=False):
            entries.append((b, f"{a} {SYMBOLS[operation]} {n}"))
    return " ".join(line for line, _ in told), [(f"{item} of {person}", what) for person, what in entries]


def _chain(rng: random.Random, dials: ArithmeticDials, length: int, people: list[str]) -> _Chain:
    chain = _Chain([people.pop()], [rng.randint(1, dials.max_operand)])
    for _ in range(length):
        operation, operand = _operation(rng, dials, chain.values[-1])
        chain.operations.append((operation, operand))
        chain.values.append(APPLY[operation](chain.values[-1], operand))
        chain.people.append(people.pop())
    return chain


def _operation(rng: random.Random, dials: ArithmeticDials, value: int) -> tuple[str, int]:
    """Draw an operation that keeps the result a whole number in 1 … max_result."""
    for operation in rng.sample(dials.operations, len(dials.operations)):
        if operation == "add" and value < dials.max_result:
            return operation, rng.randint(1, min(dials.max_operand, dials.max_result - value))
        if operation == "sub" and value > 1:
            return operation, rng.randint(1, min(dials.max_operand, value - 1))
        if operation == "mul" and 2 * value <= dials.max_result:
            return operation, rng.randint(2, min(dials.max_factor, dials.max_result // value))
        if operation == "div":
            divisors = [n for n in range(2, dials.max_factor + 1) if value % n == 0]
            if divisors:
                return operation, rng.choice(divisors)
    return "add", 1


def _tell(rng: random.Random, dials: ArithmeticDials, chain: _Chain, verb: str, item: str) -> list[tuple[str, tuple[str, str]]]:
    leaf = rng.choice(LEAF[: dials.paraphrases])
    lines = [(leaf.format(a=chain.people[0], v=verb, n=chain.values[0], i=item), ("leaf", chain.people[0]))]
    for a, b, (operation, n) in zip(chain.people, chain.people[1:], chain.operations, strict=False):
        known = RELATIONS[operation][: dials.paraphrases]
        template = rng.choice([text for text, only in known if only in (None, n)])
        lines.append((template.format(a=a, b=b, v=verb, n=n, i=item), (operation, b)))
    return lines


def _distractors(
    rng: random.Random, dials: ArithmeticDials, chains: list[_Chain], people: list[str], verb: str, item: str, other: str
) -> list[tuple[str, tuple[str, str]]]:
    lines = []
    inside = [person for chain in chains for person in chain.people]
    for _ in range(rng.randint(0, dials.max_distractors)):
        template = rng.choice(DISTRACTORS)
        noun = item if dials.side_branches and "than" in template else other
        text = template.format(a=rng.choice(inside), c=people[-1], v=verb, n=rng.randint(1, dials.max_operand), i=item, j=noun)
        lines.append((text, ("distractor", "")))
    return lines


def _arrange(
    rng: random.Random, dials: ArithmeticDials, told: list[tuple[str, tuple[str, str]]], distractors: list[tuple[str, tuple[str, str]]]
) -> list[tuple[str, tuple[str, str]]]:
    lines = list(told)
    for line in distractors:
        lines.insert(rng.randint(0, len(lines)), line)
    if rng.random() < dials.shuffled:
        rng.shuffle(lines)
    return lines


def _ask(
    rng: random.Random, dials: ArithmeticDials, chains: list[_Chain], verb: tuple[str, str, str], item: str
) -> tuple[list[Node], str, list[str]]:
    """Write the sub-questions of each chain, the joining one if there are two, and the question itself."""
    past, base, auxiliary = verb
    nodes: list[Node] = []
    skills: list[str] = []
    ends: list[tuple[str, int, str]] = []  # how the end is referred to, its value, the person
    for chain in chains:
        reference = str(chain.values[0])
        for a, b, (operation, n) in zip(chain.people, chain.people[1:], chain.operations, strict=False):
            question = f"How many {item} {auxiliary} {b} {base} if {a} {past} {reference}?"
            nodes.append(Node(question, _work(reference, operation, str(n)), wrong_number))
            skills.append(operation)
            reference = f"#{len(nodes)}"
        ends.append((reference, chain.values[-1], chain.people[-1]))
    if len(chains) == 1:
        return nodes, f"How many {item} {auxiliary} {ends[0][2]} {base}?", sorted(set(skills))
    equal, total = ends[0][1] == ends[1][1], ends[0][1] + ends[1][1]
    if total <= dials.max_result and (equal or rng.random() < 0.5):
        nodes.append(
            Node(f"How many {item} are {ends[0][0]} and {ends[1][0]} together?", _work(ends[0][0], "add", ends[1][0]), wrong_number)
        )
        pair = [ends[0][2], ends[1][2]]
        rng.shuffle(pair)
        return nodes, f"How many {item} {auxiliary} {pair[0]} and {pair[1]} {base} together?", sorted({*skills, "sum"})
    big, small = sorted(ends, key=lambda end: -end[1])
    nodes.append(Node(f"How many more {item} is {big[0]} than {small[0]}?", _work(big[0], "sub", small[0]), wrong_number))
    return nodes, f"How many more {item} {auxiliary} {big[2]} {base} than {small[2]}?", sorted({*skills, "difference"})


def _value(reference: str, answers: Sequence[str]) -> int:
    return int(answers[int(reference[1:]) - 1]) if reference.startswith("#") else int(reference)


def _work(left: str, operation: str, right: str) -> Callable[[Sequence[str]], tuple[str, str]]:
    def compute(answers: Sequence[str]) -> tuple[str, str]:
        a, b = _value(left, answers), _value(right, answers)
        return f"{a} {SYMBOLS[operation]} {b}", str(APPLY[operation](a, b))

    return compute
