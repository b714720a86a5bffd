"""Batches: nothing is lost, rows hold what fits, and no example sees another, packed or padded, in any mode."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from cleave.examples import Example, TopK
from cleave.packing import fit_rows, pack, pad, split_evenly

VOCABULARY = 50
lengths = st.lists(st.integers(1, 20), min_size=1, max_size=30)


def make_examples(sizes: list[int], seed: int = 0) -> list[Example]:
    rng = random.Random(seed)
    examples = []
    for index, size in enumerate(sizes):
        start = rng.randint(1, size)
        ids = tuple(rng.randrange(VOCABULARY) for _ in range(size))
        examples.append(Example(ids, tuple(k >= start for k in range(size)), weight=1 + index / 7, problem_id=str(index)))
    return examples


def make_model(architecture: str, attention: str) -> PreTrainedModel:
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    torch.manual_seed(0)
    if architecture == "mistral":
        return MistralForCausalLM._from_config(MistralConfig(sliding_window=None, **shape), attn_implementation=attention)
    return Qwen3ForCausalLM._from_config(Qwen3Config(**shape), attn_implementation=attention)


@given(lengths, st.integers(1, 6))
def test_splitting_keeps_every_example_and_balances_tokens(sizes: list[int], parts: int) -> None:
    examples = make_examples(sizes)
    if len(examples) < parts:
        with pytest.raises(ValueError, match="cannot make"):
            split_evenly(examples, parts)
        return
    runs = split_evenly(examples, parts)
    assert len(runs) == parts
    assert all(runs)
    assert sorted(e.problem_id for run in runs for e in run) == sorted(e.problem_id for e in examples)
    flat = [len(e) for run in runs for e in run]
    assert flat == sorted(flat)


def test_split_parts_have_about_equal_tokens() -> None:
    runs = split_evenly(make_examples([random.Random(1).randint(5, 60) for _ in range(1)] + list(range(5, 65)) * 3), 4)
    totals = [sum(map(len, run)) for run in runs]
    assert max(totals) - min(totals) <= 2 * 64


@given(lengths)
def test_rows_hold_everything_within_the_limit(sizes: list[int]) -> None:
    examples = make_examples(sizes)
    rows = fit_rows(examples, 24)
    assert all(sum(map(len, row)) <= 24 for row in rows)
    assert sorted(e.problem_id for row in rows for e in row) == sorted(e.problem_id for e in examples)
    assert len(rows) <= 2 * (sum(sizes) // 24 + 1)  # first fit leaves at most one row half empty


def test_an_example_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        fit_rows(make_examples([30]), 24)


@given(lengths)
@settings(max_examples=50)
def test_weights_survive_both_layouts_and_skip_first_tokens(sizes: list[int]) -> None:
    examples = make_examples(sizes)
    expected = sum(e.weight * sum(e.loss_mask[1:]) for e in examples)
    for batch in (pad(examples, 0), pack(examples, 0, 24)):
        assert batch["weights"].sum().item() == pytest.approx(expected, rel=1e-5)
        assert "attention_mask" not in batch
    assert "position_ids" not in pad(examples, 0)


def taught(example: Example, teacher: int = 0) -> Example:
    """With stored distributions that name the learned token itself, and its place in the example as a log-probability."""
    places = [k for k in range(1, len(example)) if example.loss_mask[k]]
    ids = np.array([[example.input_ids[k], 0] for k in places]).reshape(-1, 2)
    logprobs = np.array([[-k, -1.0, -2.0] for k in places]).reshape(-1, 3)
    return replace(example, teacher=teacher, teacher_topk=TopK.of(ids, logprobs, VOCABULARY))


@given(lengths)
@settings(max_examples=30)
def test_stored_distributions_stand_in_the_order_of_the_learned_tokens(sizes: list[int]) -> None:
    examples = [replace(taught(example), weight=index % 3) for index, example in enumerate(make_examples(sizes))]
    for batch in (pad(examples, 0), pack(examples, 0, 24)):
        learned = batch["weights"][:, 1:] > 0
        assert batch["teacher_ids"][:, 0].tolist() == batch["input_ids"][:, 1:][learned].tolist()
        assert batch["teacher_logprobs"].shape == (int(learned.sum()), 3)
        if "position_ids" in batch:
            assert batch["teacher_logprobs"][:, 0].tolist() == (-batch["position_ids"][:, 1:][learned]).tolist()


def test_what_few_examples_have_is_absent_or_refused() -> None:
    plain, stored = make_examples([5, 9]), [taught(example) for example in make_examples([5, 9])]
    assert set(pad(plain, 0)) == {"input_ids", "weights"}
    with pytest.raises(ValueError, match="1 of 2 examples of a batch lack"):
        pad([plain[0], stored[1]], 0)


def test_each_token_knows_its_teacher() -> None:
    [first, second] = make_examples([4, 7])
    batch = pack([first, replace(second, teacher=2)], 0, 20)
    assert batch["teacher"].tolist() == [[2] * 7 + [0] * 4]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["qwen3", "mistral"])
@pytest.mark.parametrize("max_length", [200, 24], ids=["one row", "many rows"])
def test_packed_and_padded_logits_equal_separate_ones(architecture: str, attention: str, training: bool, max_length: int) -> None:
    model = make_model(architecture, attention).train(training)
    examples = make_examples([3, 17, 9, 1, 20, 12, 8], seed=1)
    separate = {e.problem_id: model(torch.tensor([e.input_ids]), use_cache=False).logits[0] for e in examples}
    batch = pack(examples, 0, max_length)
    assert len(batch["input_ids"]) == (1 if max_length == 200 else len(fit_rows(examples, 24)))
    packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    for r, row in enumerate(fit_rows(examples, max_length)):
        start = 0
        for example in row:
            found = packed[r, start : start + len(example)]
            torch.testing.assert_close(found, separate[example.problem_id], atol=1e-4, rtol=0)
            start += len(example)
    padded = model(input_ids=pad(examples, 0)["input_ids"], use_cache=False).logits
    for r, example in enumerate(examples):
        torch.testing.assert_close(padded[r, : len(example)], separate[example.problem_id], atol=1e-4, rtol=0)


def test_the_isolation_test_can_fail() -> None:
    """Without restarting positions the same row leaks, so the comparison above means something."""
    model = make_model("qwen3", "sdpa").eval()
    examples = make_examples([17, 9], seed=1)
    batch = pack(examples, 0, 100)
    joined = model(input_ids=batch["input_ids"], use_cache=False).logits[0, 17:26]
    alone = model(torch.tensor([examples[1].input_ids]), use_cache=False).logits[0]
    assert (joined - alone).abs().max() > 1e-2
