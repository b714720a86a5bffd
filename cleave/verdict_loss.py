"""What a verifier minimises: a margin between a right and a wrong solution, or cross-entropy on single ones (arXiv 2310.10047).

The paper's exact forms were not at hand; these are its words: with s the raw score of a solution,

    margin           max(0, m - s(right) + s(wrong)), over pairs of one problem
    cross-entropy    -log σ(s) for a right one, -log σ(-s) for a wrong one

s is the difference of two logits at the place before the verdict (words), or the one output of a sequence classifier (scalar).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from cleave.objectives import Metrics, selected_logits
from cleave.verdict_examples import VerdictTokens

if TYPE_CHECKING:
    from cleave.packing import Batch

Reader = Callable[[torch.nn.Module, "Batch", torch.Tensor], torch.Tensor]
"""(model, batch, learned [B, T - 1]) to the raw scores [N] at the N learned places, in row order."""


class VerdictLoss:
    """Batches hold one verdict per sequence; for the margin two sequences per example, the right solution first.

    The count is that of pairs or of single solutions, by weight; the metric `accuracy` is the share of pairs whose right solution is
    ahead, or of solutions on the right side of 0.
    """

    def __init__(
        self, tokens: VerdictTokens, *, loss: Literal["margin", "cross_entropy"], margin: float = 1.0, read: Reader | None = None
    ) -> None:
        self._tokens, self._kind, self._margin = tokens, loss, margin
        self._read = read or self._from_words

    def count(self, batch: Batch) -> torch.Tensor:
        return batch["weights"][:, 1:].sum() / (2 if self._kind == "margin" else 1)

    def loss(self, model: torch.nn.Module, batch: Batch, step: int) -> tuple[torch.Tensor, torch.Tensor, Metrics]:
        weights = batch["weights"][:, 1:]
        learned = weights > 0
        raw, weight = self._read(model, batch, learned).float(), weights[learned]
        right = batch["input_ids"][:, 1:][learned] == self._tokens.right
        if self._kind == "margin":
            ahead, weight = raw[0::2] - raw[1::2], weight[0::2]
            each, hits = F.relu(self._margin - ahead), ahead > 0
        else:
            each, hits = F.softplus(torch.where(right, -raw, raw)), (raw > 0) == right
        return (each * weight).sum(), weight.sum(), {"accuracy": (hits * weight).sum().detach()}

    def _from_words(self, model: torch.nn.Module, batch: Batch, learned: torch.Tensor) -> torch.Tensor:
        logits = selected_logits(model, batch, learned)
        return logits[:, self._tokens.right] - logits[:, self._tokens.wrong]


def from_scalar(model: torch.nn.Module, batch: Batch, learned: torch.Tensor) -> torch.Tensor:
    """Raw scores of a sequence classifier with one output. Its own pooling, which knows one sequence per row, is passed by."""
    found: list[torch.Tensor] = []
    inner: Any = getattr(model, "module", model)
    head: torch.nn.Module = (inner.get_base_model() if hasattr(inner, "get_base_model") else inner).score
    handle = head.register_forward_hook(lambda module, args, output: found.append(output))
    try:
        inputs: dict[str, Any] = {key: batch[key] for key in ("input_ids", "position_ids") if key in batch}
        model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return found[0][:, :-1, 0][learned]
