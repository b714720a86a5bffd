"""GSM8K (arXiv 2110.14168): grade-school word problems with worked solutions, and its Socratic form with a sub-question before each step.

Solutions mark calculations as `<<48/2=24>>`; the marks are taken out of the text and give each step's answer and the skills. The Socratic
lines read `sub-question ** step` and give the gold plan; of the 1,319 Socratic test problems the first 800 are the split
`socratic-train`, the others `socratic-test`. The data state no dependencies between steps: `depth` is the number of steps.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from cleave.errors import DataError
from cleave.tasks.folder import data_folder
from cleave.tasks.numbers import plain, quantity
from cleave.tasks.rows import Row, read_jsonl
from cleave.tasks.task import StrictTask, check_split, sample
from cleave.types import Plan, Problem, SolutionStep, Step

SOCRATIC_SPLITS = {"socratic-train": (0, 800), "socratic-test": (800, 1319)}
_CALCULATION = re.compile(r"<<([^<>]*)>>")
_FINAL = "####"
_SKILLS = {"+": "addition", "-": "subtraction", "*": "multiplication", "/": "division"}
_REFERENCE_LIKE = re.compile(r"#(?=[0-9])")


class Gsm8k(StrictTask):
    """The train and test problems with their gold steps."""

    name = "gsm8k"
    description = "grade-school word problems with worked solutions (GSM8K)"
    splits: Mapping[str, int | None] = {"train": 7473, "test": 1319}

    def __init__(self, path: str | None = None) -> None:
        self._path = path

    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]:
        check_split(self, split)
        rows = read_jsonl(self._folder() / f"{split}.jsonl")
        return sample((self._problem(row, split) for row in rows), limit, seed)

    def _folder(self) -> Path:
        return data_folder("gsm8k", self._path)

    def _problem(self, row: Row, split: str) -> Problem:
        lines, answer = _parts(row)
        return Problem(
            id=f"{self.name}-{split}-{row.number}",
            question=row.text("question"),
            answer=answer,
            task=self.name,
            skills=_skills(lines),
            depth=len(lines),
            gold_steps=tuple(_step(k, line) for k, line in enumerate(lines, start=1)),
        )


class Gsm8kSocratic(Gsm8k):
    """The test problems with a gold plan."""

    name = "gsm8k-socratic"
    description = "GSM8K test problems with a gold sub-question before each step"
    splits: Mapping[str, int | None] = {name: end - start for name, (start, end) in SOCRATIC_SPLITS.items()}

    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]:
        check_split(self, split)
        rows = islice(read_jsonl(self._folder() / "test_socratic.jsonl"), *SOCRATIC_SPLITS[split])
        return sample((self._problem(row, split) for row in rows), limit, seed)

    def _problem(self, row: Row, split: str) -> Problem:
        lines, answer = _parts(row)
        pairs = [_pair(line, row.where) for line in lines]
        return Problem(
            id=f"{self.name}-{row.number}",
            question=row.text("question"),
            answer=answer,
            task=self.name,
            skills=_skills([text for _, text in pairs]),
            depth=len(pairs),
            gold_plan=Plan(tuple(Step(k, question) for k, (question, _) in enumerate(pairs, start=1))),
            gold_steps=tuple(_step(k, text) for k, (_, text) in enumerate(pairs, start=1)),
        )


def _parts(row: Row) -> tuple[list[str], str]:
    """The lines of a worked solution and its final answer."""
    body, marker, final = row.text("answer").rpartition(_FINAL)
    if not marker or not final.strip():
        raise DataError(f"{row.where}: the answer has no last line `{_FINAL} …`; fetch the file again.")
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    return lines, _short(final.strip())


def _pair(line: str, where: str) -> tuple[str, str]:
    """Sub-question and step of a Socratic line. A `#2` that is no reference is written out, for `#j` refers to a step in plans."""
    question, separator, text = line.partition(" **")
    if not separator or not question.strip():
        raise DataError(f"{where}: the line {line[:60]!r} has no sub-question before ` **`; fetch the Socratic file again.")
    return _REFERENCE_LIKE.sub("number ", question.strip()), text.strip()


def _step(number: int, line: str) -> SolutionStep:
    """One step: its text without marks, and the result of its last calculation ('' where it calculates nothing)."""
    results = [mark.rpartition("=")[2] for mark in _CALCULATION.findall(line)]
    return SolutionStep(number, " ".join(_CALCULATION.sub("", line).split()), _short(results[-1]) if results else "")


def _short(answer: str) -> str:
    value = quantity(answer)
    return answer if value is None else plain(value)


def _skills(lines: list[str]) -> tuple[str, ...]:
    """The operations that the marks use. A minus sign that opens a calculation is a sign, not a subtraction."""
    calculations = [mark.rpartition("=")[0].lstrip(" -(") for line in lines for mark in _CALCULATION.findall(line)]
    return tuple(sorted({_SKILLS[char] for text in calculations for char in text if char in _SKILLS}))
