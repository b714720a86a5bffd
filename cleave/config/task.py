"""How a task is named: a mapping, or its short string.

arithmetic, lookup, reading           generated; options under `dials`
gsm8k, gsm8k-socratic, svamp          real data under $CLEAVE_DATA (or `path`)
bbh:NAME                              one BIG-Bench Hard task
jsonl:PATH, parquet:PATH              your own file, or a folder with one file per split; names of its fields under `fields`
hub:ID                                a data set of the Hugging Face Hub (or a local one), through `datasets`
package.module:name                   your own Task, or a function that makes one from `dials`
"""

from typing import Any

from pydantic import Field, model_validator

from cleave.config.base import Config, split_short


class FieldMap(Config):
    """Which field of a row is what. A dotted name reaches into nested rows."""

    id: str | None = "id"
    """Field with the problem's id; null, or left out where rows have no `id`: the row's number."""
    question: str = "question"
    """Field with the question."""
    context: str | None = "context"
    """Field with a passage or table that belongs to the question; null, or left out where rows have no `context`: none."""
    answer: str | None = "answer"
    """Field with the gold answer; null: the rows are not labelled."""


class TaskConfig(Config):
    """One task. Which split and how many problems is up to the program that uses it. Options that do not apply to the task are refused."""

    name: str = Field(min_length=1)
    """Name of the task, with what follows its colon."""
    path: str | None = None
    """File, or folder of the data set; null: the folder of that name under $CLEAVE_DATA."""
    fields: FieldMap = FieldMap()
    """Names of the fields (jsonl, parquet and hub only)."""
    subset: str | None = None
    """Name of the data set's configuration (hub only)."""
    revision: str | None = None
    """Revision of the data set to pin (hub only)."""
    profile: str = "default-v1"
    """Frozen profile of dials (generated tasks only)."""
    dials: dict[str, Any] = Field(default_factory=dict)
    """Options that differ from the profile (generated tasks), or arguments of your own function."""

    @model_validator(mode="before")
    @classmethod
    def _short_string(cls, data: Any) -> Any:
        short, rest = split_short(data)
        return {"name": short, **rest} if short is not None else data

    @property
    def kind(self) -> str:
        """The name up to its first colon."""
        return self.name.partition(":")[0]

    @property
    def argument(self) -> str:
        """What follows the first colon, '' for nothing."""
        return self.name.partition(":")[2]
