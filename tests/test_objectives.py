"""The loss: equal to the textbook formula, and the same however a step is cut into batches."""

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from cleave.examples import Example
from cleave.gates import NoGates
from cleave.objectives import CrossEntropy, selected_logits
from cleave.packing import pack, pad, split_evenly


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=30, num_hidden_layers=1, **shape))


def make_examples(sizes: list[int]) -> list[Example]:
    rng = random.Random(len(sizes))
    return [
        Example(tuple(rng.randrange(30) for _ in range(n)), tuple(k >= n // 2 for k in range(n)), weight=rng.choice([0.5, 1.0, 3.0]))
        for n in sizes
    ]


def test_cross_entropy_is_the_weighted_sum_of_token_losses(model: PreTrainedModel) -> None:
    [example] = examples = make_examples([9])
    total, count, metrics = CrossEntropy().loss(model, pad(examples, 0), 0)
    logits = model(torch.tensor([example.input_ids])).logits[0]
    learned = [k for k in range(1, 9) if example.loss_mask[k]]
    by_hand = sum(F.cross_entropy(logits[k - 1], torch.tensor(example.input_ids[k])) for k in learned)
    torch.testing.assert_close(total, by_hand * example.weight)
    assert count.item() == pytest.approx(len(learned) * example.weight)
    hits = sum(int(logits[k - 1].argmax()) == example.input_ids[k] for k in learned)
    assert metrics["accuracy"].item() == pytest.approx(hits * example.weight)


@given(st.lists(st.integers(2, 14), min_size=4, max_size=12), st.integers(1, 4), st.booleans())
@settings(max_examples=25, deadline=None)
def test_sums_over_shards_equal_the_whole(model: PreTrainedModel, sizes: list[int], parts: int, packed: bool) -> None:
    objective, examples = CrossEntropy(), make_examples(sizes)
    whole, count, metrics = objective.loss(model, pad(examples, 0), 0)
    batches = [pack(part, 0, 20) if packed else pad(part, 0) for part in split_evenly(examples, parts)]
    shards = [objective.loss(model, batch, 0) for batch in batches]
    torch.testing.assert_close(sum(total for total, _, _ in shards), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sum(objective.count(batch) for batch in batches), count)
    torch.testing.assert_close(sum(m["accuracy"] for _, _, m in shards), metrics["accuracy"])


def test_logits_are_computed_where_something_is_learned_only(model: PreTrainedModel) -> None:
    batch = pad(make_examples([6, 11]), 0)
    learned = batch["weights"][:, 1:] > 0
    chosen = selected_logits(model, batch, learned)
    full = model(batch["input_ids"]).logits[:, :-1][learned]
    torch.testing.assert_close(chosen, full)
    assert model(batch["input_ids"]).logits.shape == (2, 11, 30)  # the hook is gone


def test_a_batch_in_which_nothing_is_learned_has_a_loss_of_zero_and_gradients(model: PreTrainedModel) -> None:
    batch = pad([Example((1, 2, 3), (False, False, False))], 0)
    total, count, _ = CrossEntropy().loss(model, batch, 0)
    total.backward()
    assert total.item() == 0
    assert count.item() == 0


def test_no_gates_change_nothing(model: PreTrainedModel) -> None:
    gates = NoGates()
    before = [name for name, _ in model.named_parameters()]
    gates.attach(model)
    gates.consensus()
    assert gates.penalty(3, inputs=2) == 0.0
    assert gates.slice(model) is model
    assert [name for name, _ in model.named_parameters()] == before
