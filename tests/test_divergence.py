"""Divergences: what mathematics says about them, the bucket of the rest, and equality with TRL's loss."""

import math
from decimal import Decimal, localcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import cleave.divergence
from cleave.divergence import divergence, log1mexp, top_k, topk_divergence, with_rest

betas = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
temperatures = st.sampled_from([0.5, 1.0, 4.0])
seeds = st.integers(0, 10**6)
widths = st.integers(2, 40)


def logits(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_hand(student: Tensor, teacher: Tensor, beta: float, temperature: float) -> Tensor:
    """The textbook formula in float64, differentiable."""
    s, t = ((x.double() / temperature).softmax(-1) for x in (student, teacher))
    kl = lambda p, q: (p * (p.log() - q.log())).sum(-1)  # noqa: E731
    if beta == 0:
        return kl(t, s)
    if beta == 1:
        return kl(s, t)
    m = beta * t + (1 - beta) * s
    return beta * kl(t, m) + (1 - beta) * kl(s, m)


@given(seeds, widths, betas, temperatures)
def test_values_and_gradients_are_those_of_the_formula(seed: int, width: int, beta: float, temperature: float) -> None:
    teacher = logits(seed + 1, 5, width)
    weights = torch.rand(5)
    mine, textbook = (logits(seed, 5, width).requires_grad_() for _ in range(2))
    found = divergence(mine, teacher, beta=beta, temperature=temperature)
    expected = by_hand(textbook, teacher, beta, temperature)
    torch.testing.assert_close(found, expected.float(), atol=2e-5, rtol=1e-4)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, textbook.grad, atol=2e-5, rtol=1e-4)


@given(seeds, widths, betas, temperatures)
def test_no_divergence_from_oneself_and_never_less(seed: int, width: int, beta: float, temperature: float) -> None:
    p, q = logits(seed, 4, width), logits(seed + 1, 4, width)
    zero = divergence(p, p + 7.0, beta=beta, temperature=temperature)
    torch.testing.assert_close(zero, torch.zeros(4), atol=2e-6, rtol=0)
    assert (divergence(p, q, beta=beta, temperature=temperature) > -1e-6).all()


@given(seeds, widths, temperatures)
def test_the_halfway_divergence_is_symmetric(seed: int, width: int, temperature: float) -> None:
    p, q = logits(seed, 4, width), logits(seed + 1, 4, width)
    there, back = (divergence(a, b, beta=0.5, temperature=temperature) for a, b in ((p, q), (q, p)))
    torch.testing.assert_close(there, back, atol=1e-6, rtol=1e-5)
    assert (there <= math.log(2) + 1e-6).all()


@given(seeds, widths)
def test_towards_the_ends_it_becomes_the_two_directions_of_kl(seed: int, width: int) -> None:
    p, q = logits(seed, 4, width, scale=1.0), logits(seed + 1, 4, width, scale=1.0)
    small = 1e-3
    for end, near in ((0.0, small), (1.0, 1 - small)):
        limit = divergence(p, q, beta=near) / small
        torch.testing.assert_close(limit, divergence(p, q, beta=end), rtol=0.05, atol=2e-3)


@given(seeds, widths, betas, temperatures)
def test_all_tokens_stored_equal_the_full_distribution(seed: int, width: int, beta: float, temperature: float) -> None:
    teacher = logits(seed + 1, 4, width)
    stored, full = (logits(seed, 4, width).requires_grad_() for _ in range(2))
    found = topk_divergence(stored, *top_k(teacher, width + 3), beta=beta, temperature=temperature)
    expected = divergence(full, teacher, beta=beta, temperature=temperature)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for each in (found, expected):
        each.sum().backward()
    torch.testing.assert_close(stored.grad, full.grad, atol=1e-5, rtol=1e-4)


@given(seeds, st.integers(4, 40), st.integers(1, 3), betas, temperatures)
def test_the_rest_is_one_bucket_on_both_sides(seed: int, width: int, k: int, beta: float, temperature: float) -> None:
    """The same value and gradient as merging the columns by hand, so coarser, and never more than the full divergence at τ = 1."""
    teacher = logits(seed + 1, 4, width)
    ids, logprobs = top_k(teacher, k)
    mine, textbook = (logits(seed, 4, width).requires_grad_() for _ in range(2))
    found = topk_divergence(mine, ids, logprobs, beta=beta, temperature=temperature)
    p = textbook.double().softmax(-1)
    chosen = p.gather(-1, ids)
    merged = torch.cat([chosen, 1 - chosen.sum(-1, keepdim=True)], -1)
    expected = by_hand(merged.log(), logprobs, beta, temperature)
    torch.testing.assert_close(found, expected.float(), atol=2e-5, rtol=1e-4)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, textbook.grad, atol=3e-5, rtol=1e-3)
    if temperature == 1:
        assert (found <= divergence(mine, teacher, beta=beta) + 1e-5).all()


