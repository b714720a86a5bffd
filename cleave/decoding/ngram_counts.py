"""Counting n-grams: shards of tokens to sorted arrays, in processes where there are several shards, merged and written as tables.

    shards = shards_of(encoded_texts)                         # streamed; an n-gram never crosses the border of a text
    tables = build(Path("runs/ngrams"), shards, tokenizer.get_vocab(), model="reference:base", sources=["notes.txt"])

A shard is counted order by order: the n-grams are those of the order before with one more token, so one sort of 64-bit keys per order does
it. Shards number their n-grams each for itself; merging renumbers them, which keeps their order, so that merged arrays stay sorted.
Memory: about 100 bytes per token of a shard in each process, and about 40 bytes per distinct n-gram while merging.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cleave.decoding.ngrams import (
    HIGHEST,
    I64,
    LOWEST,
    MANIFEST,
    TOKEN_BITS,
    NgramTables,
    Order,
    address,
    vocabulary_hash,
    write_tables,
)
from cleave.errors import ConfigError, CountingError, DataError, StorageError

SHARD_TOKENS = 2_000_000
"""Tokens that one process counts at a time."""
MOST_COUNTED = 2**32 - 1
"""Counts are 32-bit integers, and no count exceeds the number of tokens."""


class Shard(NamedTuple):
    """Some texts: their tokens in a row, and how many each has."""

    tokens: npt.NDArray[np.int32]
    lengths: I64


class Counted(NamedTuple):
    """The n-grams of one order in one shard: keys ascending, counts."""

    keys: I64
    counts: I64


def shards_of(texts: Iterable[Sequence[int]], size: int = SHARD_TOKENS) -> Iterator[Shard]:
    """Texts in shards of about `size` tokens."""
    rest = iter(texts)
    while some := list(_until(rest, size)):
        tokens = np.fromiter(chain.from_iterable(some), np.int32, sum(map(len, some)))
        yield Shard(tokens, np.array([len(text) for text in some], np.int64))


def count(shard: Shard, max_order: int) -> list[Counted]:
    """The n-grams of orders 2 to `max_order`."""
    ends = np.repeat(np.cumsum(shard.lengths), shard.lengths)
    starts = np.arange(len(shard.tokens))
    ranks = shard.tokens.astype(np.int64)
    orders = []
    for order in range(LOWEST, max_order + 1):
        fits = starts + order <= ends[starts]
        starts, ranks = starts[fits], ranks[fits]
        keys, ranks, counts = _distinct(ranks << TOKEN_BITS | shard.tokens[starts + order - 1])
        orders.append(Counted(keys, counts))
    return orders


def merge(parts: Sequence[Sequence[Counted]]) -> list[Counted]:
    """The n-grams of several shards as if they were one."""
    merged: list[Counted] = []
    ranks: list[I64] | None = None  # of each part's n-grams of the order before, among all; tokens are their own
    for counted in zip(*parts, strict=True):
        keys = [part.keys if ranks is None else _renumbered(part.keys, ranks[i]) for i, part in enumerate(counted)]
        distinct, places, _ = _distinct(np.concatenate(keys))
        counts = np.zeros(len(distinct), np.int64)
        ranks = np.split(places, np.cumsum([len(part.keys) for part in counted])[:-1])
        for part, into in zip(counted, ranks, strict=True):
            counts[into] += part.counts  # the places of one part are distinct
        merged.append(Counted(distinct, counts))
    return merged


def with_totals(orders: Sequence[Counted], highest_token: int) -> list[Order]:
    """Counted n-grams as tables."""
    contexts = [highest_token + 1, *(len(order.keys) for order in orders)]
    return [_order(order, size) for order, size in zip(orders, contexts, strict=False)]


def build(
    folder: Path,
    shards: Iterable[Shard],
    vocabulary: Mapping[str, int],
    *,
    model: str,
    sources: Sequence[str],
    name: str | None = None,
    max_order: int = HIGHEST,
    workers: int = 1,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> NgramTables:
    """Count shards and write tables to `folder`/`name`, or under their address without a name; tables that are there are replaced.

    `on_tokens` hears how many more tokens were counted. The tables appear whole or not at all. Raises ConfigError for options that cannot
    be, DataError for too few or too many tokens, CountingError where a process dies, StorageError if the disk refuses.
    """
    _check(folder, name, vocabulary, max_order, workers)
    tally = _Tally()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".ngrams-", dir=folder) as scratch:
            parts = _count_all(tally.watch(shards), max_order, workers, Path(scratch), on_tokens)
            orders = with_totals(_whole(parts, tally.tokens), tally.highest)
            tokenizer, corpus = vocabulary_hash(vocabulary), tally.hash
            facts = {"address": address(tokenizer, corpus, max_order), "tokenizer": tokenizer, "corpus": corpus, "model": model}
            written = Path(scratch) / "tables"
            written.mkdir()
            info = write_tables(written, orders, **facts, sources=tuple(sources), texts=tally.texts, tokens=tally.tokens)
            return NgramTables(orders, info, str(_moved(written, folder / (name or info.address))))
    except OSError as error:
        raise StorageError(f"cannot write n-gram tables in {folder} ({error.strerror or error}); choose another place.") from error


class _Tally:
    """What has gone by. The hash covers every token and the borders of texts, and not how they were cut into shards."""

    def __init__(self) -> None:
        self.texts = self.tokens = self.highest = 0
        self._digests = hashlib.sha256(), hashlib.sha256()

    @property
    def hash(self) -> str:
        tokens, lengths = self._digests
        return hashlib.sha256(tokens.digest() + lengths.digest()).hexdigest()

    def watch(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        for shard in shards:
            self.texts += len(shard.lengths)
            self.tokens += len(shard.tokens)
            self.highest = max(self.highest, int(shard.tokens.max(initial=0)))
            self._digests[0].update(shard.tokens.astype("<i4").tobytes())
            self._digests[1].update(shard.lengths.astype("<i8").tobytes())
            yield shard


def _check(folder: Path, name: str | None, vocabulary: Mapping[str, int], max_order: int, workers: int) -> None:
    if not LOWEST <= max_order <= HIGHEST:
        raise ConfigError(f"n-grams of order {max_order} cannot be counted; give a highest order from {LOWEST} to {HIGHEST}.")
    if workers < 1:
        raise ConfigError(f"{workers} processes cannot count; give 1 or more.")
    if max(vocabulary.values(), default=0) >> TOKEN_BITS:
        raise ConfigError(f"n-gram tables hold token ids below {1 << TOKEN_BITS}, and this tokenizer has higher ones; choose another.")
    if name is not None and (folder / name).exists() and not (folder / name / MANIFEST).is_file():
        raise ConfigError(f"{folder / name} is there and holds no n-gram tables; choose another place.")


def _count_all(
    shards: Iterator[Shard], max_order: int, workers: int, scratch: Path, on_tokens: Callable[[int], None]
) -> list[list[Counted]]:
    """The parts, those of several shards in files of `scratch`."""
    first = list(islice(shards, 2))
    if len(first) < 2:
        parts = [count(shard, max_order) for shard in first]
        on_tokens(sum(len(shard.tokens) for shard in first))
        return parts
    jobs = ((shard, max_order, scratch / str(number)) for number, shard in enumerate(chain(first, shards)))
    done = (_count_to(*job) for job in jobs) if workers == 1 else _in_processes(jobs, workers)
    paths = []
    for path, tokens in done:
        paths.append(path)
        on_tokens(tokens)
    return [_read_part(path, max_order) for path in paths]


def _in_processes(jobs: Iterable[tuple[Shard, int, Path]], workers: int) -> Iterator[tuple[Path, int]]:
    """Count in processes, in order, with at most two shards per process in memory. Spawned: a fork would copy torch's locked threads."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting: deque[Future[tuple[Path, int]]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(_count_to, *job))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise CountingError("a process that counts n-grams died, probably for want of memory; lower --workers.") from error
        finally:
            for future in waiting:
                future.cancel()


