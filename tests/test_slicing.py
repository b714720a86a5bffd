"""Slicing: what is cut off computes nothing any more, and what is left loads as a plain model; targets that cannot be met; baselines."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, PreTrainedModel

from cleave.config.prune import PruneConfig
from cleave.errors import ConfigError
from cleave.pruning.baselines import at_random, by_magnitude, group_norms, without_deep_layers
from cleave.pruning.choice import Choice
from cleave.pruning.consensus_gates import ConsensusGates
from cleave.pruning.slicing import slice_model
from cleave.pruning.target import Target, target, targets
from cleave.pruning.units import SUPPORTED, Anatomy, decoder_of
from tests.tiny_decoders import VOCABULARY, make_decoder

IDS = torch.randint(1, VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(0))


def uniform(model: PreTrainedModel, seed: int = 0, heads: int = 2, neurons: int = 2) -> Choice:
    """Other units in each layer, as many everywhere; the middle layer goes."""
    generator = torch.Generator().manual_seed(seed)
    anatomy = Anatomy.of(model, 8)

    def table(count: int, kept: int) -> torch.Tensor:
        ranks = torch.stack([torch.randperm(count, generator=generator) for _ in range(anatomy.layers)])
        return ranks < kept

    return {
        "heads": table(anatomy.units["heads"].count, heads),
        "neurons": table(anatomy.units["neurons"].count, neurons),
        "layers": torch.tensor([True, False, True]),
    }


def gated(model: PreTrainedModel, choice: Choice) -> PreTrainedModel:
    """The same model with gates frozen at a choice."""
    gates = ConsensusGates(PruneConfig(sparsity={"heads": 0.5, "neurons": 0.5, "layers": 0.3}, block=8), steps=10, pad_id=0)
    gates.attach(model)
    gates.bank.fix(choice)
    gates.bank.freeze()
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(IDS).logits
    return found


def saved(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Through the disk, as others load it."""
    model.save_pretrained(folder)
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    return loaded.eval()


@pytest.mark.parametrize("kind", SUPPORTED)
def test_a_sliced_model_is_plain_smaller_and_computes_what_the_gated_one_does(kind: str, tmp_path: Path) -> None:
    model = make_decoder(kind)
    choice = uniform(model)
    plain = logits(model)
    loaded = saved(slice_model(model, choice, Anatomy.of(model, 8)), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(gated(model, choice)), atol=1e-5, rtol=0)
    assert (logits(loaded) - plain).abs().max() > 1e-2, "something was removed"
    shape = loaded.config
    assert (shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim) == (4, 2, 4)
    assert (shape.num_hidden_layers, shape.intermediate_size) == (2, 16)
    assert loaded.model.layers[0].self_attn.q_proj.weight.shape == (16, 32)
    again = loaded.generate(IDS, max_new_tokens=4, do_sample=False)
    cut = slice_model(model, choice, Anatomy.of(model, 8)).generate(IDS, max_new_tokens=4, do_sample=False)
    assert again.tolist() == cut.tolist()


@pytest.mark.parametrize("kind", SUPPORTED)
def test_head_counts_that_do_not_divide_the_width_load(kind: str, tmp_path: Path) -> None:
    """3 of 4 groups are 6 query heads on a width of 32: Llama becomes Mistral; Gemma 2 and 3 keep a fourth group that answers nothing."""
    model = make_decoder(kind)
    choice = uniform(model, heads=3)
    loaded = saved(slice_model(model, choice, Anatomy.of(model, 8)), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(gated(model, choice)), atol=1e-5, rtol=0)
    assert loaded.config.model_type == ("mistral" if kind == "llama" else kind)
    assert loaded.config.num_attention_heads == (8 if kind in ("gemma2", "gemma3_text") else 6)


