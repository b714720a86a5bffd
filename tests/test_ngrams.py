"""n-gram tables against a naive count: probabilities, shards, files, and what is refused."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleave.decoding.ngram_counts import _in_processes, build, shards_of
from cleave.decoding.ngrams import NgramTables, Order
from cleave.errors import ConfigError, CountingError, DataError, StorageError
from tests.naive_ngrams import Naive

VOCABULARY = {"a": 0, "b": 1, "c": 2, "z": 300_000}
LAMBDAS = (0.1, 0.2, 0.3, 0.15, 0.25)

token = st.sampled_from([0, 1, 2, 5, 299_999])
texts_of_tokens = st.lists(st.lists(token, max_size=12), min_size=1, max_size=8).filter(lambda texts: sum(map(len, texts)) >= 2)


def tables_of(folder: Path, texts: Sequence[Sequence[int]], size: int = 10**6, **options: object) -> NgramTables:
    options = {"model": "hf:mine", "sources": ["notes.txt"], **options}
    return build(folder, shards_of(texts, size), VOCABULARY, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ngrams")


@given(texts=texts_of_tokens, prefixes=st.lists(st.lists(token, max_size=8), min_size=1, max_size=6), max_order=st.integers(2, 6))
@settings(max_examples=40)
def test_probabilities_equal_a_naive_count(folder: Path, texts: list[list[int]], prefixes: list[list[int]], max_order: int) -> None:
    tables, naive = tables_of(folder, texts, max_order=max_order), Naive(texts, max_order)
    candidates = np.tile(np.array([0, 1, 2, 5, 299_999, 7]), (len(prefixes), 1))
    found, after = tables.look_up(tables.contexts(prefixes), candidates, LAMBDAS)
    for row, prefix in enumerate(prefixes):
        expected = [naive.mixed(prefix, following, LAMBDAS) for following in candidates[row].tolist()]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-12)
        again = tables.contexts([[*prefix, following] for following in candidates[row].tolist()])
        np.testing.assert_array_equal(after[row], again, "a look-up also tells the contexts of the longer texts")


@given(texts=texts_of_tokens)
@settings(max_examples=20)
def test_probabilities_of_a_known_context_sum_to_one(folder: Path, texts: list[list[int]]) -> None:
    tables = tables_of(folder, texts, max_order=3)
    contexts = {tuple(text[i : i + 2]) for text in texts for i in range(len(text) - 2)}
    for context in contexts:
        shares, _ = tables.look_up(tables.contexts([context]), np.array([[0, 1, 2, 5, 299_999]]), (0.0, 1.0))
        assert shares.sum() == pytest.approx(1)


@given(texts=texts_of_tokens, size=st.integers(1, 20))
@settings(max_examples=30)
def test_shards_change_nothing(folder: Path, texts: list[list[int]], size: int) -> None:
    whole, parts = tables_of(folder, texts), tables_of(folder, texts, size)
    assert parts.info == whole.info
    assert_same(parts, whole)


def test_processes_change_nothing(tmp_path: Path) -> None:
    texts = np.random.default_rng(0).integers(0, 40, (60, 25)).tolist()
    heard: list[int] = []
    alone = tables_of(tmp_path, texts, name="alone", on_tokens=heard.append)
    several = tables_of(tmp_path, texts, 400, name="several", workers=2, on_tokens=heard.append)
    assert_same(several, alone)
    assert several.info.address == alone.info.address
    assert (heard[0], sum(heard)) == (1500, 3000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "several"], "nothing else is left behind"


class Deadly:
    """What ends the process that unpickles it, as the kernel does for want of memory."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (9,)


def test_a_process_that_dies_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(CountingError, match="lower --workers"):
        list(_in_processes([(Deadly(), 2, tmp_path / "0")], 2))  # type: ignore[list-item]


def test_tables_come_back_from_disk_mapped_and_small(tmp_path: Path) -> None:
    texts = np.random.default_rng(1).integers(0, 300, (200, 40)).tolist()
    written = tables_of(tmp_path, texts)
    assert written.place == str(tmp_path / written.info.address)
    opened = NgramTables.open(written.place)
    assert opened.info == written.info
    assert_same(opened, written)
    assert isinstance(opened.orders[0].keys.base, np.memmap)
    assert opened.info.bytes / sum(opened.info.distinct) < 40
    assert (opened.info.texts, opened.info.tokens) == (200, 8000)


def test_equal_content_has_one_address_and_other_content_another(tmp_path: Path) -> None:
    texts = [[0, 1, 2, 0, 1], [1, 2]]
    base = tables_of(tmp_path, texts).info.address
    assert tables_of(tmp_path, texts, model="hf:another name").info.address == base
    others = [
        tables_of(tmp_path, [[0, 1, 2, 0], [1, 1, 2]]),  # the same tokens, another border
        tables_of(tmp_path, texts, max_order=5),
        build(tmp_path, shards_of(texts), {"a": 0, "c": 1, "b": 2}, model="m", sources=[]),
    ]
    assert len({base, *(other.info.address for other in others)}) == 4


