"""How far a student's next-token distribution S is from its teacher's T: generalised Jensen-Shannon divergence, forward and reverse KL.

    D_β = β · KL(T ‖ M) + (1 − β) · KL(S ‖ M),   M = β T + (1 − β) S        (Agarwal et al. 2024, arXiv 2306.13649, eq. 1)

D_β vanishes at both ends, D_β / β → KL(T ‖ S) and D_β / (1 − β) → KL(S ‖ T); so β = 0 is *defined* as forward KL(T ‖ S) and β = 1 as
reverse KL(S ‖ T), as in TRL. Values are nats per row. Computed in float32, a chunk of rows at a time; gradients go to the student's logits
alone and are computed in the same pass, so that nothing of a chunk is kept for the backward pass but its gradient.

Letters: N rows, V vocabulary, k stored tokens, C places of a distribution (V, or k and the rest). Left out: Hinton's factor τ².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

FLOOR = -100.0
"""Log-probabilities are not taken below this, so that a token that one side excludes costs much but not infinity."""
CHUNK_ELEMENTS = 2**22
"""Logits per chunk: 16 MiB in float32."""

Compare = Callable[..., tuple[Tensor, Tensor]]


def divergence(student: Tensor, teacher: Tensor, *, beta: float, temperature: float = 1.0) -> Tensor:
    """[N] from the logits [N, V] of both, each divided by the temperature before the softmax."""
    return _by_rows(partial(_full, beta=beta, temperature=temperature), student, teacher)


def topk_divergence(student: Tensor, ids: Tensor, logprobs: Tensor, *, beta: float, temperature: float = 1.0) -> Tensor:
    """[N] from the student's logits [N, V] and what is known of the teacher's distribution: ids [N, k], logprobs [N, k + 1].

    The last log-probability is that of all other tokens together (`with_rest`); the student's mass on them is one bucket too. The
    temperature applies to these k + 1 buckets, softmax(logprobs / τ), which is the tempered distribution itself where k = V.
    """
    return _by_rows(partial(_topk, beta=beta, temperature=temperature), student, ids, logprobs)


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most likely tokens (all, if there are fewer): ids [N, k], best first, and logprobs [N, k + 1], the last of all others."""
    logits = logits.float()
    best, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
    rest = logits.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    return ids, torch.cat([best, rest], -1).log_softmax(-1)


def with_rest(logprobs: Tensor) -> Tensor:
    """[N, k + 1] from the log-probabilities [N, k] of some tokens: the last is that of all others, log(1 − Σ p)."""
    return torch.cat([logprobs, log1mexp(logprobs.logsumexp(-1, keepdim=True))], -1)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) for x ≤ 0 without cancellation (Mächler 2012); x above 0, which only rounding can give, counts as 0."""
    x = x.clamp_max(0.0)
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def _by_rows(compare: Compare, student: Tensor, *teacher: Tensor) -> Tensor:
    values: Tensor = _ByRows.apply(compare, student, *teacher)  # type: ignore[no-untyped-call]
    return values


class _ByRows(torch.autograd.Function):
    """`compare` gives the values of some rows and their gradients with respect to the student's logits."""

    @staticmethod
    def forward(ctx: Any, compare: Compare, student: Tensor, *teacher: Tensor) -> Tensor:
        values = torch.zeros(len(student), device=student.device)
        slopes = torch.empty_like(student) if ctx.needs_input_grad[1] else None
        for rows in _chunks(*student.shape):
            values[rows], slope = compare(student[rows].float(), *(part[rows] for part in teacher))
            if slopes is not None:
                slopes[rows] = slope.to(slopes.dtype)
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return None, slopes * gradients[0].to(slopes.dtype)[:, None], *([None] * (len(ctx.needs_input_grad) - 2))


def _chunks(rows: int, width: int) -> Iterator[slice]:
    size = max(1, CHUNK_ELEMENTS // width)
    return (slice(start, start + size) for start in range(0, rows, size))


def _full(student: Tensor, teacher: Tensor, *, beta: float, temperature: float) -> tuple[Tensor, Tensor]:
    log_s = (student / temperature).log_softmax(-1)
    log_t = (teacher.float() / temperature).log_softmax(-1)
    value, slope = _compare(log_s, log_t, beta)
    return value, _through_softmax(log_s, slope) / temperature


def _topk(student: Tensor, ids: Tensor, logprobs: Tensor, *, beta: float, temperature: float) -> tuple[Tensor, Tensor]:
    others = student.scatter(-1, ids, -math.inf)
    rest = others.logsumexp(-1, keepdim=True)  # -inf where k = V
    log_s = (torch.cat([student.gather(-1, ids), rest], -1) / temperature).log_softmax(-1)
    log_t = (logprobs.float() / temperature).log_softmax(-1)
    value, slope = _compare(log_s, log_t, beta)
    slope = _through_softmax(log_s, slope) / temperature
    share = (others - rest.clamp_min(torch.finfo(rest.dtype).min)).exp()  # of each other token in the rest
    return value, (share * slope[:, -1:]).scatter(-1, ids, slope[:, :-1])


def _compare(log_s: Tensor, log_t: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The value [N] and its gradient [N, C] with respect to log S, up to a multiple of S, which no softmax can see."""
    log_s, log_t = log_s.clamp_min(FLOOR), log_t.clamp_min(FLOOR)
    if beta == 0:
        t = log_t.exp()
        return (t * (log_t - log_s)).sum(-1), -t
    if beta == 1:
        reverse = log_s.exp() * (log_s - log_t)
        return reverse.sum(-1), reverse
    log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
    to_mixture = (1 - beta) * log_s.exp() * (log_s - log_m)
    return (beta * log_t.exp() * (log_t - log_m) + to_mixture).sum(-1), to_mixture


def _through_softmax(log_s: Tensor, slope: Tensor) -> Tensor:
    """A gradient with respect to log S as one with respect to the logits that S is the softmax of."""
    return slope - log_s.exp() * slope.sum(-1, keepdim=True)