def test_a_llama_with_biases_keeps_its_name_and_a_count_that_divides(tmp_path: Path) -> None:
    model = make_decoder("llama", attention_bias=True, mlp_bias=True)
    choice = uniform(model, heads=3)
    loaded = saved(slice_model(model, choice, Anatomy.of(model, 8)), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(gated(model, choice)), atol=1e-5, rtol=0)
    assert (loaded.config.model_type, loaded.config.num_attention_heads) == ("llama", 8)


def test_where_one_key_value_head_is_shared_query_heads_are_units(tmp_path: Path) -> None:
    model = make_decoder("gemma", num_key_value_heads=1)
    anatomy = Anatomy.of(model, 8)
    assert (anatomy.units["heads"].count, anatomy.units["heads"].width) == (8, 4)
    choice = uniform(model, heads=3)
    loaded = saved(slice_model(model, choice, anatomy), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(gated(model, choice)), atol=1e-5, rtol=0)
    assert (loaded.config.num_attention_heads, loaded.config.num_key_value_heads) == (3, 1)


def test_layers_that_differ_keep_as_much_as_the_fullest_and_a_layer_may_lose_all(tmp_path: Path) -> None:
    """The free layout, and a layer whose units were all voted out."""
    model = make_decoder("qwen3")
    choice: Choice = {
        "heads": torch.tensor([[False, True, False, True], [False, False, False, False], [False, False, True, False]]),
        "neurons": torch.tensor([[False] * 4, [True, True, True, False], [False, False, True, False]]),
    }
    loaded = saved(slice_model(model, choice, Anatomy.of(model, 8)), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(gated(model, choice)), atol=1e-5, rtol=0)
    assert (loaded.config.num_key_value_heads, loaded.config.intermediate_size, loaded.config.num_hidden_layers) == (2, 24, 3)


def test_a_model_without_layers_is_refused() -> None:
    model = make_decoder("qwen3")
    with pytest.raises(ConfigError, match="keep at least one"):
        slice_model(model, {"layers": torch.zeros(3, dtype=torch.bool)}, Anatomy.of(model, 8))


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_stay_tied(tied: bool, tmp_path: Path) -> None:
    model = make_decoder("qwen3", tie_word_embeddings=tied)
    loaded = saved(slice_model(model, uniform(model), Anatomy.of(model, 8)), tmp_path)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert sum(part.numel() for part in loaded.parameters()) < sum(part.numel() for part in model.parameters())


def test_a_classifier_keeps_its_head() -> None:
    config = make_decoder("qwen3").config
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config).eval()
    choice = uniform(model)
    sliced = slice_model(model, choice, Anatomy.of(model, 8))
    torch.testing.assert_close(logits(sliced), logits(gated(model, choice)), atol=1e-5, rtol=0)


def test_slicing_draws_no_random_numbers() -> None:
    model = make_decoder("qwen3")
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    slice_model(model, uniform(model), Anatomy.of(model, 8))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("kind", "changes", "sparsity", "kept"),
    [
        ("qwen3", {}, 0.5, 2),
        ("qwen3", {}, 0.4, 2),
        ("qwen3", {}, 0.3, 3),
        ("qwen3", {}, 0.375, 3),
        ("qwen3", {}, 0.99, 1),
        ("llama", {}, 0.3, 3),
        ("llama", {"attention_bias": True}, 0.3, 2),
        ("gemma2", {}, 0.3, 2),
        ("gemma2", {}, 0.2, 4),
        ("gemma3_text", {}, 0.4, 2),
        ("qwen3", {"num_key_value_heads": 8}, 0.3, 6),
    ],
)
def test_the_nearest_number_of_heads_that_loads_stays(kind: str, changes: dict[str, Any], sparsity: float, kept: int) -> None:
    found = target(Anatomy.of(make_decoder(kind, **changes), 8), "heads", sparsity)
    assert found.kept == kept
    met = abs(found.sparsity - sparsity) < 1e-9
    assert ("the nearest to" in str(found)) != met


