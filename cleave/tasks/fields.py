"""A row of somebody's data set as a Problem, through a map of field names."""

from cleave.config.task import FieldMap
from cleave.tasks.rows import Row
from cleave.types import Problem


def mapped_problem(row: Row, fields: FieldMap, task: str) -> Problem:
    """Raises DataError, naming the row and the fields there are, where a mapped field is missing or not text."""
    return Problem(
        id=row.text(fields.id) if fields.id else str(row.number),
        question=row.text(fields.question),
        context=row.text(fields.context) if fields.context and row.get(fields.context) else "",
        answer=row.text(fields.answer) if fields.answer else None,
        task=task,
    )
