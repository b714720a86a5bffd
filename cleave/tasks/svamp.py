"""SVAMP (arXiv 2103.07191): 1,000 one- and two-step word problems that were varied to defeat shallow solvers.

The body becomes the context, numbers are written without the file's trailing .0, and the equation gives the one gold step.
"""

import re
from collections.abc import Iterator, Mapping

from cleave.tasks.folder import data_folder
from cleave.tasks.rows import Row, read_json, rows_of
from cleave.tasks.task import StrictTask, check_split, sample
from cleave.types import Problem, SolutionStep

_SKILLS = {"Subtraction": "subtraction", "Addition": "addition", "Multiplication": "multiplication"}
_POINT_ZERO = re.compile(r"(?<=[0-9])\.0+(?![0-9])")


class Svamp(StrictTask):
    """The challenge set; it has a test split only."""

    name = "svamp"
    description = "one- and two-step word problems, varied to defeat shallow solvers (SVAMP)"
    splits: Mapping[str, int | None] = {"test": 1000}

    def __init__(self, path: str | None = None) -> None:
        self._path = path

    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]:
        check_split(self, split)
        path = data_folder("svamp", self._path) / "SVAMP.json"
        return sample(map(_problem, rows_of(read_json(path), path)), limit, seed)


def _problem(row: Row) -> Problem:
    answer = row.text("Answer")
    equation = " ".join(_POINT_ZERO.sub("", row.text("Equation")).split())
    body = row.text("Body").strip()
    kind = row.text("Type")
    return Problem(
        id=f"svamp-{row.text('ID')}",
        question=row.text("Question").strip(),
        context=body if body.endswith((".", "!", "?")) else f"{body}.",
        answer=answer,
        task="svamp",
        skills=(_SKILLS.get(kind, "division"),),
        depth=sum(token in "+-*/" for token in equation.split()),
        gold_steps=(SolutionStep(1, f"{equation} = {answer}", answer),),
    )
