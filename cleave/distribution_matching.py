"""Learning a teacher's distributions: at every learned token the student's next-token distribution is compared with the teacher's.

    objective = DistributionMatching(LiveTeachers([teacher], beta=0.5), cross_entropy=0.1)
    objective = DistributionMatching(StoredDistributions(beta=0.5))

The teacher is a frozen model that reads the same batch, or what was stored of its distributions (`teacher_ids` and `teacher_logprobs` of
the batch). Of several live teachers, `teacher` of the batch says which one a token is compared with. `Compatible` asks the version in use
where the student errs. Left out: the divergence itself
(divergence.py), replies of the student as targets (on_policy.py), teachers with another vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cleave.divergence import divergence, topk_divergence
from cleave.objectives import Listener, Metrics, greedy_hits, selected_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cleave.packing import Batch


class Teacher(Protocol):
    """Whoever knows the distributions to learn."""

    def divergence(self, logits: Tensor, batch: Batch, learned: Tensor) -> Tensor:
        """Nats [N] of the student's logits [N, V] at the places where `learned` [B, T - 1] is set, in row order."""
        ...


class DistributionMatching:
    """Divergence to the teacher; a share `cross_entropy` of the loss is cross-entropy on the targets.

    Where the targets are the student's own replies (`own_replies` in the batch), the divergence is the whole loss. The metrics
    `divergence` and `cross_entropy` are in nats, `accuracy` is of greedy choice against the targets.
    """

    listener: Listener | None = None

    def __init__(self, teacher: Teacher, *, cross_entropy: float = 0.0) -> None:
        self.teacher = teacher
        self.cross_entropy = cross_entropy

    def count(self, batch: Batch) -> Tensor:
        return batch["weights"][:, 1:].sum()

    def loss(self, model: torch.nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor, Metrics]:
        weights = batch["weights"][:, 1:]
        learned = weights > 0
        logits = selected_logits(model, batch, learned)  # [N, V]
        targets, weight = batch["input_ids"][:, 1:][learned], weights[learned]
        each, hits = self.teacher.divergence(logits, batch, learned), greedy_hits(logits, targets)
        if self.listener is not None:
            self.listener(batch, learned, each.detach(), hits)
        apart = (each * weight).sum()
        metrics = {"accuracy": (hits * weight).sum(), "divergence": apart.detach()}
        if not self.cross_entropy or "own_replies" in batch:
            return apart, weight.sum(), metrics
        nll = (F.cross_entropy(logits.float(), targets, reduction="none") * weight).sum()
        total = (1 - self.cross_entropy) * apart + self.cross_entropy * nll
        return total, weight.sum(), metrics | {"cross_entropy": nll.detach()}


class LiveTeachers:
    """Frozen models. They read whole rows, so that packed examples are kept apart as the student keeps them.

    Tokens beyond the smaller of two output layers, which some checkpoints have as padding of the vocabulary, are left out on both sides.
    """

    def __init__(self, models: Sequence[PreTrainedModel], *, beta: float, temperature: float = 1.0) -> None:
        self.models = [model.train(False).requires_grad_(False) for model in models]
        self._beta, self._temperature = beta, temperature

    def divergence(self, logits: Tensor, batch: Batch, learned: Tensor) -> Tensor:
        if "teacher" not in batch or not learned.any():  # where nothing is learned, the gradient is zero, not missing
            return self._compare(self.models[0], logits, batch, learned)
        values = torch.zeros(len(logits), device=logits.device)
        which = batch["teacher"][:, 1:]
        for index, model in enumerate(self.models):
            own = learned & (which == index)
            rows = own.any(1)
            if rows.any():
                part: Batch = {name: batch[name][rows] for name in ("input_ids", "position_ids") if name in batch}
                chosen = own[learned]
                values[chosen] = self._compare(model, logits[chosen], part, own[rows])
        return values

    def _compare(self, model: PreTrainedModel, logits: Tensor, batch: Batch, learned: Tensor) -> Tensor:
        with torch.no_grad():
            there = {name: tensor.to(model.device) for name, tensor in batch.items()}
            known = selected_logits(model, there, learned.to(model.device)).to(logits.device)
        width = min(logits.shape[-1], known.shape[-1])
        return divergence(logits[:, :width], known[:, :width], beta=self._beta, temperature=self._temperature)


class Compatible:
    """An upgrade that contradicts the version in use less (MUSCLE, arXiv 2407.09435, equation 4): where the student's greedy choice is not
    the target it learns the previous version's distribution, elsewhere the teacher's."""

    def __init__(self, teacher: Teacher, previous: Teacher) -> None:
        self._teacher, self._previous = teacher, previous

    def divergence(self, logits: Tensor, batch: Batch, learned: Tensor) -> Tensor:
        right = greedy_hits(logits, batch["input_ids"][:, 1:][learned])
        if right.all():  # also where nothing is learned: the gradient is zero, not missing
            return self._teacher.divergence(logits, batch, learned)
        values = torch.zeros(len(logits), device=logits.device)
        for model, chosen in ((self._teacher, right), (self._previous, ~right)):
            if chosen.any():
                own = learned.clone()
                own[learned] = chosen
                values[chosen] = model.divergence(logits[chosen], batch, own)
        return values


class StoredDistributions:
    """The k most likely tokens of a teacher that need not be there any more."""

    def __init__(self, *, beta: float, temperature: float = 1.0) -> None:
        self._beta, self._temperature = beta, temperature

    def divergence(self, logits: Tensor, batch: Batch, learned: Tensor) -> Tensor:
        ids, logprobs = batch["teacher_ids"], batch["teacher_logprobs"]
        return topk_divergence(logits, ids, logprobs, beta=self._beta, temperature=self._temperature)
