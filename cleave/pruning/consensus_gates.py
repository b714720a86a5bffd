"""Gates that come to a consensus while the model trains, and are then dropped with what they close (after arXiv 2302.10798).

At first all gates are open; then the target sparsity is ramped up, then the weight of polarization, which makes gates decide alike for all
inputs. From `freeze` on each gate is what it was for most of the last inputs, and the rest of training adapts to that. In the uniform
layout the gates of a layer compete for a number of places, in the free one each decides alone.

    gates = ConsensusGates(config.prune, steps=1000, pad_id=0)
    gates.attach(model)
    ...
    smaller = gates.slice(model)

Left out: who calls `end_step`, and what freezing changes (freezing.py). Sharded weights (FSDP), adapters, compiled layers and recomputed
activations are refused by the config.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cleave.config.prune import PruneConfig, UnitKind
from cleave.pruning.choice import Choice, closed_shares, majority, most_voted, with_a_layer
from cleave.pruning.gate_bank import GateBank, Passed
from cleave.pruning.polarization import counted_as, crowding, excess, polarization, with_gradient
from cleave.pruning.schedule import Schedule
from cleave.pruning.slicing import slice_model
from cleave.pruning.target import UNIT, Target, targets
from cleave.pruning.units import Anatomy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FREEZING = ("loss_before", "loss_after", "exact_before", "exact_after", "same")
"""What is known of freezing, on held-out examples: loss in nats per learned token and share of examples whose target is all greedy choices,
before and after; and the share of examples whose greedy choices stayed the same."""
CONTEXT = 256
"""Tokens that a token attends to where a unit's FLOPs are weighed."""