@given(seeds, betas)
def test_stored_tokens_are_the_best_and_sum_to_one(seed: int, beta: float) -> None:
    teacher = logits(seed, 6, 20)
    ids, logprobs = top_k(teacher, 5)
    torch.testing.assert_close(ids, teacher.argsort(-1, descending=True)[:, :5])
    torch.testing.assert_close(logprobs[:, :5], teacher.log_softmax(-1).gather(-1, ids))
    torch.testing.assert_close(logprobs.exp().sum(-1), torch.ones(6))
    torch.testing.assert_close(with_rest(logprobs[:, :5]), logprobs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_gradients_are_finite_where_the_teacher_excludes_tokens(beta: float, temperature: float) -> None:
    student = logits(0, 3, 8).requires_grad_()
    ids = torch.tensor([[0, 1], [2, 3], [4, 5]])
    certain = torch.tensor([[math.log(0.5), math.log(0.5)], [0.0, -math.inf], [math.log(0.9), math.log(0.1)]])
    stored = topk_divergence(student, ids, with_rest(certain), beta=beta, temperature=temperature)
    excluded = torch.full((3, 8), -math.inf)
    excluded[:, 2] = 0.0
    full = divergence(student, excluded, beta=beta, temperature=temperature)
    (stored.sum() + full.sum()).backward()
    assert stored.isfinite().all()
    assert full.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@given(st.floats(-1e-12, -1e-30) | st.floats(-80, -1e-12))
def test_the_mass_that_is_left_is_exact(x: float) -> None:
    with localcontext(prec=60):
        exact = float((1 - Decimal(x).exp()).ln())
    assert log1mexp(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(exact, rel=1e-9, abs=1e-30)
    assert log1mexp(torch.tensor(1e-7)).item() == -math.inf  # rounding of a sum of probabilities


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_chunks_change_nothing(beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, weights = logits(1, 11, 16), torch.rand(11)

    def once() -> tuple[Any, ...]:
        full, stored = logits(0, 11, 16).requires_grad_(), logits(0, 11, 16).requires_grad_()
        values = divergence(full, teacher, beta=beta), topk_divergence(stored, *top_k(teacher, 3), beta=beta)
        for each in values:
            (each * weights).sum().backward()
        return *values, full.grad, stored.grad

    whole = once()
    monkeypatch.setattr(cleave.divergence, "CHUNK_ELEMENTS", 48)
    for found, expected in zip(once(), whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_half_precision_logits_are_compared_in_float32() -> None:
    student, teacher = logits(0, 6, 30).bfloat16(), logits(1, 6, 30).bfloat16()
    found = divergence(student.clone().requires_grad_(), teacher, beta=0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, divergence(student.float(), teacher.float(), beta=0.5))
    found.sum().backward()


def test_nothing_to_compare_is_an_empty_sum() -> None:
    empty = torch.zeros(0, 9, requires_grad=True)
    total = divergence(empty, torch.zeros(0, 9), beta=0.5).sum()
    total.backward()
    assert total.item() == 0


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_equal_to_the_loss_of_trl(beta: float, temperature: float) -> None:
    """TRL multiplies hidden states by the output layers itself: identity matrices in their place hand it the logits."""
    theirs = pytest.importorskip("trl.trainer.distillation_trainer", reason="pip install trl, the extra `bench`")
    torch.manual_seed(0)
    mine, other = (logits(0, 4, 25, 64).requires_grad_() for _ in range(2))
    teacher = logits(1, 4, 25, 64)
    learned = torch.rand(4, 25) < 0.6
    eye = torch.eye(64)
    expected, _, count = theirs._chunked_divergence_loss(other, teacher, eye, eye, learned, beta, temperature=temperature)
    found = divergence(mine[learned], teacher[learned], beta=beta, temperature=temperature).sum() / learned.sum()
    assert int(count) == int(learned.sum())
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    found.backward()
    expected.backward()
    torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-4)
