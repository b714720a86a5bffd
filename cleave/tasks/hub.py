"""Any data set of the Hugging Face Hub, or a local folder that `datasets` can read, streamed and mapped by field names.

Data sets that need their own loading script are refused: their code is never run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from cleave.config.task import FieldMap
from cleave.errors import ConfigError, DataError
from cleave.tasks.fields import mapped_problem
from cleave.tasks.rows import Row
from cleave.tasks.task import StrictTask, check_split, sample
from cleave.types import Problem

if TYPE_CHECKING:
    from datasets import IterableDatasetDict


class HubTask(StrictTask):
    """One data set (and its subset, at a revision). Nothing is fetched until its splits or problems are asked for."""

    def __init__(self, id: str, subset: str | None = None, revision: str | None = None, fields: FieldMap | None = None) -> None:
        if not id:
            raise ConfigError("a hub task needs the data set's id; write hub:OWNER/NAME.")
        self._id = id
        self._subset = subset
        self._revision = revision
        self._fields = fields or FieldMap()

    @property
    def name(self) -> str:
        return f"hub:{self._id}"

    @property
    def description(self) -> str:
        return f"problems of the Hub data set {self._id}"

    @property
    def splits(self) -> Mapping[str, int | None]:
        return {split: _size(part.info, split) for split, part in self._data.items()}

    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]:
        check_split(self, split)
        return sample((mapped_problem(row, self._fields, self.name) for row in self._rows(split)), limit, seed)

    @cached_property
    def _data(self) -> IterableDatasetDict:
        from datasets import load_dataset

        try:
            return load_dataset(self._id, self._subset, revision=self._revision, streaming=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"cannot open the data set {self._id} ({_first_line(error)}); check its id, subset and your "
                "connection, or download it elsewhere and use jsonl:PATH, parquet:PATH or hub:FOLDER."
            ) from error

    def _rows(self, split: str) -> Iterator[Row]:
        rows = enumerate(self._data[split])
        while True:
            try:
                number, values = next(rows)
            except StopIteration:
                return
            except (OSError, ValueError, RuntimeError) as error:
                raise DataError(f"reading {self._id} stopped ({_first_line(error)}); check the connection and run again.") from error
            yield Row(number, values, f"{self._id} {split} row {number + 1}")


def _size(info: object, split: str) -> int | None:
    splits = getattr(info, "splits", None) or {}
    return splits[split].num_examples or None if split in splits else None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200].rstrip('.')}"
