"""Gates: the mathematics of their terms, decisions and votes; what is an input; workers agree; gates change nothing where they are open."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from hypothesis import given
from hypothesis import strategies as st

from cleave.config.base import validate
from cleave.config.prune import PruneConfig
from cleave.errors import ConfigError
from cleave.examples import Example
from cleave.objectives import CrossEntropy
from cleave.packing import pack, pad
from cleave.pruning.ballot import Ballot
from cleave.pruning.choice import closed_shares, majority, most_voted, with_a_layer
from cleave.pruning.consensus_gates import ConsensusGates
from cleave.pruning.freezing import freeze
from cleave.pruning.gate import Gate, decide, likelihoods
from cleave.pruning.inputs import Inputs
from cleave.pruning.polarization import counted_as, crowding, excess, polarization, remember, with_gradient
from cleave.pruning.schedule import Schedule
from tests.test_training import make_examples, make_model, make_stream, make_trainer, weights
from tests.tiny_decoders import make_decoder

HALF = PruneConfig(sparsity={"heads": 0.5, "neurons": 0.5}, block=8)


def make_gates(config: PruneConfig = HALF, kind: str = "qwen3", steps: int = 10, **changes: Any) -> tuple[ConsensusGates, Any]:
    model = make_decoder(kind, **changes)
    gates = ConsensusGates(config, steps=steps, pad_id=0)
    torch.manual_seed(0)
    gates.attach(model)
    return gates, model


def scatter(gates: ConsensusGates, scale: float = 1.0) -> None:
    """Gates whose decisions differ from input to input."""
    for kind in gates.targets:
        for gate in gates.bank.gates[kind]:
            torch.nn.init.normal_(gate.outer.weight, std=scale)


# ---- terms


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_polarization_is_nothing_where_all_agree_and_a_quarter_at_most(rates: list[float]) -> None:
    found = float(polarization(torch.tensor(rates, dtype=torch.float64)))
    assert -1e-12 <= found <= 0.25 + 1e-12
    assert (found < 1e-12) == all(min(rate, 1 - rate) < 1e-12 for rate in rates) or found < 1e-9
    assert float(polarization(torch.full((5,), 0.5))) == 0.25
    assert float(polarization(torch.tensor([0.0, 1.0, 1.0]))) == 0


def test_polarization_pushes_a_gate_to_where_most_inputs_have_it() -> None:
    rates = torch.tensor([0.2, 0.5, 0.9], requires_grad=True)
    polarization(rates).backward()
    assert rates.grad is not None
    assert rates.grad.sign().tolist() == [1, 0, -1], "descent lowers the first and raises the last"


def test_the_passes_of_a_step_add_up_to_its_penalty() -> None:
    """Value and gradient of a term of a running mean, cut into passes of 2, 3 and 1 inputs."""
    decisions = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    running = torch.tensor([0.1, 0.4, 0.7, 1.0])
    total = torch.zeros(())
    for part in decisions.split([2, 3, 1]):
        total = total + counted_as(polarization(with_gradient(running, part.sum(0) / 6)), len(part) / 6)
    total.backward()
    assert total.item() == pytest.approx(float(polarization(running)))
    expected = (1 - 2 * running) / 4 / 6
    torch.testing.assert_close(decisions.grad, expected.expand(6, 4))


def test_activity_terms_are_nothing_at_the_target_only() -> None:
    assert float(crowding(torch.tensor([[[0.3, 0.5], [0.1, 0.7]]] * 3), 0.4)) == pytest.approx(0, abs=1e-12)
    assert float(crowding(torch.tensor([[[0.5, 0.7], [0.1, 0.1]]]), 0.4)) == pytest.approx(0.04 + 0.09)
    assert float(excess(torch.tensor([0.6, 0.6]), 0.6)) == 0
    assert float(excess(torch.tensor([0.5, 0.8]), 0.6)) == pytest.approx(0.01 + 0.04)


def test_a_running_mean_ends_where_the_steps_are() -> None:
    rate = torch.ones(1)
    for _ in range(200):
        rate = remember(rate, torch.tensor([0.25]))
    assert float(rate) == pytest.approx(0.25, abs=1e-4)


# ---- decisions


@given(st.integers(1, 6), st.integers(0, 100))
def test_competition_opens_exactly_the_places_there_are(places: int, seed: int) -> None:
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
    sigmoids = likelihoods(logits, places)
    gates = decide(sigmoids, places)
    assert gates.sum(-1).tolist() == [places] * 5
    assert torch.equal(gates > 0.5, sigmoids > 0.5)
    torch.testing.assert_close(likelihoods(logits + 7, places), sigmoids), "only differences matter"
    assert torch.equal(decide(likelihoods(logits, None), None) > 0.5, logits > 0)


def test_gradients_pass_straight_through_decisions() -> None:
    for places in (2, None):
        sigmoids = torch.tensor([[0.9, 0.2, 0.6, 0.55]], requires_grad=True)
        gates = decide(sigmoids, places)
        assert gates.tolist() == [[1, 0, 1, 0 if places else 1]]
        upstream = torch.tensor([[1.0, -2.0, 3.0, 4.0]])
        gates.backward(upstream)
        torch.testing.assert_close(sigmoids.grad, upstream)


def test_a_gate_starts_open_and_moves_by_its_input_alone() -> None:
    gate = Gate(8, 4, 16)
    pooled = torch.randn(3, 8, requires_grad=True)
    logits = gate(pooled)
    assert bool((logits > 0).all())
    logits.sum().backward()
    assert pooled.grad is None, "states are not bent towards gates"
    assert gate.inner.weight.grad is not None
    torch.testing.assert_close(gate(5 * pooled), logits), "the scale of the residual stream does not matter"


# ---- inputs


def test_padding_belongs_to_no_input_and_packed_sequences_are_apart() -> None:
    rows = [Example((5, 6, 7), (False, True, True)), Example((8, 9, 10, 11, 12), (False,) + (True,) * 4)]
    padded, packed = pad(rows, 0), pack(rows, 0, 12)
    states = torch.randn(40, 3)

    def pooled(batch: Any) -> torch.Tensor:
        inputs = Inputs.of(batch["input_ids"], batch.get("position_ids"), 0)
        return inputs.pool(states[batch["input_ids"]])[inputs.sizes > 0]

    expected = torch.stack([states[torch.tensor(row.input_ids)].mean(0) for row in rows])
    torch.testing.assert_close(pooled(padded), expected)
    torch.testing.assert_close(pooled(packed).sort(0).values, expected.sort(0).values)


def test_values_reach_the_tokens_of_their_input() -> None:
    ids = torch.tensor([[5, 6, 7, 8, 0]])
    inputs = Inputs.of(ids, torch.tensor([[0, 1, 0, 1, 0]]), 0)
    assert inputs.sizes.tolist() == [2, 2, 0]
    assert inputs.spread(torch.tensor([[1.0], [2.0], [3.0]])).flatten().tolist() == [1, 1, 2, 2, 3]
    alone = Inputs.of(ids, None, 0)
    assert alone.spread(torch.tensor([[4.0]])).shape == (1, 1, 1)


@pytest.mark.parametrize("kind", ["heads", "neurons", "layers"])
def test_packed_and_padded_examples_are_gated_alike(kind: Any) -> None:
    gates, model = make_gates(PruneConfig(sparsity={kind: 0.5}, block=8))
    scatter(gates)
    gates.plan(10)
    model.train()
    examples = make_examples()[:7]
    objective = CrossEntropy()
    losses = []
    for batch in (pad(examples, 0), pack(examples, 0, 40)):
        losses.append(objective.loss(model, batch, 0)[0].item())
        assert gates.bank.take()[kind].inputs == len(examples)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# ---- gates in a model


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
def test_open_gates_change_nothing(kind: str) -> None:
    ids = torch.randint(1, 40, (2, 9))
    plain = make_decoder(kind)(ids).logits
    config = PruneConfig(sparsity={"heads": 0.5, "neurons": 0.5, "layers": 0.3}, block=8)
    _, model = make_gates(config, kind)
    torch.testing.assert_close(model.eval()(ids).logits, plain)
    torch.testing.assert_close(model.train()(ids).logits, plain, atol=1e-6, rtol=0)


def test_training_decides_by_input_and_evaluation_does_not() -> None:
    gates, model = make_gates()
    scatter(gates)
    gates.plan(10)
    ids = torch.randint(1, 40, (6, 9))
    model.train()(ids)
    passed = gates.bank.take()["neurons"]
    assert len(passed.decisions.unique(dim=1)[0]) > 1, "inputs differ"
    gates.end_step(10)
    model.eval()
    together, alone = model(ids).logits, torch.cat([model(row[None]).logits for row in ids])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not gates.bank.take()
    with gates.bank.dynamic():
        assert not torch.allclose(model(ids).logits, together, atol=1e-4)


def test_every_gate_gets_a_gradient_and_frozen_ones_get_zeros() -> None:
    """DistributedDataParallel demands one of every parameter."""
    config = PruneConfig(sparsity={"heads": 0.5, "neurons": 0.5, "layers": 0.3}, block=8)
    gates, model = make_gates(config)
    scatter(gates)
    gates.plan(10)
    batch = pad(make_examples()[:5], 0)
    for frozen in (False, True):
        if frozen:
            gates.consensus()
        model.train().zero_grad(set_to_none=True)
        (CrossEntropy().loss(model, batch, 0)[0] + gates.penalty(9, 5)).backward()
        found = [part.grad for part in gates.bank.parameters()]
        assert all(one is not None for one in found)
        assert all(bool((one == 0).all()) for one in found) == frozen


def train_gates(gates: ConsensusGates, model: torch.nn.Module, *, learning_rate: float, inputs: int, steps: int) -> None:
    """Train the gates alone, on what they add to the loss."""
    optimizer = torch.optim.Adam(gates.bank.parameters(), learning_rate)
    ids = torch.randint(1, 40, (inputs, 9), generator=torch.Generator().manual_seed(1))
    model.train()
    for step in range(steps):
        model(ids)
        gates.penalty(step, inputs).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
        gates.end_step(step + 1)


@pytest.mark.parametrize(("weight", "agrees"), [(3.0, True), (0.0, False)])
def test_polarization_makes_gates_agree_and_without_it_they_do_not(weight: float, agrees: bool) -> None:
    gates, model = make_gates(PruneConfig(sparsity={"neurons": 0.5}, block=8, polarization=weight, polarization_ramp=(0, 0.1)), steps=100)
    scatter(gates, 0.2)
    train_gates(gates, model, learning_rate=1e-2, inputs=16, steps=90)
    assert (gates.agreement()["neurons"] > 0.99) == agrees
    gates.consensus()
    assert (gates.agreement()["neurons"] > 0.99) == agrees
    assert gates.bank.choice["neurons"].sum(-1).tolist() == [2, 2, 2], "as many in each layer"


@pytest.mark.parametrize("cost", ["parameters", "flops"])
def test_the_free_layout_comes_to_the_target_by_cost(cost: Any) -> None:
    config = PruneConfig(
        sparsity={"heads": 0.5, "neurons": 0.25}, block=8, layout="free", cost=cost, activity=5.0, sparsity_ramp=(0, 0.2), polarization=0.3
    )
    gates, model = make_gates(config, steps=100)
    train_gates(gates, model, learning_rate=5e-3, inputs=8, steps=70)
    shares = gates._weights()
    assert sum(shares.values()) == pytest.approx(1)
    kept = sum(shares[kind] * float(gates.bank.ballot(kind).rate.mean()) for kind in shares)
    assert kept == pytest.approx(1 - shares["heads"] * 0.5 - shares["neurons"] * 0.25, abs=0.12)


def test_freezing_that_changes_nothing_is_measured_as_nothing() -> None:
    examples = make_examples()[:12]
    gates, model = make_gates()
    gates.plan(10)
    for kind in gates.targets:  # decisions are by bias alone: all inputs agree
        for gate in gates.bank.gates[kind]:
            torch.nn.init.zeros_(gate.outer.weight)
            gate.outer.bias.data.copy_(torch.rand_like(gate.outer.bias))
    model.train()
    CrossEntropy().loss(model, pad(examples, 0), 0)
    gates.end_step(1)
    gates.plan(10)
    agreed = freeze(model, gates, examples, 0)
    assert agreed["loss_before"] == pytest.approx(agreed["loss_after"], rel=1e-5)
    assert agreed["same"] == 1
    assert model.training
    other, model = make_gates()
    scatter(other)
    other.plan(10)
    differ = freeze(model, other, examples, 0)
    assert differ["same"] < 1
    assert differ["loss_before"] != pytest.approx(differ["loss_after"], rel=1e-4)


# ---- votes


def test_the_most_voted_stay_and_of_equals_the_first() -> None:
    assert most_voted(torch.tensor([[0.2, 0.9, 0.9, 0.1], [0.5, 0.5, 0.5, 0.5]]), 2).int().tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]
    assert majority(torch.tensor([0.5, 0.51, 0.0])).tolist() == [False, True, False]


def test_when_all_layers_are_voted_out_the_best_stays() -> None:
    votes = {"layers": torch.tensor([[0.1, 0.4, 0.2]])}
    choice = with_a_layer({"layers": majority(votes["layers"])}, votes)  # type: ignore[dict-item, arg-type]
    assert choice["layers"].tolist() == [[False, True, False]]


def test_what_is_closed_by_layer() -> None:
    choice = {"heads": torch.tensor([[True, False], [True, True]]), "layers": torch.tensor([True, False])}
    assert closed_shares(choice) == {"heads": [0.5, 1.0], "layers": [0.0, 1.0]}  # type: ignore[arg-type]


def test_votes_are_those_since_the_polls_opened() -> None:
    ballot = Ballot(1, 2)
    ballot.note(0, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    ballot.settle()
    ballot.open_polls()
    assert ballot.shares.tolist() == ballot.rate.tolist(), "nobody has voted yet"
    ballot.note(0, torch.tensor([[0.0, 1.0]]))
    ballot.note(0, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    ballot.settle()
    ballot.settle()
    assert ballot.voters.tolist() == [[3]]
    torch.testing.assert_close(ballot.shares, torch.tensor([[1 / 3, 1.0]]))


def test_votes_of_all_workers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose inputs want the first unit is outvoted by another one's more inputs."""
    others = torch.tensor([[0.0, 5.0, 5.0]])
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda values: values.add_(others))
    ballot = Ballot(1, 2)
    ballot.note(0, torch.tensor([[1.0, 0.0]] * 3))
    ballot.settle()
    assert ballot.voters.tolist() == [[8]]
    torch.testing.assert_close(ballot.shares, torch.tensor([[3 / 8, 5 / 8]]))


