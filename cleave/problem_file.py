"""Problems in one Parquet file, read a group at a time: what is trained on where it is larger than memory, on any storage.

    write_problems(folder, "problems/9f2c.parquet", problems, lambda: {"kept": 3})
    stored = ProblemFile(folder, "problems/9f2c.parquet")
    stored.group(7)

Left out: which problems (pipelines/screened.py), in what order (pipelines/sources.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cleave.errors import StorageError
from cleave.runs import RunFolder
from cleave.types import Problem, from_json, to_dict

GROUP = 512
"""Problems per group: all that is read at once."""
_NOTES = "cleave.notes"
_SCHEMA = pa.schema([("problem", pa.string())])


def write_problems(folder: RunFolder, name: str, problems: Iterable[Problem], notes: Callable[[], Mapping[str, Any]]) -> None:
    """Stream problems into a file; `notes` is asked once they have all gone by, and its JSON kept with them. Raises StorageError."""
    left = iter(problems)
    with folder.writing(name) as stream, pq.ParquetWriter(stream, _SCHEMA, compression="zstd") as writer:
        while some := list(islice(left, GROUP)):
            texts = [json.dumps(to_dict(problem)) for problem in some]  # ASCII: lone surrogates survive
            writer.write_table(pa.table({"problem": texts}, schema=_SCHEMA), row_group_size=GROUP)
        writer.add_key_value_metadata({_NOTES: json.dumps(dict(notes()))})


class ProblemFile:
    """The file, of which only the index is held. Raises StorageError for one that is not there or not whole."""

    def __init__(self, folder: RunFolder, name: str) -> None:
        self._folder, self._name = folder, name
        with self._opened() as file:
            self._index = file.metadata
        self.notes: dict[str, Any] = json.loads(self._index.metadata[_NOTES.encode()])

    def __len__(self) -> int:
        return int(self._index.num_rows)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self._index.num_row_groups)

    def group(self, index: int) -> list[Problem]:
        """The problems of one group, in the order in which they were written."""
        with self._opened(self._index) as file:
            texts = file.read_row_group(index).column("problem").to_pylist()
        return [from_json(Problem, text) for text in texts]

    @contextmanager
    def _opened(self, index: Any = None) -> Iterator[pq.ParquetFile]:
        path = self._folder.path(self._name)
        try:
            with self._folder.filesystem.open_input_file(path) as stream, pq.ParquetFile(stream, metadata=index) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            where = f"{self._folder.location}/{self._name}"
            raise StorageError(f"cannot read {where} ({reason}); delete it and run the same command again.") from error
