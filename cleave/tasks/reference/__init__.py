"""Generated tasks that need no data set: arithmetic, lookup and reading, with every dial and the frozen profile default-v1."""

from cleave.tasks.reference.task import reference_task

__all__ = ["reference_task"]
