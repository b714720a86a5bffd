"""All gates of a model as one module that hooks into it: `model.pruning_gates`, saved and moved with the model.

In training each input decides for itself (dynamic); in evaluation mode, and for good once frozen, gates are one constant choice, so that
generation needs no pooled input and held-out figures are of the sub-network that would be kept. Gates multiply what enters o_proj (heads)
and down_proj (neurons), and mix the output of a layer with its input (layers).

Left out: when they freeze and what they add to the loss (consensus_gates.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cleave.config.prune import UnitKind
from cleave.pruning.ballot import Ballot
from cleave.pruning.choice import Choice
from cleave.pruning.gate import Gate, decide, likelihoods
from cleave.pruning.inputs import Inputs
from cleave.pruning.units import Anatomy, decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "pruning_gates"


@dataclass(frozen=True)
class Passed:
    """What the gates of one kind did in a forward pass, with gradient: sigmoids and decisions [layers, inputs, units]."""

    sigmoids: torch.Tensor
    decisions: torch.Tensor

    @property
    def inputs(self) -> int:
        """Inputs of the pass."""
        return self.decisions.shape[1]


class GateBank(nn.Module):
    """`kinds` are gated. `places` says how many units of a kind are open in each layer, None: as many as want to."""

    frozen: torch.Tensor
    figures: torch.Tensor
    """What freezing changed (freezing.py), not a number before."""

    def __init__(self, anatomy: Anatomy, kinds: list[UnitKind], size: int, pad_id: int) -> None:
        super().__init__()
        hidden = anatomy.config.hidden_size
        self.kinds, self.pad_id = kinds, pad_id
        self.shapes = {kind: (1 if kind == "layers" else anatomy.layers, anatomy.units[kind].count) for kind in kinds}
        self.widths = {kind: anatomy.units[kind].width for kind in kinds}
        self.places: dict[UnitKind, int | None] = {kind: anatomy.units[kind].count for kind in kinds}
        self.gates = nn.ModuleDict(
            {kind: nn.ModuleList(Gate(hidden, units, size) for _ in range(rows)) for kind, (rows, units) in self.shapes.items()}
        )
        self.ballots = nn.ModuleDict({kind: Ballot(rows, units) for kind, (rows, units) in self.shapes.items()})
        for kind, shape in self.shapes.items():
            self.register_buffer(f"open_{kind}", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("frozen", torch.tensor(False))
        self.register_buffer("figures", torch.full((5,), torch.nan))
        self._fixed: dict[UnitKind, list[torch.Tensor | None]] = {}
        self._inputs: Inputs | None = None
        self._now: dict[UnitKind, dict[int, torch.Tensor]] = {}
        self._sigmoids: dict[UnitKind, list[torch.Tensor]] = {}
        self._decisions: dict[UnitKind, list[torch.Tensor]] = {}
        self._is_frozen = self._forced = False
        self.register_load_state_dict_post_hook(lambda *_: self._loaded())  # type: ignore[no-untyped-call]

    @property
    def is_frozen(self) -> bool:
        """Whether the gates are constants for good."""
        return self._is_frozen

    def ballot(self, kind: UnitKind) -> Ballot:
        """The counts of one kind."""
        found = self.ballots[kind]
        assert isinstance(found, Ballot)
        return found

    def fix(self, choice: Choice) -> None:
        """What gates are in evaluation mode from now on."""
        for kind, table in choice.items():
            getattr(self, f"open_{kind}").copy_(table.view(self.shapes[kind]))
        self._fixed = {}

    def freeze(self) -> None:
        """What gates are in evaluation mode they are in training too, for good."""
        self.frozen.fill_(True)
        self._is_frozen = True

    @property
    def choice(self) -> Choice:
        """What gates are in evaluation mode."""
        tables = {kind: getattr(self, f"open_{kind}") for kind in self.kinds}
        return {kind: table[0] if kind == "layers" else table for kind, table in tables.items()}

    @contextmanager
    def dynamic(self) -> Iterator[None]:
        """Let each input decide in evaluation mode too; nothing is noted."""
        self._forced = True
        try:
            yield
        finally:
            self._forced = False
            self.take()

    def take(self) -> dict[UnitKind, Passed]:
        """What the last dynamic pass did, once; empty after a pass with constant gates."""
        found = {
            kind: Passed(torch.stack(self._sigmoids[kind]), torch.stack(self._decisions[kind]))
            for kind in self._decisions
            if self._decisions[kind]
        }
        self._sigmoids, self._decisions = {}, {}
        return found

    def attach(self, model: PreTrainedModel) -> None:
        """Hook into a model and become a part of it."""
        model.add_module(NAME, self)
        decoder = decoder_of(model)
        decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        for number, layer in enumerate(decoder.layers):
            layer.register_forward_pre_hook(self._deciding(number))
            if "heads" in self.kinds:
                layer.self_attn.o_proj.register_forward_pre_hook(self._applying("heads", number))
            if "neurons" in self.kinds:
                layer.mlp.down_proj.register_forward_pre_hook(self._applying("neurons", number))
            if "layers" in self.kinds:
                layer.register_forward_hook(self._mixing(number))

    def _begin(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Before the first layer: inputs and their own decisions, or constants."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        if self._is_frozen or not (decoder.training or self._forced):
            self._inputs = None
        else:
            self._inputs = Inputs.of(ids, kwargs.get("position_ids"), self.pad_id)
        self._now = {kind: {} for kind in self.kinds}
        self._sigmoids, self._decisions = {kind: [] for kind in self.kinds}, {kind: [] for kind in self.kinds}

    def _deciding(self, number: int) -> Any:
        """A hook before layer `number`."""

        def decide_here(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if self._inputs is None:
                return
            pooled, real = self._inputs.pool(args[0]), self._inputs.sizes > 0
            for kind in self.kinds:
                if kind != "layers" or number == 0:
                    gate = self.gates[kind][number]  # type: ignore[index]
                    sigmoids = likelihoods(gate(pooled), self.places[kind])
                    found = decide(sigmoids, self.places[kind])
                    self._now[kind][number] = found
                    self._sigmoids[kind].append(sigmoids[real])
                    self._decisions[kind].append(found[real])
                    if not self._forced:
                        self.ballot(kind).note(number, found[real])

        return decide_here

    def _applying(self, kind: UnitKind, number: int) -> Any:
        """A hook before o_proj or down_proj of layer `number`."""
        width = self.widths[kind]

        def apply(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            if self._inputs is None:
                constant = self._constant(kind, number)
                return None if constant is None else (args[0] * constant.to(args[0]), *args[1:])
            gates = self._inputs.spread(self._now[kind][number]).to(args[0])  # [B, 1 or T, units]
            blocks: torch.Tensor = args[0].unflatten(-1, (-1, width))  # type: ignore[no-untyped-call]
            return ((blocks * gates[..., None]).flatten(-2), *args[1:])

        return apply

    def _mixing(self, number: int) -> Any:
        """A hook after layer `number`: its input where its gate is closed, its output where it is open."""

        def mix(_: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            if self._inputs is None:
                return output if bool(self.choice["layers"][number]) else args[0]
            gates = self._inputs.spread(self._now["layers"][0][:, number : number + 1])
            return torch.lerp(args[0], output, gates.to(output).expand_as(output))

        return mix

    def _constant(self, kind: UnitKind, number: int) -> torch.Tensor | None:
        """What a layer's inputs of o_proj or down_proj are multiplied by [units · width], None where all is open."""
        if kind not in self._fixed:
            table = self.choice[kind]
            self._fixed[kind] = [None if bool(row.all()) else row.repeat_interleave(self.widths[kind]) for row in table]
        return self._fixed[kind][number]

    def _loaded(self) -> None:
        self._fixed, self._is_frozen = {}, bool(self.frozen)
