"""A collection: a teacher's traces on disk, addressed by what was asked of whom, so that nothing is ever asked twice.

    traces/recipe=9f2c…/task=arithmetic/*.parquet      rows of traces.py

A recipe is the teacher as far as it decides replies: models with their revisions, prompts, limits, sampling. A row's key is its problem.
So a killed run resumes, a larger run adds, another teacher lies beside the first, and several students train on one collection.
Left out: asking (pipelines/collect.py) and which traces are good enough to learn from (screening.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import quote

import numpy as np

from cleave.errors import DataError
from cleave.manifest import manifest
from cleave.runs import MANIFEST, RunFolder
from cleave.traces import ScoredTrace, problem_key, read_columns, read_traces, write_traces
from cleave.types import Problem

PLACE = "traces"


class Keys:
    """The problems of one task that are there already: 8 bytes each."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._sorted = np.unique(np.fromiter((int(key, 16) for key in keys), np.uint64))

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, problem: Problem) -> bool:
        key = np.uint64(int(problem_key(problem), 16))
        place = int(np.searchsorted(self._sorted, key))
        return place < len(self._sorted) and bool(self._sorted[place] == key)


@dataclass
class Spent:
    """What a recipe's traces have cost, and the dearest of them."""

    tokens: int = 0
    price: float = 0.0
    most_tokens: int = 0
    most_price: float = 0.0

    def add(self, tokens: int, price: float) -> None:
        """Count one trace."""
        self.tokens += tokens
        self.price += price
        self.most_tokens = max(self.most_tokens, tokens)
        self.most_price = max(self.most_price, price)


class Collection:
    """The traces of a run folder."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def recipes(self) -> dict[str, Any]:
        """Every teacher that was asked, by its hash. Raises StorageError for an unreadable manifest."""
        found: dict[str, Any] = json.loads(self.folder.read_text(MANIFEST))["recipes"] if self.folder.exists(MANIFEST) else {}
        return found

    def register(self, recipe: Mapping[str, Any], **notes: Any) -> str:
        """Note a teacher; returns its hash. `notes` are kept beside the recipe and do not count."""
        digest = recipe_hash(recipe)
        known = self.recipes()
        if digest not in known:
            whole = manifest(recipes=known | {digest: {"recipe": dict(recipe), **notes}})
            self.folder.write_text(MANIFEST, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
        return digest

    def only_recipe(self) -> str:
        """The one recipe there is. Raises DataError where there are none or several."""
        known = list(self.recipes())
        if len(known) == 1:
            return known[0]
        there = f"traces of {len(known)} teachers ({', '.join(known)}); name one" if known else "no traces; run `cleave collect` first"
        raise DataError(f"{self.folder.location} holds {there}.")

    def write(self, recipe: str, name: str, rows: Sequence[ScoredTrace]) -> None:
        """Add rows, by task. Raises StorageError."""
        for task in sorted({row.task for row in rows}):
            write_traces(self.folder, f"{_place(recipe, task)}/{name}.parquet", [row for row in rows if row.task == task])

    def keys(self, recipe: str, task: str) -> Keys:
        """What is there of one task."""
        return Keys(row["problem_key"] for row in read_columns(self.folder, self.names(recipe, task), ["problem_key"]))

    def spent(self, recipe: str) -> Spent:
        """What the recipe's traces have cost."""
        total = Spent()
        for row in read_columns(self.folder, self.names(recipe), ["prompt_tokens", "completion_tokens", "price"]):
            total.add(row["prompt_tokens"] + row["completion_tokens"], row["price"])
        return total

    def traces(self, recipe: str, task: str | None = None) -> Iterator[ScoredTrace]:
        """Stream the traces of one teacher, of one task or of all."""
        return read_traces(self.folder, self.names(recipe, task))

    def names(self, recipe: str, task: str | None = None) -> list[str]:
        """The files of one teacher, of one task or of all."""
        return [name for name in self.folder.names(_place(recipe, task), recursive=True) if name.endswith(".parquet")]


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits."""
    return blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=6).hexdigest()


def _place(recipe: str, task: str | None) -> str:
    return f"{PLACE}/recipe={recipe}" + (f"/task={quote(task, safe='')}" if task is not None else "")
