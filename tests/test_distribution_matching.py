"""Learning a teacher's distributions: equal to comparing by hand, however a step is cut, packed, routed or stored."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from cleave.distribution_matching import Compatible, DistributionMatching, LiveTeachers, StoredDistributions
from cleave.divergence import divergence
from cleave.examples import Example
from cleave.objectives import CrossEntropy
from cleave.packing import pack, pad, split_evenly
from pipelines.capture import ask

VOCABULARY = 30


def make_model(seed: int, vocabulary: int = VOCABULARY, hidden: int = 16) -> PreTrainedModel:
    torch.manual_seed(seed)
    shape = {"intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=1, initializer_range=0.5, **shape))


@pytest.fixture(scope="module")
def models() -> list[PreTrainedModel]:
    """A student and two teachers."""
    return [make_model(0), make_model(1, hidden=24), make_model(2)]


class Tokens:
    """As much of a tokenizer as capturing needs."""

    pad_token_id = 0

    def __len__(self) -> int:
        return VOCABULARY


def stored(model: PreTrainedModel, examples: list[Example], k: int) -> list[Example]:
    tokenizer: Any = Tokens()
    return ask(model, tokenizer, examples, k, batch_tokens=25)


def make_examples(sizes: list[int], teachers: int = 1) -> list[Example]:
    rng = random.Random(len(sizes))
    return [
        Example(
            tuple(rng.randrange(VOCABULARY) for _ in range(n)),
            tuple(k >= n // 2 for k in range(n)),
            weight=rng.choice([0.5, 1.0, 3.0]),
            problem_id=str(index),
            teacher=index % teachers,
        )
        for index, n in enumerate(sizes)
    ]


def by_hand(student: PreTrainedModel, teacher: PreTrainedModel, example: Example, **options: float) -> torch.Tensor:
    """The example's weighted divergence, read alone."""
    ids = torch.tensor([example.input_ids])
    mine, theirs = student(ids).logits[0, :-1], teacher(ids).logits[0, :-1]
    learned = torch.tensor(example.loss_mask[1:])
    return divergence(mine[learned], theirs[learned].detach(), **options).sum() * example.weight


def gradient(model: PreTrainedModel, total: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(total, list(model.parameters()))])


sizes_of_steps = st.lists(st.integers(2, 14), min_size=4, max_size=10)


@given(sizes_of_steps, st.integers(1, 4), st.booleans(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1, 2]))
@settings(max_examples=15)
def test_sums_over_shards_equal_each_example_alone(
    models: list[PreTrainedModel], sizes: list[int], parts: int, packed: bool, beta: float, teachers: int
) -> None:
    """Sharding, padding, packing and routing to one of two teachers change neither value nor gradient."""
    student, *others = models
    examples = make_examples(sizes, teachers)
    objective = DistributionMatching(LiveTeachers(others[:teachers], beta=beta, temperature=2.0))
    batches = [pack(part, 0, 20) if packed else pad(part, 0) for part in split_evenly(examples, parts)]
    shards = [objective.loss(student, batch, 0) for batch in batches]
    expected = torch.stack([by_hand(student, others[e.teacher], e, beta=beta, temperature=2.0) for e in examples]).sum()
    found = torch.stack([total for total, _, _ in shards]).sum()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gradient(student, found), gradient(student, expected), rtol=1e-3, atol=2e-3)
    count = sum(e.weight * sum(e.loss_mask[1:]) for e in examples)
    assert sum(float(objective.count(batch)) for batch in batches) == pytest.approx(count)
    assert sum(float(weight) for _, weight, _ in shards) == pytest.approx(count)