def test_a_vocabulary_of_256k_is_exact(tmp_path: Path) -> None:
    """Keys that differ only in high bits of context or token must not meet."""
    texts = [[262_143, 1, 262_143, 2], [131_071, 1, 131_071, 2], [0, 262_143], [1, 0, 0]]
    tables, naive = tables_of(tmp_path, texts), Naive(texts)
    candidates = np.array([[0, 1, 2, 131_071, 262_143]])
    for text in ([262_143, 1], [131_071], [0], [1], [2], [262_143, 1, 262_143]):
        found, _ = tables.look_up(tables.contexts([text]), candidates, LAMBDAS)
        assert found[0].tolist() == pytest.approx([naive.mixed(text, following, LAMBDAS) for following in candidates[0].tolist()])


def test_look_ups_of_many_drafts_at_once(tmp_path: Path) -> None:
    texts = np.random.default_rng(2).integers(0, 9, (30, 20)).tolist()
    tables = tables_of(tmp_path, texts)
    contexts = tables.contexts([text[:7] for text in texts[:12]]).reshape(3, 4, -1)
    candidates = np.random.default_rng(3).integers(0, 9, (3, 4, 5))
    found, after = tables.look_up(contexts, candidates, LAMBDAS)
    assert (found.shape, after.shape) == ((3, 4, 5), (3, 4, 5, 5))
    one, _ = tables.look_up(contexts[1, 2][None], candidates[1, 2][None], LAMBDAS)
    np.testing.assert_array_equal(found[1, 2], one[0])


def test_texts_too_short_for_an_order(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, [[0, 1], [2]])
    assert tables.info.distinct == (1, 0, 0, 0, 0)
    found, _ = NgramTables.open(tables.place).look_up(tables.contexts([[2, 0]]), np.array([[1, 2]]), LAMBDAS)
    assert found.tolist() == [[LAMBDAS[0], 0.0]]


@pytest.mark.parametrize("texts", [[], [[]], [[1]]], ids=["none", "empty", "one token"])
def test_too_few_tokens_are_refused(tmp_path: Path, texts: list[list[int]]) -> None:
    with pytest.raises(DataError, match="give other texts"):
        tables_of(tmp_path, texts)
    assert list(tmp_path.iterdir()) == []


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for options, says in (({"max_order": 7}, "from 2 to 6"), ({"max_order": 1}, "from 2 to 6"), ({"workers": 0}, "1 or more")):
        with pytest.raises(ConfigError, match=says):
            tables_of(tmp_path, [[0, 1]], **options)
    with pytest.raises(ConfigError, match="below 2097152"):
        build(tmp_path, shards_of([[0, 1]]), {"x": 2**21}, model="m", sources=[])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds no n-gram tables"):
        tables_of(tmp_path, [[0, 1]], name="mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="choose another place"):
        tables_of(tmp_path / "file", [[0, 1]])


def test_tables_are_replaced_whole(tmp_path: Path) -> None:
    tables_of(tmp_path, [[0, 1, 2]], name="t")
    newer = tables_of(tmp_path, [[2, 1, 0, 2]], name="t")
    assert_same(NgramTables.open(tmp_path / "t"), newer)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_tables_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, [[0, 1, 2]])
    tables.require(dict(reversed(VOCABULARY.items())), "hf:mine")
    with pytest.raises(ConfigError, match=r"tokenizer of hf:mine, which is not that of hf:yours; build tables"):
        tables.require({"a": 1, "b": 0, "c": 2, "z": 300_000}, "hf:yours")


@pytest.mark.parametrize("name", ["keys-2.npy", "counts-3.npy", "totals-6.npy"])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_corrupt_files_are_found(tmp_path: Path, name: str, harm: str) -> None:
    file = Path(tables_of(tmp_path, [[0, 1, 2, 0, 1, 2, 5]]).place) / name
    content = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if harm == "cut" else content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(DataError, match=rf"{name} is damaged or missing; build"):
        NgramTables.open(file.parent)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"address": 1}', "\xff"])
def test_a_corrupt_manifest_is_found(tmp_path: Path, content: str) -> None:
    folder = Path(tables_of(tmp_path, [[0, 1, 2]]).place)
    (folder / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match="no manifest of n-gram tables; build them again"):
        NgramTables.open(folder)


def test_other_formats_and_missing_tables(tmp_path: Path) -> None:
    folder = Path(tables_of(tmp_path, [[0, 1, 2]]).place)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(DataError, match="format 99"):
        NgramTables.open(folder)
    with pytest.raises(ConfigError, match="no n-gram tables at"):
        NgramTables.open(tmp_path / "nowhere")


def test_no_pickle_is_read(tmp_path: Path) -> None:
    """A file of Python objects with the right size and hash in the manifest is refused, not loaded."""
    from cleave.lm.revision import content_hash

    folder = Path(tables_of(tmp_path, [[0, 1, 2]]).place)
    np.save(folder / "keys-2.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["keys-2.npy"] = [(folder / "keys-2.npy").stat().st_size, content_hash(folder / "keys-2.npy")]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="cannot be read"):
        NgramTables.open(folder)


def assert_same(some: NgramTables, others: NgramTables) -> None:
    assert len(some.orders) == len(others.orders)
    for one, other in zip(some.orders, others.orders, strict=True):
        for part in Order.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
