"""A row of somebody's data set as a Problem, through a map of field names.

A row that has all fields of a Problem, as `cleave tasks export` writes them, is taken as it is, with its gold plan and steps.
"""

from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any

from cleave.config.task import FieldMap
from cleave.errors import DataError
from cleave.tasks.rows import Row
from cleave.types import Problem, from_dict

_PROBLEM_FIELDS = {field.name for field in fields_of(Problem)}


def mapped_problem(row: Row, fields: FieldMap, task: str) -> Problem:
    """Raises DataError, naming the row and the fields there are, where a mapped field is missing or not text."""
    if set(row.values) == _PROBLEM_FIELDS:
        return replace(_exported(row), task=task)
    identity = _optional(row, fields, "id")
    context = _optional(row, fields, "context")
    return Problem(
        id=row.text(identity) if identity else str(row.number),
        question=row.text(fields.question),
        context=row.text(context) if context and row.get(context) not in (None, "") else "",
        answer=row.text(fields.answer) if fields.answer else None,
        task=task,
    )


def _optional(row: Row, fields: FieldMap, name: str) -> str | None:
    """The field mapped to `name`; None where it is only the default and the row does not have it."""
    mapped: Any = getattr(fields, name)
    return mapped if mapped in row.values or name in fields.model_fields_set else None


def _exported(row: Row) -> Problem:
    try:
        return from_dict(Problem, row.values)
    except DataError as error:
        raise DataError(f"{row.where} is no exported problem ({error}); correct it or export it again.") from error
