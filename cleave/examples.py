"""Training examples: token ids with a mask of what is learned, built from texts in batches, stored as Parquet shards.

An example is a prompt followed by a target and the end token; the loss lies on the target and the end token only. Prompt and target
are tokenised apart, as they are when a model answers a prompt, so that training and generation see the same tokens.

    examples = Encoder(tokenizer, max_length=512)([Pair(Prompt(text="Question: 2 + 3?\\nAnswer:\\n"), "#### 5\\n", problem_id="p1")])
    digest = write_shard("examples-00000.parquet", examples)
    for example in read_shard("examples-00000.parquet"): ...

Left out: which texts a role is trained on (pipelines/formats.py), the order of examples (curriculum/), batches (packing.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cleave.errors import ConfigError, DataError, StorageError
from cleave.types import Prompt

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

SCHEMA_VERSION = "3"
_VERSION_KEY = b"cleave.examples.version"
_DIGEST_KEY = b"cleave.examples.sha256"

_WIDEST_SHORT = 2**16
"""Vocabularies up to this size have ids of two bytes."""


@dataclass(frozen=True)
class TopK:
    """What is kept of a teacher's distributions: per learned token the k most likely tokens, best first, and the rest as one.

    `ids` are k little-endian integers per token, of two bytes, or four where the vocabulary needs them; `logprobs` k + 1 of float16, the
    last of all other tokens together. It is stored, because rounding makes 1 − Σ p wrong by up to 2e-4.
    """

    k: int
    ids: bytes
    logprobs: bytes

    @classmethod
    def of(cls, ids: npt.NDArray[Any], logprobs: npt.NDArray[Any], vocabulary: int) -> TopK:
        """From ids [n, k] and log-probabilities [n, k + 1] of n tokens, in a vocabulary of that size."""
        kind = "<u2" if vocabulary <= _WIDEST_SHORT else "<u4"
        return cls(ids.shape[1], ids.astype(kind).tobytes(), logprobs.astype("<f2").tobytes())

    def __len__(self) -> int:
        return len(self.logprobs) // (2 * (self.k + 1))

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens together."""
        return len(self.ids) + len(self.logprobs)

    def tokens(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Token ids [n, k], a view."""
        import numpy as np

        short = len(self.ids) == 2 * self.k * len(self)
        return np.frombuffer(self.ids, "<u2" if short else "<u4").reshape(len(self), self.k)

    def values(self) -> npt.NDArray[np.float16]:
        """Log-probabilities [n, k + 1], a view."""
        import numpy as np

        return np.frombuffer(self.logprobs, "<f2").reshape(len(self), self.k + 1)


@dataclass(frozen=True)
class Example:
    """One training sequence. `loss_mask[i]` says whether the model learns to predict `input_ids[i]` from what precedes it.

    `weight` multiplies the loss of all its tokens. `group` names what a margin loss compares, '' for nothing; `label` is a verifier's
    target in [0, 1], None elsewhere. `teacher` says which of a run's teachers it is compared with; `teacher_topk` has an entry
    per token with a set mask but the very first, which nothing precedes; None where no distributions are stored. `segments` are the
    lengths of several sequences that make up one example, side by side and blind to each other, such as the two that a margin loss
    compares; () for one.
    """

    input_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    weight: float = 1.0
    problem_id: str = ""
    skill: str = ""
    depth: int = 0
    group: str = ""
    label: float | None = None
    teacher: int = 0
    teacher_topk: TopK | None = None
    segments: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def targets(self) -> int:
        """Number of tokens that are learned."""
        return sum(self.loss_mask)


@dataclass(frozen=True)
class Pair:
    """A prompt and the reply to learn, as text. With `learn_prompt` the prompt's tokens are learned too (all but the first)."""

    prompt: Prompt
    target: str
    weight: float = 1.0
    problem_id: str = ""
    skill: str = ""
    depth: int = 0
    group: str = ""
    label: float | None = None
    learn_prompt: bool = False
    teacher: int = 0


class Encoder:
    """Pairs in, examples out, in order; pairs longer than `max_length` tokens are dropped and counted in `dropped`."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no end token, so a reply could never end; set eos_token in its tokenizer_config.json.")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.dropped = 0

    def __call__(self, pairs: Sequence[Pair]) -> list[Example]:
        prompts = self.prompt_ids([pair.prompt for pair in pairs])
        targets = self._ids([pair.target for pair in pairs], special=False)
        examples = [self._join(*parts) for parts in zip(pairs, prompts, targets, strict=True)]
        kept = [example for example in examples if len(example) <= self.max_length]
        self.dropped += len(examples) - len(kept)
        return kept

    def _join(self, pair: Pair, prompt: Sequence[int], target: Sequence[int]) -> Example:
        ids = (*prompt, *target, self.tokenizer.eos_token_id)
        start = min(1, len(prompt)) if pair.learn_prompt else len(prompt)
        mask = (False,) * start + (True,) * (len(ids) - start)
        return Example(ids, mask, pair.weight, pair.problem_id, pair.skill, pair.depth, pair.group, pair.label, pair.teacher)

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """As at generation: text gets the tokenizer's own special tokens, a chat template writes them itself; no end token."""
        from cleave.lm.tokens import prompt_text

        chat = self._ids([prompt_text(self.tokenizer, prompt) for prompt in prompts if prompt.messages], special=False)
        text = self._ids([prompt.text or "" for prompt in prompts if not prompt.messages], special=True)
        found = {True: iter(chat), False: iter(text)}
        ids = [next(found[bool(prompt.messages)]) for prompt in prompts]
        end = self.tokenizer.eos_token_id
        return [one[:-1] if one and one[-1] == end else one for one in ids]

    def _ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False)
        return [list(ids) for ids in encoded["input_ids"]]