def _count_to(shard: Shard, max_order: int, path: Path) -> tuple[Path, int]:
    """Count one shard into files; returns their folder and the number of tokens."""
    path.mkdir()
    for order, counted in enumerate(count(shard, max_order), start=LOWEST):
        for part, values in counted._asdict().items():
            np.save(path / f"{part}-{order}.npy", values, allow_pickle=False)
    return path, len(shard.tokens)


def _read_part(path: Path, max_order: int) -> list[Counted]:
    def read(part: str, order: int) -> I64:
        return np.asarray(np.load(path / f"{part}-{order}.npy", mmap_mode="r", allow_pickle=False))

    return [Counted(read("keys", order), read("counts", order)) for order in range(LOWEST, max_order + 1)]


def _whole(parts: Sequence[Sequence[Counted]], tokens: int) -> Sequence[Counted]:
    if not LOWEST <= tokens <= MOST_COUNTED:
        raise DataError(f"the texts have {tokens} tokens, and tables are made of {LOWEST} to {MOST_COUNTED}; give other texts.")
    return merge(parts) if len(parts) > 1 else parts[0]


def _moved(written: Path, target: Path) -> Path:
    """Put the tables in their place; older ones leave with the scratch folder, readers of these keep what they have mapped."""
    if target.exists():
        target.rename(written.parent / "replaced")
    return written.rename(target)


def _until(texts: Iterator[Sequence[int]], size: int) -> Iterator[Sequence[int]]:
    """Texts until they have `size` tokens."""
    taken = 0
    for text in texts:
        yield text
        taken += len(text)
        if taken >= size:
            return


def _distinct(keys: I64) -> tuple[I64, I64, I64]:
    """The distinct keys ascending, the place of each key among them, and how often each occurs."""
    order = np.argsort(keys, kind="stable")  # linear in what is sorted already, such as parts that are merged
    ordered = keys[order]
    is_new = np.ones(len(keys), bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    places = np.empty(len(keys), np.int64)
    places[order] = np.cumsum(is_new) - 1
    counts = np.diff(np.append(np.flatnonzero(is_new), len(keys)))
    return ordered[is_new], places, counts


def _renumbered(keys: I64, ranks: I64) -> I64:
    renumbered: I64 = ranks[keys >> TOKEN_BITS] << TOKEN_BITS | keys & ((1 << TOKEN_BITS) - 1)
    return renumbered


def _order(counted: Counted, contexts: int) -> Order:
    totals = np.bincount(counted.keys >> TOKEN_BITS, weights=counted.counts, minlength=contexts)  # floats, exact below 2^53
    return Order(counted.keys, counted.counts.astype(np.uint32), totals.astype(np.uint32))
