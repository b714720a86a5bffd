"""Examples: what is learned and what is not, and shards that give back exactly what was written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleave.errors import ConfigError, DataError
from cleave.examples import Encoder, Example, Pair, TopK, content_hash, read_shard, schema, write_shard
from cleave.types import Message, Prompt

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=30)


@given(st.lists(st.tuples(texts, texts), max_size=5))
@settings(max_examples=30, deadline=None)
def test_only_the_target_and_the_end_token_are_learned(tiny_tokenizer: Any, parts: list[tuple[str, str]]) -> None:
    examples = Encoder(tiny_tokenizer, max_length=1000)([Pair(Prompt(text=prompt), target) for prompt, target in parts])
    for (prompt, target), example in zip(parts, examples, strict=True):
        learned = [token for token, on in zip(example.input_ids, example.loss_mask, strict=True) if on]
        given_ids = [token for token, on in zip(example.input_ids, example.loss_mask, strict=True) if not on]
        assert tiny_tokenizer.decode(given_ids) == prompt
        assert learned[-1] == tiny_tokenizer.eos_token_id
        assert tiny_tokenizer.decode(learned[:-1]) == target
        assert example.targets == len(learned)


def test_learning_the_prompt_leaves_out_only_the_first_token(tiny_tokenizer: Any) -> None:
    [example] = Encoder(tiny_tokenizer, 100)([Pair(Prompt(text="ab"), "c", learn_prompt=True)])
    assert example.loss_mask == (False, True, True, True)


def test_too_long_examples_are_dropped_and_counted(tiny_tokenizer: Any) -> None:
    encoder = Encoder(tiny_tokenizer, max_length=5)
    examples = encoder([Pair(Prompt(text="ab"), "cd"), Pair(Prompt(text="ab"), "cde")])
    assert [len(example) for example in examples] == [5]
    assert encoder.dropped == 1


def test_chat_prompts_go_through_the_template_and_keep_their_places(tiny_tokenizer: Any) -> None:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<reply>"
    chat = Pair(Prompt(messages=(Message("user", "hi"),)), "x")
    examples = Encoder(tokenizer, 100)([Pair(Prompt(text="a"), "x"), chat, Pair(Prompt(text="b"), "x")])
    prompts = [tokenizer.decode([token for token, on in zip(one.input_ids, one.loss_mask, strict=True) if not on]) for one in examples]
    assert prompts == ["a", "<user>hi<reply>", "b"]


def test_a_tokenizer_without_end_token_is_refused(tiny_tokenizer: Any) -> None:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="eos_token"):
        Encoder(tokenizer, 10)


def make_examples() -> list[Example]:
    plain = Example((5, 6, 7), (False, True, True), weight=0.5, problem_id="p1", skill="add", depth=2)
    paired = replace(plain, group="g1", label=1.0, problem_id="p2")
    taught = replace(plain, teacher=1, teacher_topk=make_topk([[6, 9], [7, 6]], [[-0.25, -1.5, -9.0], [-0.125, -2.5, -7.0]]))
    return [plain, paired, taught]


def make_topk(ids: list[list[int]], logprobs: list[list[float]], vocabulary: int = 100) -> TopK:
    return TopK.of(np.array(ids), np.array(logprobs), vocabulary)


@pytest.mark.parametrize(("vocabulary", "bytes_per_token"), [(65_536, 10), (65_537, 14)])
def test_stored_distributions_are_compact_and_come_back(vocabulary: int, bytes_per_token: int) -> None:
    ids = [[vocabulary - 1, 3], [7, 0], [1, 2]]
    logprobs = [[-0.1, -2.4, -10.5], [0.0, -60.0, -np.inf], [-1.0, -1.1, -1.2]]
    topk = make_topk(ids, logprobs, vocabulary)
    assert (len(topk), topk.nbytes) == (3, 3 * bytes_per_token)
    assert topk.tokens().tolist() == ids
    np.testing.assert_allclose(topk.values(), logprobs, rtol=1e-3)
    assert len(make_topk([[5]], [[0.0, -9.0]], vocabulary)) == 1


def test_a_shard_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "examples.parquet"
    digest = write_shard(path, make_examples())
    assert list(read_shard(path, check=True)) == make_examples()
    assert digest == content_hash(make_examples())


def test_the_hash_sees_every_field() -> None:
    example = make_examples()[0]
    changes: list[dict[str, Any]] = [
        {"input_ids": (5, 6, 8)},
        {"loss_mask": (False, False, True)},
        {"weight": 1.0},
        {"problem_id": "q"},
        {"skill": "sub"},
        {"depth": 3},
        {"group": "g"},
        {"label": 0.0},
        {"teacher": 1},
        {"teacher_topk": make_topk([[6], [7]], [[-0.25, -2.0], [-0.5, -1.0]])},
        {"teacher_topk": make_topk([[6], [7]], [[-0.25, -2.0], [-0.5, -1.5]])},
    ]
    hashes = {content_hash([replace(example, **change)]) for change in changes}
    assert len(hashes | {content_hash([example])}) == len(changes) + 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(DataError, match="cannot read"):
        list(read_shard(path))
    path.write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="cannot read"):
        list(read_shard(path))
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(DataError, match="no examples of Cleave"):
        list(read_shard(path))


def test_changed_content_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_shard(path, make_examples())
    table = pq.read_table(path)
    assert table.schema.remove_metadata() == schema().remove_metadata()
    pq.write_table(table.slice(1).replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(DataError, match="not those that were written"):
        list(read_shard(path, check=True))
