"""What freezing changes: the same held-out examples read with gates that depend on the input and, the moment after, with constant ones.

Greedy choices are those at the learned places of given targets; nothing is generated. Without a polarization term the two differ, with it
they should not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from cleave.examples import Example
from cleave.objectives import selected_logits
from cleave.packing import pad, split_evenly
from cleave.pruning.consensus_gates import FREEZING, ConsensusGates

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Read:
    """The mean loss of some examples, and of each its greedy choices and whether they are the target."""

    loss: float
    choices: list[tuple[int, ...]]
    exact: list[bool]


class GateSteps(TrainerCallback):
    """Tells gates when a step has ended, and freezes them when it is time. `examples`: what freezing is measured on, on every worker."""

    def __init__(self, gates: ConsensusGates, examples: Sequence[Example] = (), pad_id: int = 0) -> None:
        self._gates, self._examples, self._pad_id = gates, list(examples), pad_id

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._gates.plan(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any = None, **kwargs: Any) -> None:
        self._gates.end_step(state.global_step)
        if self._gates.final or state.global_step < self._gates.schedule.freeze_at:
            return
        if self._examples:
            measure = freeze(getattr(model, "module", model), self._gates, self._examples, self._pad_id)
            self._gates.bank.figures.copy_(torch.tensor([measure[name] for name in FREEZING]))
        self._gates.consensus()


def freeze(model: PreTrainedModel, gates: ConsensusGates, examples: Sequence[Example], pad_id: int) -> dict[str, float]:
    """Come to a consensus, and measure what that changes: figures by the names in FREEZING."""
    training = model.training
    model.train(False)
    with gates.bank.dynamic():
        before = read(model, examples, pad_id)
    gates.consensus()
    after = read(model, examples, pad_id)
    model.train(training)
    count = len(examples)
    same = sum(one == other for one, other in zip(before.choices, after.choices, strict=True))
    return {
        "loss_before": before.loss,
        "loss_after": after.loss,
        "exact_before": sum(before.exact) / count,
        "exact_after": sum(after.exact) / count,
        "same": same / count,
    }


@torch.inference_mode()
def read(model: PreTrainedModel, examples: Sequence[Example], pad_id: int) -> Read:
    """One forward pass over the examples; choices are in the order in which it sorts them."""
    total = count = 0.0
    choices: list[tuple[int, ...]] = []
    exact: list[bool] = []
    tokens = sum(map(len, examples))
    for part in split_evenly(examples, min(len(examples), 1 + tokens // _BATCH_TOKENS)):
        batch = {name: tensor.to(model.device) for name, tensor in pad(part, pad_id).items()}
        learned = batch["weights"][:, 1:] > 0
        logits, targets = selected_logits(model, batch, learned), batch["input_ids"][:, 1:][learned]
        total += float(F.cross_entropy(logits.float(), targets, reduction="sum"))
        count += len(targets)
        sizes = learned.sum(1).tolist()
        for chosen, wanted in zip(torch.split(logits.argmax(-1), sizes), torch.split(targets, sizes), strict=True):
            choices.append(tuple(chosen.tolist()))
            exact.append(bool((chosen == wanted).all()))
    return Read(total / max(count, 1.0), choices, exact)
