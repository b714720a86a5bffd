"""Your own problems: a JSONL or Parquet file (its one split is `all`), or a folder with one file per split (`test.jsonl` → test)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from cleave.config.task import FieldMap
from cleave.errors import ConfigError
from cleave.tasks.fields import mapped_problem
from cleave.tasks.rows import Row, count_parquet, read_jsonl, read_parquet
from cleave.tasks.task import StrictTask, check_split, sample
from cleave.types import Problem

Format = Literal["jsonl", "parquet"]
ONLY_SPLIT = "all"


class FileTask(StrictTask):
    """Problems of files. Raises ConfigError, when made, for a path that does not exist or holds no such file."""

    def __init__(self, path: str, format: Format, fields: FieldMap | None = None) -> None:
        self._fields = fields or FieldMap()
        self._format = format
        self._path = path
        self._files = _files(path, format)

    @property
    def name(self) -> str:
        return f"{self._format}:{self._path}"

    @property
    def description(self) -> str:
        return f"problems of {self._path}"

    @property
    def splits(self) -> Mapping[str, int | None]:
        return {split: count_parquet(path) if self._format == "parquet" else None for split, path in self._files.items()}

    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]:
        check_split(self, split)
        return sample((mapped_problem(row, self._fields, self.name) for row in self._rows(split)), limit, seed)

    def _rows(self, split: str) -> Iterator[Row]:
        path = self._files[split]
        return read_parquet(path) if self._format == "parquet" else read_jsonl(path)


def _files(path: str, format: Format) -> dict[str, Path]:
    if not path:
        raise ConfigError(f"a {format} task needs a file; write {format}:PATH.")
    place = Path(path)
    if not place.exists():
        raise ConfigError(f"there is no file or folder {path}; check the path of the {format} task.")
    if place.is_file():
        return {ONLY_SPLIT: place}
    found = {file.stem: file for file in sorted(place.glob(f"*.{format}"))}
    if not found:
        raise ConfigError(f"the folder {path} holds no .{format} file; name one file per split, such as test.{format}.")
    return found