def _vote(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gates, model = make_gates()
    scatter(gates)
    gates.plan(10)
    model.train()
    torch.manual_seed(rank)
    for step in range(1, 3):
        model(torch.randint(1, 40, (3 + 4 * rank, 9)))
        gates.end_step(step)
    gates.consensus()
    torch.save({kind: [table, gates.bank.ballot(kind).voters] for kind, table in gates.bank.choice.items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_come_to_one_consensus(tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    processes.spawn(_vote, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for kind in first:
        assert torch.equal(first[kind][0], second[kind][0])
        assert first[kind][1].flatten().tolist() == second[kind][1].flatten().tolist()
        assert float(first[kind][1].max()) >= 10


# ---- in the trainer


def gated_trainer(folder: Path, callbacks: Callable[[], list[Any]] = list, **options: Any) -> Any:
    """Six steps, frozen after four."""
    from cleave.pruning.freezing import GateSteps

    gates = ConsensusGates(PruneConfig(sparsity={"neurons": 0.5}, block=8, window=0.2), steps=6, pad_id=0)
    return make_trainer(folder, gates=gates, callbacks=[GateSteps(gates, make_examples()[:6]), *callbacks()], **options)


def test_a_resumed_gated_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    from tests.test_training import StopAt

    whole = gated_trainer(tmp_path / "whole")
    assert whole.fit()
    for stop in (3, 5):
        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            gated_trainer(folder, lambda stop=stop: [StopAt(stop)]).fit()  # type: ignore[misc]
        resumed = gated_trainer(folder)
        assert resumed.fit()
        torch.testing.assert_close(weights(resumed), weights(whole), atol=1e-6, rtol=0)
        ended, expected = (trainer.gates.summary() for trainer in (resumed, whole))
        assert ended["freezing"] == pytest.approx(expected["freezing"], abs=1e-6)
        assert ended["agreement"] == pytest.approx(expected["agreement"], abs=1e-6)
        again = gated_trainer(folder)
        assert again.fit()
        assert again.gates.final
        assert torch.equal(again.gates.bank.choice["neurons"], whole.gates.bank.choice["neurons"])


def test_gated_weights_do_not_depend_on_how_a_step_is_cut(tmp_path: Path) -> None:
    whole = gated_trainer(tmp_path / "whole")
    whole.fit()
    cut = gated_trainer(tmp_path / "cut", stream=make_stream(25, 4), accumulation=4)
    cut.fit()
    torch.testing.assert_close(weights(cut), weights(whole), atol=1e-4, rtol=0)


def test_the_best_weights_are_sliced_ones_kept_after_freezing(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from cleave.callbacks import EvaluateEvery

    losses = iter([0.1, 0.9, 0.8])
    trainer = gated_trainer(tmp_path, lambda: [EvaluateEvery(2)], measure=lambda model: {"loss": next(losses)})
    trainer.fit()
    trainer.evaluate()
    assert (trainer.best_step, trainer.best_value) == (6, 0.8), "0.1 was of a model that nobody gets"
    best = AutoModelForCausalLM.from_pretrained(trainer.best_dir)
    assert best.config.intermediate_size == make_model().config.intermediate_size // 2
    ids = torch.randint(2, 40, (2, 8))
    torch.testing.assert_close(best(ids).logits, trainer.model.eval()(ids).logits, atol=1e-5, rtol=0)


# ---- schedule and config


@given(st.floats(0.3, 1.0), st.floats(0.01, 1.0), st.integers(1, 500))
def test_ramps_rise_and_voters_know_the_whole_target(freeze_at: float, window: float, steps: int) -> None:
    config = PruneConfig(freeze=freeze_at, window=window, sparsity_ramp=(0.1, 0.25), polarization_ramp=(0.2, 0.3))
    schedule = Schedule.of(config, steps)
    assert 0 <= schedule.polls_at < schedule.freeze_at <= max(1, steps)
    for ramp in (schedule.sparsity, schedule.polarization):
        values = [ramp(step) for step in range(steps + 1)]
        assert values == sorted(values)
        assert values[-1] == 1 or ramp == schedule.polarization
    assert all(schedule.sparsity(step) == 1 for step in range(schedule.polls_at, schedule.freeze_at))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"sparsity": 0}, "removes nothing"),
        ({"sparsity": {"heads": 0.0, "layers": 0.0}}, "removes nothing"),
        ({"sparsity": 1}, "something has to stay"),
        ({"sparsity": {"neurons": -0.1}}, "something has to stay"),
        ({"sparsity": {"experts": 0.5}}, "experts"),
        ({"sparsity": {}}, "sparsity"),
        ({"sparsity_ramp": [0.5, 0.4]}, "sparsity_ramp goes"),
        ({"polarization_ramp": [0.5, 0.9]}, "ends before freeze"),
        ({"freeze": 0}, "freeze"),
        ({"lambda": 1}, "lambda"),
    ],
)
def test_mistakes_in_the_section_say_what_to_do(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(PruneConfig, section, "the test")


def test_one_number_stands_for_heads_and_neurons() -> None:
    assert validate(PruneConfig, {"sparsity": 0.25}, "the test").sparsity == {"heads": 0.25, "neurons": 0.25}
