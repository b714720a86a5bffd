"""Rows of data files as mappings, streamed, with the place of each for error messages.

Reads JSON lines, one whole JSON file, and Parquet in batches. Whatever a file is not (missing, empty, not UTF-8, malformed) is a DataError
that names the file and the line. Left out: what a row means (the loaders know).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleave.errors import DataError

MAX_LINE_BYTES = 64 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One row. `number` counts rows from 0; `where` says file and line for messages."""

    number: int
    values: Mapping[str, Any]
    where: str

    def get(self, name: str) -> Any:
        """A field's value; a dotted name reaches into nested rows. Raises DataError naming the fields there are."""
        if name in self.values:
            return self.values[name]
        value: Any = self.values
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise DataError(f"{self.where} has no field {name!r}; it has: {', '.join(map(str, self.values))}.")
            value = value[part]
        return value

    def text(self, name: str) -> str:
        """A field's value as text that is not blank. Numbers become text, 51.0 as 51. Raises DataError."""
        value = self.get(name)
        if isinstance(value, bool):
            return str(value)
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, int | float):
            return str(value)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: field {name!r} holds {type(value).__name__}, not text; map another field.")
        if not value.strip():
            raise DataError(f"{self.where}: field {name!r} is blank; fill it or remove the row.")
        return value


def read_jsonl(path: Path) -> Iterator[Row]:
    """Rows of a file of JSON objects, one per line; blank lines are passed over."""
    number = 0
    try:
        with path.open("rb") as lines:
            for index, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES + 1), b""), start=1):
                where = f"{path} line {index}"
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{where} is longer than {MAX_LINE_BYTES // 2**20} MiB; is it a file of JSON lines?")
                line = line.removeprefix(_BYTE_ORDER_MARK) if index == 1 else line
                if line.strip():
                    yield Row(number, _object(_json(line, where), where), where)
                    number += 1
    except OSError as error:
        raise _unreadable(path, error) from error
    if not number:
        raise DataError(f"{path} is empty; give a file with one JSON object per line.")


def read_json(path: Path) -> Any:
    """The one value of a whole JSON file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not data.strip():
        raise DataError(f"{path} is empty; fetch it again.")
    return _json(data.removeprefix(_BYTE_ORDER_MARK), str(path))


def rows_of(values: Any, path: Path) -> Iterator[Row]:
    """The rows of a list read from a JSON file."""
    if not isinstance(values, list) or not values:
        raise DataError(f"{path} holds no list of examples; fetch it again.")
    for number, value in enumerate(values):
        where = f"{path} example {number + 1}"
        yield Row(number, _object(value, where), where)


def read_parquet(path: Path, batch_size: int = 1024) -> Iterator[Row]:
    """Rows of a Parquet file, read in batches."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if file.metadata.num_rows == 0:
                raise DataError(f"{path} is empty; give a file with rows.")
            number = 0
            for batch in file.iter_batches(batch_size=batch_size):
                for values in batch.to_pylist():
                    yield Row(number, values, f"{path} row {number + 1}")
                    number += 1
    except OSError as error:
        raise _unreadable(path, error) from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file ({_first_line(error)}); write it again.") from error


def count_parquet(path: Path) -> int | None:
    """The number of rows a Parquet file states; None where it cannot be read (reading it says why)."""
    import pyarrow
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (OSError, pyarrow.ArrowException):
        return None


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 (byte {error.start}); save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where}{_line(data, error)} is not valid JSON ({error.msg} at column {error.colno}); correct it.") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where} holds a value too deep or too long to read ({_first_line(error)}); correct it.") from error


def _line(data: bytes, error: json.JSONDecodeError) -> str:
    return f" line {error.lineno}" if data.rstrip(b"\n").count(b"\n") else ""


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} holds {type(value).__name__}, not an object with named fields; correct it.")
    return value


def _unreadable(path: Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"there is no file {path}; check the path.")
    return DataError(f"cannot read {path} ({error.strerror or _first_line(error)}); check the file and its permissions.")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200].rstrip(".")