@given(sizes_of_steps, st.integers(1, 3), st.booleans(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1.0, 2.0]))
@settings(max_examples=10)
def test_all_tokens_stored_train_like_the_live_teacher(
    models: list[PreTrainedModel], sizes: list[int], parts: int, packed: bool, beta: float, temperature: float
) -> None:
    student, teacher, _ = models
    examples = make_examples(sizes)
    known = {e.problem_id: e.teacher_topk for e in stored(teacher, examples, VOCABULARY)}
    taught = [replace(e, teacher_topk=known[e.problem_id]) for e in examples]
    options = {"beta": beta, "temperature": temperature}
    whole, count, metrics = DistributionMatching(LiveTeachers([teacher], **options)).loss(student, pad(examples, 0), 0)
    objective = DistributionMatching(StoredDistributions(**options))
    shards = [objective.loss(student, pack(part, 0, 20) if packed else pad(part, 0), 0) for part in split_evenly(taught, parts)]
    found = torch.stack([total for total, _, _ in shards]).sum()
    torch.testing.assert_close(found, whole, rtol=5e-3, atol=5e-3)  # log-probabilities are stored in half precision
    torch.testing.assert_close(gradient(student, found), gradient(student, whole), rtol=1e-2, atol=2e-2)
    assert sum(float(weight) for _, weight, _ in shards) == pytest.approx(float(count))
    assert sum(float(m["accuracy"]) for _, _, m in shards) == pytest.approx(float(metrics["accuracy"]))


def test_few_stored_tokens_hold_most_of_the_divergence(models: list[PreTrainedModel]) -> None:
    student, teacher, _ = models
    examples = make_examples([9, 12, 7])
    full = DistributionMatching(LiveTeachers([teacher], beta=0.0)).loss(student, pad(examples, 0), 0)[0].item()
    coarse = [
        DistributionMatching(StoredDistributions(beta=0.0)).loss(student, pad(stored(teacher, examples, k), 0), 0)[0].item()
        for k in (1, 4, 12, 30)
    ]
    assert coarse == sorted(coarse)
    assert 0 < coarse[0] < coarse[-1] == pytest.approx(full, rel=5e-3)


def test_the_loss_of_the_teacher_itself_is_zero_and_packing_does_not_leak(models: list[PreTrainedModel]) -> None:
    _, teacher, _ = models
    examples = make_examples([11, 5, 9, 3])
    objective = DistributionMatching(LiveTeachers([teacher], beta=0.5))
    assert objective.loss(teacher, pack(examples, 0, 40), 0)[0].item() == pytest.approx(0, abs=1e-4)
    known = stored(teacher, examples, 5)
    assert DistributionMatching(StoredDistributions(beta=0.5)).loss(teacher, pack(known, 0, 40), 0)[0].item() == pytest.approx(0, abs=1e-3)


def test_a_share_of_cross_entropy_is_a_share_but_not_on_own_replies(models: list[PreTrainedModel]) -> None:
    student, teacher, _ = models
    batch = pad(make_examples([8, 6]), 0)
    apart = DistributionMatching(LiveTeachers([teacher], beta=0.5)).loss(student, batch, 0)[0]
    nll, _, plain = CrossEntropy().loss(student, batch, 0)
    objective = DistributionMatching(LiveTeachers([teacher], beta=0.5), cross_entropy=0.25)
    total, count, metrics = objective.loss(student, batch, 0)
    torch.testing.assert_close(total, 0.75 * apart + 0.25 * nll)
    torch.testing.assert_close(count, objective.count(batch))
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {"accuracy": plain["accuracy"].item(), "divergence": apart.item(), "cross_entropy": nll.item()}
    )
    own = objective.loss(student, batch | {"own_replies": torch.tensor(True)}, 0)[0]
    torch.testing.assert_close(own, apart)


def test_the_teacher_is_frozen_and_gets_no_gradient(models: list[PreTrainedModel]) -> None:
    student, _, _ = models
    teacher = make_model(3).train()
    objective = DistributionMatching(LiveTeachers([teacher], beta=0.5))
    objective.loss(student, pad(make_examples([8]), 0), 0)[0].backward()
    assert not teacher.training
    assert all(part.grad is None and not part.requires_grad for part in teacher.parameters())
    student.zero_grad()


def test_padding_of_a_vocabulary_is_left_out(models: list[PreTrainedModel]) -> None:
    """Checkpoints of one family may have output layers of different sizes for the same tokenizer."""
    student, _, _ = models
    wider = make_model(4, vocabulary=VOCABULARY + 10)
    batch = pad(make_examples([8, 5]), 0)
    found = DistributionMatching(LiveTeachers([wider], beta=0.5)).loss(student, batch, 0)[0]
    learned = batch["weights"][:, 1:] > 0
    mine, theirs = (model(batch["input_ids"]).logits[:, :-1][learned] for model in (student, wider))
    expected = divergence(mine, theirs[:, :VOCABULARY].detach(), beta=0.5) * batch["weights"][:, 1:][learned]
    torch.testing.assert_close(found, expected.sum())