def test_units_cost_what_slicing_saves() -> None:
    """A unit's parameters are those that a model without it lacks, in every architecture and for shared keys."""
    for kind, changes in [*((kind, {}) for kind in SUPPORTED), ("gemma", {"num_key_value_heads": 1})]:
        if kind == "qwen2":
            continue  # its biases are no weights of a matrix
        model = make_decoder(kind, **changes)
        anatomy = Anatomy.of(model, 8)
        size = sum(part.numel() for part in model.parameters())
        for name in ("heads", "neurons"):
            count = anatomy.units[name].count
            choice: Choice = {name: (torch.arange(count) < count // 2).expand(anatomy.layers, -1)}
            lost = size - sum(part.numel() for part in slice_model(model, choice, anatomy).parameters())
            assert lost == anatomy.units[name].parameters * (count - count // 2) * anatomy.layers, (kind, name)
        lost = size - sum(part.numel() for part in slice_model(model, {"layers": torch.tensor([True, False, True])}, anatomy).parameters())
        assert lost == anatomy.units["layers"].parameters


def test_what_does_not_fit_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"prune knows the units of llama.*not of gpt2; remove prune"):
        Anatomy.of(AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9)), 8)
    with pytest.raises(ConfigError, match=r"prune\.block 12 does not divide 32 neurons; set it to 8"):
        Anatomy.of(make_decoder("qwen3"), 12)
    with pytest.raises(ConfigError, match=r"removes nothing: 4 of 4 units of heads.* raise prune\.sparsity to 0\.25"):
        targets(Anatomy.of(make_decoder("qwen3"), 8), {"heads": 0.1})


# ---- baselines


@pytest.mark.parametrize("kind", ["heads", "neurons", "layers"])
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 1}], ids=["grouped", "shared"])
def test_magnitude_keeps_the_units_with_the_largest_weights(kind: Any, changes: dict[str, Any]) -> None:
    """A unit's norm is what the model's weights lose when it is cut off."""
    model = make_decoder("qwen3", **changes)
    anatomy = Anatomy.of(model, 8)
    found = group_norms(model, anatomy, kind)
    whole = sum(float(part.detach().square().sum()) for part in decoder_of(model).layers.parameters())
    units = anatomy.units[kind].count
    for unit in (0, units - 1):
        table = torch.arange(units) != unit
        sliced = slice_model(model, {kind: table if kind == "layers" else table.expand(anatomy.layers, -1)}, anatomy)
        left = sum(float(part.detach().square().sum()) for part in decoder_of(sliced).layers.parameters())
        norm = found[unit] if kind == "layers" else found[:, unit].square().sum().sqrt()
        assert float(norm) == pytest.approx((whole - left) ** 0.5, rel=1e-4)
    choice = by_magnitude(model, anatomy, {kind: Target(kind, units, units // 2, 0.5)})[kind]
    assert bool((found.where(choice, torch.inf).amin(-1) >= found.where(~choice, 0).amax(-1)).all())


def test_random_units_are_a_function_of_the_seed() -> None:
    anatomy = Anatomy.of(make_decoder("qwen3"), 8)
    wanted = targets(anatomy, {"heads": 0.5, "neurons": 0.25, "layers": 0.3})
    first, again, other = (at_random(anatomy, wanted, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[kind], again[kind]) for kind in wanted)
    assert any(not torch.equal(first[kind], other[kind]) for kind in wanted)
    assert first["neurons"].sum(-1).tolist() == [3, 3, 3]
    assert int(first["layers"].sum()) == 2


def test_deep_layers_go_and_the_last_stays() -> None:
    anatomy = Anatomy.of(make_decoder("qwen3", num_hidden_layers=5), 8)
    assert without_deep_layers(anatomy, 3)["layers"].int().tolist() == [1, 1, 0, 0, 1]
    assert without_deep_layers(anatomy, 1)["layers"].int().tolist() == [1, 0, 0, 0, 0]
    assert bool(without_deep_layers(anatomy, 5)["layers"].all())
