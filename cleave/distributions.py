"""Stored distributions: examples with the teacher's most likely tokens at each learned token, beside the collection they were made for.

    topk/9f2c…/made_with.json      the teacher's revision, k, prompts: what the folder's name is the hash of
    topk/9f2c…/*.parquet           rows of examples.py

A row is found by its token ids and mask alone, so that several students share what they have in common, and a capture that was stopped
goes on. Files appear whole. Left out: asking the teacher (pipelines/capture.py).
"""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np

from cleave.collection import recipe_hash
from cleave.errors import DataError, StorageError
from cleave.examples import Example, TopK, read_shard, write_shard
from cleave.runs import RunFolder

PLACE = "topk"
MADE_WITH = "made_with.json"

Key = bytes
"""Sixteen bytes for what an example reads and learns."""


class Distributions:
    """One teacher's distributions in a run folder, at `place`."""

    def __init__(self, folder: RunFolder, place: str) -> None:
        self.folder = folder
        self.place = place

    @classmethod
    def made_with(cls, folder: RunFolder, recipe: Mapping[str, Any]) -> Distributions:
        """Those that `recipe` decides, which is written beside them. Raises StorageError."""
        found = cls(folder, f"{PLACE}/{recipe_hash(recipe)}")
        if not folder.exists(f"{found.place}/{MADE_WITH}"):
            folder.write_text(f"{found.place}/{MADE_WITH}", json.dumps(dict(recipe), indent=2) + "\n")
        return found

    def write(self, examples: Sequence[Example]) -> int:
        """Add examples with `teacher_topk`; returns the bytes on disk. Raises StorageError."""
        buffer = io.BytesIO()
        write_shard(buffer, examples)
        with self.folder.writing(f"{self.place}/{time.time_ns():020d}-{uuid.uuid4().hex[:6]}.parquet") as stream:
            stream.write(buffer.getvalue())
        return buffer.tell()

    def read(self) -> Iterator[Example]:
        """All examples that are there, in no particular order. Raises StorageError for a file that cannot be read."""
        for name in self.folder.names(self.place):
            if not name.endswith(".parquet"):
                continue
            try:
                with self.folder.filesystem.open_input_file(self.folder.path(name)) as stream:
                    yield from read_shard(stream)
            except (OSError, DataError) as error:
                reason = " ".join(str(error).split())[:200].rstrip(".")
                raise StorageError(f"cannot read {name} in {self.folder.location} ({reason}); delete it and run again.") from error

    def keys(self) -> set[Key]:
        """What is there."""
        return {key_of(example) for example in self.read()}

    def load(self) -> dict[Key, TopK]:
        """Everything, in memory: about 4 k bytes per learned token."""
        return {key_of(example): example.teacher_topk for example in self.read() if example.teacher_topk is not None}


def key_of(example: Example) -> Key:
    """The same for examples that read the same tokens and learn the same of them."""
    ids = np.asarray(example.input_ids, "<i4").tobytes()
    return blake2b(ids + np.asarray(example.loss_mask, bool).tobytes(), digest_size=16).digest()


def attach(examples: Iterable[Example], known: Mapping[Key, TopK]) -> list[Example]:
    """The examples with what is known of the teacher's distributions. Raises DataError where something is missing."""
    attached = [replace(example, teacher_topk=known.get(key_of(example))) for example in examples]
    missing = [example for example in attached if example.teacher_topk is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(attached)} examples, such as one of problem {missing[0].problem_id!r}, have no stored distributions: "
            "the collection has grown since; run the same command again to add them."
        )
    return attached
