"""BIG-Bench Hard (arXiv 2210.09261): one task per file of `examples` with input and target.

The files carry a canary that asks to keep them out of training corpora, so there is a test split and nothing else.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from cleave.errors import ConfigError, DataError
from cleave.tasks.folder import data_folder
from cleave.tasks.rows import Row, read_json, rows_of
from cleave.tasks.task import StrictTask, check_split, sample
from cleave.types import Problem


class Bbh(StrictTask):
    """One task of BIG-Bench Hard. `kind` is its file's name, such as object_counting."""

    def __init__(self, kind: str, path: str | None = None) -> None:
        if not kind or not kind.replace("_", "").isalnum():
            raise ConfigError(f"{kind!r} names no BIG-Bench Hard task; write bbh:NAME, such as bbh:object_counting.")
        self._kind = kind
        self._path = path

    @property
    def name(self) -> str:
        return f"bbh:{self._kind}"

    @property
    def description(self) -> str:
        return f"{self._kind.replace('_', ' ')} (BIG-Bench Hard; never for training)"

    @property
    def splits(self) -> Mapping[str, int | None]:
        return {"test": None}

    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]:
        if split.startswith("train"):
            raise ConfigError(f"{self.name} has no training split: its canary forbids training on it; use split test to evaluate.")
        check_split(self, split)
        path = self._file()
        contents = read_json(path)
        if not isinstance(contents, dict) or "examples" not in contents:
            raise DataError(f"{path} has no `examples`; fetch the file again.")
        return sample(map(self._problem, rows_of(contents["examples"], path)), limit, seed)

    def _file(self) -> Path:
        folder = data_folder("bbh", self._path)
        path = folder / f"{self._kind}.json"
        if not path.is_file():
            raise ConfigError(f"there is no {path}; the tasks in that folder are: {', '.join(names(folder))}.")
        return path

    def _problem(self, row: Row) -> Problem:
        return Problem(
            id=f"bbh-{self._kind}-{row.number}",
            question=row.text("input"),
            answer=row.text("target"),
            task=self.name,
            skills=(self._kind,),
        )


def names(folder: Path) -> list[str]:
    """The tasks that a folder holds."""
    return sorted(path.stem for path in folder.glob("*.json"))