def test_a_batch_in_which_nothing_is_learned_has_a_loss_of_zero_and_gradients(models: list[PreTrainedModel]) -> None:
    student, *teachers = models
    empty = pad([Example((1, 2, 3), (False, False, False), teacher=1)], 0)
    for objective in (LiveTeachers(teachers, beta=0.5), LiveTeachers(teachers[:1], beta=0.5)):
        batch = empty if len(objective.models) > 1 else {name: empty[name] for name in ("input_ids", "weights")}
        total, count, _ = DistributionMatching(objective).loss(student, batch, 0)
        total.backward()
        assert (total.item(), count.item()) == (0, 0)


def test_matching_brings_the_student_to_the_teacher() -> None:
    student, teacher = make_model(5), make_model(6)
    batch = pad(make_examples([12] * 8), 0)
    objective = DistributionMatching(LiveTeachers([teacher], beta=0.5))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        total, count, _ = objective.loss(student, batch, step)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((total / count).item())
    assert losses[-1] < 0.3 * losses[0]


def test_capturing_keeps_what_is_learned_whatever_it_weighs(models: list[PreTrainedModel]) -> None:
    _, teacher, _ = models
    examples = [Example((1, 2, 3, 4), (True, False, True, True), weight=0.0), *make_examples([9, 5, 14, 6])]
    known = stored(teacher, examples, 3)
    assert sorted(e.input_ids for e in known) == sorted(e.input_ids for e in examples)
    for example in known:
        assert example.teacher_topk is not None
        logits = teacher(torch.tensor([example.input_ids])).logits[0, :-1][torch.tensor(example.loss_mask[1:])]
        logprobs = F.log_softmax(logits, -1)
        assert example.teacher_topk.tokens().tolist() == logits.topk(3).indices.tolist()
        found = torch.tensor(example.teacher_topk.values().astype("float32"))
        torch.testing.assert_close(found[:, :3], logprobs.topk(3).values, rtol=2e-3, atol=1e-4)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(len(found)), rtol=0, atol=2e-3)


@given(sizes=sizes_of_steps)
@settings(max_examples=8, deadline=None)
def test_an_upgrade_learns_the_previous_version_where_it_errs_and_the_teacher_elsewhere(
    models: list[PreTrainedModel], sizes: list[int]
) -> None:
    student, upgrade, previous = models
    examples = make_examples(sizes)
    expected = torch.zeros(())
    for example in examples:
        ids, learned = torch.tensor([example.input_ids]), torch.tensor(example.loss_mask[1:])
        mine, theirs, old = (model(ids).logits[0, :-1][learned].detach() for model in models)
        wrong = mine.argmax(-1) != ids[0, 1:][learned]
        each = torch.where(wrong, divergence(mine, old, beta=0.0), divergence(mine, theirs, beta=0.0))
        expected += each.sum() * example.weight
    objective = DistributionMatching(Compatible(LiveTeachers([upgrade], beta=0.0), LiveTeachers([previous], beta=0.0)))
    total = objective.loss(student, pack(examples, 0, 40), 0)[0]
    assert total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert gradient(student, total).isfinite().all()


def test_an_upgrade_that_is_its_own_previous_version_is_a_plain_teacher(models: list[PreTrainedModel]) -> None:
    student, teacher, _ = models
    batch, live = pad(make_examples([9, 6, 12]), 0), LiveTeachers([teacher], beta=0.5)
    plain, both = (DistributionMatching(asked).loss(student, batch, 0)[0] for asked in (live, Compatible(live, live)))
    assert both.item() == pytest.approx(plain.item(), rel=1e-5)
    assert torch.allclose(gradient(student, both), gradient(student, plain), atol=1e-5)


def test_an_upgrade_learns_nothing_from_a_batch_without_targets(models: list[PreTrainedModel]) -> None:
    student, teacher, previous = models
    batch = pad([replace(example, loss_mask=(False,) * len(example)) for example in make_examples([5, 7])], 0)
    total = DistributionMatching(Compatible(LiveTeachers([teacher], beta=0.5), LiveTeachers([previous], beta=0.5))).loss(student, batch, 0)[
        0
    ]
    assert total.item() == 0
    assert not gradient(student, total).any()
