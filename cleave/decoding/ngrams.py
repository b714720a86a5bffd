"""n-gram tables: how often which token followed which tokens in a corpus, as sorted integer arrays on disk, looked up for whole batches.

    tables = NgramTables.open("runs/ngrams/9f2c…")
    contexts = tables.contexts([[5, 6, 7]])                                              # (1, orders): what each text ends with
    probabilities, after = tables.look_up(contexts, np.array([[8, 9]]), weights=[.4, .6])  # both tokens, and the contexts they make

An n-gram's key is (the rank of its first n - 1 tokens among the (n-1)-grams, its last token) in one 64-bit integer; a single token is its
own rank. So keys are exact for any vocabulary, an order is one sorted array, and the place where an n-gram is found is the context of
the next order: each step searches every order once. 16 bytes per n-gram. p(x | context) = count / count of the context with any token
after it. Left out: counting (ngram_counts.py), smoothing between orders (frontier.py weighs them).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from cleave.errors import ConfigError, DataError
from cleave.lm.revision import content_hash

FORMAT = 1
MANIFEST = "manifest.json"
TOKEN_BITS = 21
"""Bits of a key that hold its last token; the other 42 of a positive 64-bit integer hold its context."""
PARTS = ("keys", "counts", "totals")
LOWEST, HIGHEST = 2, 6
"""Orders of n-grams that can be counted."""

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
U32 = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Order:
    """The n-grams of one order: `keys` ascending, `counts` beside them; `totals` by rank of the context."""

    keys: I64
    counts: U32
    totals: U32

    def find(self, contexts: I64, tokens: I64) -> I64:
        """The rank of each n-gram, -1 where it did not occur. `contexts` are ranks, -1 for an unknown one."""
        wanted = contexts << TOKEN_BITS | tokens  # negative for an unknown context or token: no such key
        if not len(self.keys):
            return np.full(wanted.shape, -1, np.int64)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[places] == wanted, places, -1)

    def probabilities(self, contexts: I64, found: I64) -> F64:
        """count / total of the n-grams at ranks `found` with their contexts; 0 where there is none."""
        known = found >= 0
        shares = np.zeros(found.shape)
        shares[known] = self.counts[found[known]] / self.totals[np.broadcast_to(contexts, found.shape)[known]]
        return shares


@dataclass(frozen=True)
class TableInfo:
    """What a table was counted from; its manifest. `address` is the hash of the tokenizer, the corpus and the orders.

    `tokenizer` is the vocabulary's hash, `corpus` that of all token ids with the borders of the texts. `files` holds each file's size in
    bytes and content hash.
    """

    address: str
    tokenizer: str
    corpus: str
    model: str
    sources: tuple[str, ...]
    texts: int
    tokens: int
    max_order: int
    distinct: tuple[int, ...]
    files: Mapping[str, tuple[int, str]]
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.files.values())


class NgramTables:
    """Tables of orders 2 to `info.max_order`, memory-mapped."""

    def __init__(self, orders: Sequence[Order], info: TableInfo, place: str = "memory") -> None:
        self.orders = tuple(orders)
        self.info = info
        self.place = place

    @classmethod
    def open(cls, folder: str | Path) -> NgramTables:
        """Read tables written by `write_tables`. Raises ConfigError where there are none, DataError for files that are not what was
        written."""
        place = Path(folder).expanduser()
        info = read_info(place)
        for name, (size, digest) in info.files.items():
            file = place / name
            if not file.is_file() or file.stat().st_size != size or content_hash(file) != digest:
                raise DataError(f"the n-gram table {file} is damaged or missing; build the tables again with `cleave ngrams build`.")
        return cls([_mapped(place, order) for order in range(LOWEST, info.max_order + 1)], info, str(folder))

    def require(self, vocabulary: Mapping[str, int], model: str) -> None:
        """Raise ConfigError unless the tables were counted in tokens of this vocabulary."""
        if vocabulary_hash(vocabulary) != self.info.tokenizer:
            raise ConfigError(
                f"the n-gram tables {self.place} were counted with the tokenizer of {self.info.model}, which is not that of {model}; "
                f"build tables with `cleave ngrams build {model} …`."
            )

    def contexts(self, sequences: Sequence[Sequence[int]]) -> I64:
        """(texts, orders): column j holds the rank of the last j + 1 tokens of each text, -1 where they are unknown or too few."""
        width = len(self.orders)
        last = [list(sequence[-width:]) for sequence in sequences]
        padded = np.array([[-1] * (width - len(tokens)) + tokens for tokens in last], dtype=np.int64).reshape(-1, width)
        ranks = np.full(padded.shape, -1, dtype=np.int64)
        for column in range(width):
            _, after = self.look_up(ranks, padded[:, column : column + 1], ())
            ranks = after[:, 0]
        return ranks

    def look_up(self, contexts: I64, tokens: I64, weights: Sequence[float]) -> tuple[F64, I64]:
        """Σ λ_n p(token | last n - 1 tokens) for candidate tokens (…, C) after texts with `contexts` (…, orders), λ from order 2 on; and
        the contexts (…, C, orders) of the texts with each candidate appended."""
        total = np.zeros(tokens.shape)
        after = np.full((*tokens.shape, len(self.orders)), -1, dtype=np.int64)
        after[..., 0] = tokens
        for place, order in enumerate(self.orders):
            context = contexts[..., place, None]
            found = order.find(context, tokens)
            if place < len(weights):
                total += weights[place] * order.probabilities(context, found)
            if place + 1 < len(self.orders):
                after[..., place + 1] = found
        return total, after


def write_tables(folder: Path, orders: Sequence[Order], **facts: object) -> TableInfo:
    """Write the arrays and their manifest into an existing folder. `facts` are the fields of TableInfo that the arrays do not tell."""
    files = {}
    for number, order in enumerate(orders, start=LOWEST):
        for part in PARTS:
            file = folder / f"{part}-{number}.npy"
            np.save(file, getattr(order, part), allow_pickle=False)
            files[file.name] = (file.stat().st_size, content_hash(file))
    distinct = [len(order.keys) for order in orders]
    info = _validated({**facts, "files": files, "distinct": distinct, "max_order": len(orders) + LOWEST - 1})
    (folder / MANIFEST).write_text(json.dumps(asdict(info), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return info


def read_info(folder: Path) -> TableInfo:
    """The manifest. Raises ConfigError where there are no tables, DataError for a manifest that cannot be understood."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigError(f"there are no n-gram tables at {folder}; build some with `cleave ngrams build`.")
    try:
        info = _validated(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:  # ValueError: JSON, UTF-8, pydantic
        raise DataError(f"{path} is no manifest of n-gram tables; build them again with `cleave ngrams build`.") from error
    if info.format != FORMAT:
        raise DataError(f"{path} is of format {info.format} and this version reads {FORMAT}; build the tables again.")
    return info


def vocabulary_hash(vocabulary: Mapping[str, int]) -> str:
    """Hash of which token has which id: tables hold ids, so that is what has to agree."""
    listed = sorted((place, token) for token, place in vocabulary.items())
    return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()


def address(tokenizer: str, corpus: str, max_order: int) -> str:
    """Sixteen hexadecimal digits for what tables are counted from."""
    return hashlib.sha256(json.dumps([FORMAT, tokenizer, corpus, max_order]).encode()).hexdigest()[:16]


def _mapped(folder: Path, order: int) -> Order:
    try:
        keys, counts, totals = (np.load(folder / f"{part}-{order}.npy", mmap_mode="r", allow_pickle=False) for part in PARTS)
    except (OSError, ValueError) as error:
        raise DataError(f"the n-gram tables of order {order} in {folder} cannot be read; build them again.") from error
    return Order(np.asarray(keys), np.asarray(counts), np.asarray(totals))


def _validated(data: object) -> TableInfo:
    return TypeAdapter(TableInfo).validate_python(data)