class ConsensusGates:
    """The Gates of `prune:`; `steps` are those of the whole training, `pad_id` is the token that belongs to no input."""

    anatomy: Anatomy
    bank: GateBank
    targets: dict[UnitKind, Target]

    def __init__(self, config: PruneConfig, *, steps: int, pad_id: int) -> None:
        self.config, self.schedule, self._pad_id = config, Schedule.of(config, steps), pad_id

    def attach(self, model: PreTrainedModel) -> None:
        """Raises ConfigError for an architecture or a target that does not fit."""
        self.anatomy = Anatomy.of(model, self.config.block)
        self.targets = targets(self.anatomy, self.config.sparsity)
        self.bank = GateBank(self.anatomy, list(self.targets), self.config.gate_size, self._pad_id)
        self.bank.attach(model)
        self.plan(0)

    @property
    def final(self) -> bool:
        return self.bank.is_frozen

    def plan(self, step: int) -> None:
        """Before the step after `step` finished ones."""
        if not self.bank.is_frozen and self.config.layout == "uniform":
            share = self.schedule.sparsity(step)
            self.bank.places = {kind: one.count - round(share * (one.count - one.kept)) for kind, one in self.targets.items()}
        elif self.config.layout == "free":
            self.bank.places = dict.fromkeys(self.targets)

    def end_step(self, step: int) -> None:
        """After step number `step`, on all workers: settle what gates did, and plan the next."""
        if self.bank.is_frozen:
            return
        for kind in self.targets:
            self.bank.ballot(kind).settle()
            if step == self.schedule.polls_at:
                self.bank.ballot(kind).open_polls()
        self.plan(step)
        self.bank.fix(self._chosen({kind: self.bank.ballot(kind).rate for kind in self.targets}))

    def penalty(self, step: int, inputs: int) -> torch.Tensor | float:
        passed = self.bank.take()
        if self.bank.is_frozen:  # DistributedDataParallel waits for a gradient of every parameter
            return 0.0 * torch.stack([part.sum() for part in self.bank.parameters()]).sum()
        if not passed:
            return 0.0
        rates = [with_gradient(self.bank.ballot(kind).rate, one.decisions.sum(1) / inputs) for kind, one in passed.items()]
        polar = torch.stack([polarization(rate) for rate in rates]).sum()
        weight = self.config.polarization * self.schedule.polarization(step)
        share = next(iter(passed.values())).inputs / inputs
        return weight * counted_as(polar, share) + self.config.activity * self._activity(passed, step) / inputs

    def _activity(self, passed: dict[UnitKind, Passed], step: int) -> torch.Tensor:
        """Summed over the inputs of the pass."""
        if self.config.layout == "uniform":
            shares = {kind: (self.bank.places[kind] or 0) / one.count for kind, one in self.targets.items()}
            return torch.stack([crowding(one.sigmoids, shares[kind]) for kind, one in passed.items()]).sum()
        weights = self._weights()
        spent = torch.stack([weights[kind] * one.decisions.mean((0, 2)) for kind, one in passed.items()]).sum(0)
        return excess(spent, 1 - self.schedule.sparsity(step) * sum(weights[kind] * one.sparsity for kind, one in self.targets.items()))

    def _weights(self) -> dict[UnitKind, float]:
        """The share of each kind in the cost of all gated units."""
        units = self.anatomy.units
        costs = {
            kind: one.count * (units[kind].parameters if self.config.cost == "parameters" else units[kind].flops(CONTEXT))
            for kind, one in self.targets.items()
        }
        total = sum(cost * (1 if kind == "layers" else self.anatomy.layers) for kind, cost in costs.items())
        return {kind: cost * (1 if kind == "layers" else self.anatomy.layers) / total for kind, cost in costs.items()}

    def consensus(self) -> None:
        """Each gate becomes what it was for most voters of all workers, for good. Called by all workers; a second call does nothing."""
        if self.bank.is_frozen:
            return
        for kind in self.targets:
            self.bank.ballot(kind).settle()
        self.plan(self.schedule.freeze_at)
        self.bank.fix(self._chosen({kind: self.bank.ballot(kind).shares for kind in self.targets}))
        self.bank.freeze()

    def _chosen(self, votes: dict[UnitKind, torch.Tensor]) -> Choice:
        """Tables as the bank holds them, [1, layers] for layers."""
        chosen: Choice = {}
        for kind, shares in votes.items():
            places = self.bank.places[kind]
            chosen[kind] = majority(shares) if places is None else most_voted(shares, places)
        return with_a_layer(chosen, votes)

    def slice(self, model: PreTrainedModel) -> PreTrainedModel:
        return slice_model(model, self.bank.choice, self.anatomy)

    def agreement(self) -> dict[UnitKind, float]:
        """Share of (input, gate) that are what evaluation takes them for: over the voters once frozen, before that in the last step."""
        found: dict[UnitKind, float] = {}
        for kind in self.targets:
            ballot = self.bank.ballot(kind)
            votes = ballot.shares if self.bank.is_frozen else ballot.last
            table: torch.Tensor = getattr(self.bank, f"open_{kind}")
            found[kind] = float(torch.where(table, votes, 1 - votes).mean())
        return found

    def metrics(self) -> dict[str, float]:
        if self.bank.is_frozen:
            return {}
        rates = {kind: self.bank.ballot(kind).last for kind in self.targets}
        measured = {f"agreement/{kind}": value for kind, value in self.agreement().items()}
        measured |= {f"open/{kind}": float(rate.mean()) for kind, rate in rates.items()}
        return measured | {"polarization": float(torch.stack([polarization(rate) for rate in rates.values()]).mean())}

    def _kept(self, kind: UnitKind) -> str:
        """How many units stay: in each layer, or in all of them together where each may keep another number."""
        if self.config.layout == "uniform":
            return str(self.targets[kind])
        table = self.bank.choice[kind]
        return f"{int(table.sum())} of all {table.numel()} {UNIT[kind]}"

    def summary(self) -> dict[str, Any]:
        """What was closed, for pruned.json and the model card; `freezing` where it was measured."""
        figures = dict(zip(FREEZING, self.bank.figures.tolist(), strict=True))
        measured = {} if bool(self.bank.figures.isnan().any()) else {"freezing": figures}
        return {
            "layout": self.config.layout,
            "kept": {kind: self._kept(kind) for kind in self.targets},
            "agreement": self.agreement(),
            "closed": closed_shares(self.bank.choice),
            **measured,
        }
