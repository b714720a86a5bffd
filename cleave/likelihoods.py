"""Stored likelihoods: how well the question of a problem follows from a trace, beside the collection that the trace is from.

    reconstruction/9f2c…/made_with.json     the reconstructor's revision and prompts: what the folder's name is the hash of
    reconstruction/9f2c…/*.parquet          one row per trace

A row is found by question, plan, steps and answer alone, so that several students share what was asked, and a scoring that was stopped
goes on. Files appear whole. Left out: asking the reconstructor (pipelines/reconstruction.py), choosing (screening.py).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cleave.collection import recipe_hash
from cleave.errors import DataError, StorageError
from cleave.runs import RunFolder
from cleave.screening import Likelihood
from cleave.types import Problem

PLACE = "reconstruction"
MADE_WITH = "made_with.json"
SCHEMA = pa.schema([("key", pa.binary(16)), ("logprob", pa.float64())])

Key = bytes
"""Sixteen bytes for a question and what led to its answer."""


class Likelihoods:
    """What one reconstructor, described by `made_with`, said of the traces in a run folder. Values are log-probabilities per token."""

    def __init__(self, folder: RunFolder, made_with: Mapping[str, Any]) -> None:
        self.folder = folder
        self.made_with = dict(made_with)
        self.place = f"{PLACE}/{recipe_hash(self.made_with)}"

    def write(self, found: Mapping[Key, float]) -> None:
        """Add some as one file. Raises StorageError."""
        if not self.folder.exists(f"{self.place}/{MADE_WITH}"):
            self.folder.write_text(f"{self.place}/{MADE_WITH}", json.dumps(self.made_with, indent=2) + "\n")
        table = pa.table([list(found), list(found.values())], schema=SCHEMA)
        with self.folder.writing(f"{self.place}/{time.time_ns():020d}-{uuid.uuid4().hex[:6]}.parquet") as stream:
            pq.write_table(table, stream)

    def load(self) -> dict[Key, float]:
        """Everything, in memory. Raises StorageError for a file that cannot be read."""
        found: dict[Key, float] = {}
        for name in self.folder.names(self.place):
            if not name.endswith(".parquet"):
                continue
            try:
                with self.folder.filesystem.open_input_file(self.folder.path(name)) as stream:
                    columns = pq.read_table(stream, schema=SCHEMA).to_pydict()
            except (OSError, pa.ArrowException) as error:
                reason = " ".join(str(error).split())[:200].rstrip(".")
                raise StorageError(f"cannot read {name} in {self.folder.location} ({reason}); delete it and run again.") from error
            found.update(zip(columns["key"], columns["logprob"], strict=True))
        return found

    def lookup(self) -> Likelihood:
        """What is stored, by problem as the teacher sees it. The function raises DataError for a trace that was not scored."""
        known = self.load()

        def likelihood(problem: Problem) -> float:
            if (found := known.get(key_of(problem))) is None:
                raise DataError(
                    f"a trace of problem {problem.id!r} in {self.folder.location} has no stored likelihood: the collection has grown "
                    "since; run the same command again to add it."
                )
            return found

        return likelihood


def key_of(problem: Problem) -> Key:
    """The same for equal questions with equal plans, steps and answers."""
    plan = None if problem.gold_plan is None else problem.gold_plan.text
    content = json.dumps([problem.context, problem.question, plan, [step.text for step in problem.gold_steps], problem.answer])
    return blake2b(content.encode(), digest_size=16).digest()