def schema() -> pa.Schema:
    """The Parquet schema of a shard; its version is in the metadata."""
    import pyarrow as pa

    topk = pa.struct([("k", pa.int32()), ("ids", pa.binary()), ("logprobs", pa.binary())])
    return pa.schema(
        [
            pa.field("input_ids", pa.list_(pa.int32())),
            pa.field("loss_mask", pa.list_(pa.bool_())),
            pa.field("weight", pa.float64()),
            pa.field("problem_id", pa.string()),
            pa.field("skill", pa.string()),
            pa.field("depth", pa.int32()),
            pa.field("group", pa.string()),
            pa.field("label", pa.float64()),
            pa.field("teacher", pa.int32()),
            pa.field("teacher_topk", topk),
            pa.field("segments", pa.list_(pa.int32())),
        ],
        metadata={_VERSION_KEY: SCHEMA_VERSION.encode()},
    )


def write_shard(file: str | Path | IO[bytes], examples: Iterable[Example]) -> str:
    """Write one Parquet file and return the sha256 of its examples, which does not depend on compression or library version.

    Raises StorageError where the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(examples)
    digest = content_hash(rows)
    own = schema()
    table = pa.Table.from_pylist([asdict(example) for example in rows], schema=own)
    table = table.replace_schema_metadata({**own.metadata, _DIGEST_KEY: digest.encode()})
    try:
        pq.write_table(table, file, compression="zstd")
    except OSError as error:
        raise StorageError(f"cannot write the examples to {file}: {error}; free space or choose another folder.") from error
    return digest


def read_shard(file: str | Path | IO[bytes], *, check: bool = False) -> Iterator[Example]:
    """Yield the examples of a file, one row group at a time.

    Raises DataError for a file that is missing, no Parquet, of another schema version, or (`check`) of another content hash.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"cannot read the examples in {file}: {error}.") from error
    with parquet:
        metadata = parquet.schema_arrow.metadata or {}
        version = metadata.get(_VERSION_KEY, b"").decode()
        if version != SCHEMA_VERSION:
            found = f"schema version {version}" if version else "no examples of Cleave"
            raise DataError(f"{file} holds {found}, this program reads version {SCHEMA_VERSION}; write the examples again.")
        digest = hashlib.sha256()
        for batch in parquet.iter_batches():
            for row in batch.to_pylist():
                example = _example(row)
                digest.update(_canonical(example))
                yield example
    if check and digest.hexdigest() != metadata.get(_DIGEST_KEY, b"").decode():
        raise DataError(f"the examples in {file} are not those that were written; write them again.")


def content_hash(examples: Iterable[Example]) -> str:
    """sha256 over the examples in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(_canonical(example))
    return digest.hexdigest()


def _canonical(example: Example) -> bytes:
    return repr(example).encode()


def _example(row: dict[str, Any]) -> Example:
    topk = row["teacher_topk"]
    if topk is not None:
        row["teacher_topk"] = TopK(**topk)
    row["input_ids"] = tuple(row["input_ids"])
    row["loss_mask"] = tuple(row["loss_mask"])
    row["segments"] = tuple(row["segments"])
    return Example(**row)
