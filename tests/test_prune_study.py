"""What gates are compared with: other methods of `prune:`, and the study that puts sizes and freezing beside what is solved."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cleave.config.base import validate
from cleave.config.prune import PruneConfig
from cleave.config.study import StudyConfig
from cleave.config.verifier_study import load_study
from cleave.errors import ConfigError
from cleave.lm.checkpoint import load_checkpoint
from cleave.pruning.baselines import cut
from pipelines.distill import main as distill
from pipelines.start import load_start
from pipelines.study import main
from tests.test_prune_distill import PRUNE, SHAPE, TRAIN, pruned_config

LAYERS = {"sparsity": {"heads": 0.0, "neurons": 0.0, "layers": 0.5}}


@pytest.mark.parametrize(("method", "shape"), [("magnitude", (1, 16, 2)), ("random", (1, 16, 2)), ("layers", (2, 32, 1))])
def test_a_control_is_cut_before_training_and_then_trained(tmp_path: Path, method: str, shape: tuple[int, int, int]) -> None:
    """The checkpoint is as small as the method says, has learned, and its card says how it was cut."""
    config = pruned_config(tmp_path, {"method": method} | (LAYERS if method == "layers" else {}), train=TRAIN | {"max_steps": 3})
    start, gates = cut(load_start(config)[0], config.prune, config.seed)
    assert distill(config) == 0
    found = load_checkpoint(str(tmp_path / "tiny" / "checkpoint")).model
    assert (found.config.num_key_value_heads, found.config.intermediate_size, found.config.num_hidden_layers) == shape
    weights = found.state_dict()
    assert {name: value.shape for name, value in weights.items()} == {name: value.shape for name, value in start.state_dict().items()}
    assert any(not torch.equal(value, weights[name]) for name, value in start.state_dict().items())
    details = json.loads((tmp_path / "tiny" / "pruned.json").read_text())
    assert details["method"] == method
    assert details["removed"] == pytest.approx(0.5)
    assert details["closed"] == gates.summary()["closed"]
    card = (tmp_path / "tiny" / "checkpoint" / "README.md").read_text()
    assert "before training" in card
    assert "agreed with the consensus" not in card


def test_a_seed_draws_other_units_and_magnitude_does_not(tmp_path: Path) -> None:
    model = load_start(pruned_config(tmp_path))[0]
    for method, differs in (("random", True), ("magnitude", False)):
        config = PruneConfig.model_validate(PRUNE | {"method": method})
        closed = [cut(model, config, seed)[0].state_dict() for seed in range(6)]
        assert any(not torch.equal(value, other[name]) for other in closed[1:] for name, value in closed[0].items()) == differs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magnitude", "polarization": 0.5}, "polarization is a matter of gates, and magnitude has none"),
        ({"method": "random", "layout": "free"}, "layout is a matter of gates"),
        ({"method": "layers"}, "removes whole layers only"),
        ({"method": "best"}, "method"),
    ],
)
def test_what_a_method_does_not_have_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(PruneConfig, changes, "the test")


def test_controls_have_no_gates_to_look_into_layers(tmp_path: Path) -> None:
    train = TRAIN | {"gradient_checkpointing": True}
    assert pruned_config(tmp_path, {"method": "magnitude"}, train=train).train.gradient_checkpointing
    with pytest.raises(ConfigError, match="gates look into every layer"):
        pruned_config(tmp_path, train=train)


def study(folder: Path, **changes: Any) -> dict[str, Any]:
    small = PRUNE | {"latency_tokens": 0}
    return {
        "name": "pruned",
        "storage_path": str(folder),
        "models": {"T": {"decomposer": {"model": "reference:decomposer"}, "solver": {"model": "reference:solver"}}},
        "distill": {
            "source": "gold",
            "tasks": ["lookup"],
            "init": {"fresh": SHAPE},
            "train": {"max_steps": 4, "per_device_train_batch_tokens": 200, "gradient_accumulation_steps": 1},
            "evaluation": {"examples": 4, "generate": 0, "eval_steps": 4},
        },
        "students": {
            "gates": {"role": "decomposer", "prune": small},
            "magnitude": {"role": "decomposer", "prune": small | {"method": "magnitude"}},
        },
        "evaluate": {"tasks": [{"task": "lookup", "problems": 2}], "backend": "inline", "report": False},
        "rows": {
            "T → T": {"decomposer": "T", "solver": "T"},
            "gates": {"decomposer": "gates", "solver": "T"},
            "against magnitude": {"decomposer": "gates", "solver": "T", "against": "magnitude"},
            "magnitude": {"decomposer": "magnitude", "solver": "T"},
        },
        "baseline": "T → T",
        "sizes": True,
    } | changes


def test_a_study_shows_sizes_and_freezing_beside_what_is_solved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.sizes.NEW_TOKENS", 1)
    config = validate(StudyConfig, study(tmp_path), "the test")
    assert main(config, as_json=True) == 0
    rows = {row["row"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {row["part"] for row in rows.values()} == {"decomposer"}
    assert rows["gates"]["size"]["parameters"] == rows["magnitude"]["size"]["parameters"] < rows["T → T"]["size"]["parameters"]
    assert rows["against magnitude"]["size"] == rows["gates"]["size"]
    assert rows["against magnitude"]["difference"]["against"] == "magnitude"
    assert set(rows["gates"]["size"]) >= {"parameters", "flops", "bytes", "seconds_1", "seconds_32"}
    assert not (tmp_path / "pruned" / "collection").exists()
    report = (tmp_path / "pruned" / "report.html").read_text()
    assert "Size of what differs" in report
    assert "Gates when they were frozen" in report
    assert main(config) == 0
    printed = capsys.readouterr().out
    assert "Gates when they were frozen" in printed
    assert (tmp_path / "pruned" / "sizes.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": {"tasks": ["lookup"], "init": {"fresh": SHAPE}}}, "learns from a collection; say what to collect"),
        ({"teacher": "T"}, "set both or neither"),
        ({"models": {"T": {"decomposer": "openai:m@http://x", "solver": "reference:solver"}}}, "'T' has no local weights"),
    ],
)
def test_mistakes_in_a_study_are_found_early(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(StudyConfig, study(tmp_path, **changes), "the test")


def test_the_shipped_study_compares_at_equal_cost(root: Path) -> None:
    """All arms of a role but the one that says so train on as many tokens; those that prune aim at the same size."""
    config = load_study(root / "configs" / "studies" / "prune.yaml")
    assert isinstance(config, StudyConfig)
    arms = {name: config.student(name, 0) for name in config.students}
    tokens = {name: arm.train.max_tokens or 0 for name, arm in arms.items()}
    assert {value for name, value in tokens.items() if "twice" not in name} == {1_000_000}
    assert sum(tokens[name] * len(config.seeds_of(name)) for name in arms) <= 20_000_000
    assert {arm.prune.method for arm in arms.values() if arm.prune} == {"consensus", "magnitude", "random", "layers"}
    assert all(max(arm.prune.sparsity.values()) == 0.5 for arm in arms.values() if arm.prune)
    assert sum(task.problems for task in config.row("D gates", 0, dict.fromkeys(arms, "x")).tasks) == 3 * 1340


def test_the_dense_control_has_the_shape_of_the_pruned_model(root: Path) -> None:
    """Half of the heads and neurons of the shipped decomposer, whichever ships."""
    config = load_study(root / "configs" / "studies" / "prune.yaml")
    fresh = config.student("D fresh", 0).init.fresh
    whole = json.loads((root / "reference" / "decomposer" / "config.json").read_text())
    for name, share in {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 2}.items():
        assert getattr(fresh, name) * share == whole[name], "change the shape of `D fresh` in configs/studies/prune.yaml"
    for name in ("hidden_size", "num_hidden_layers", "head_dim", "tie_word_embeddings"):
        assert getattr(fresh, name) == whole[name], "change the shape of `D fresh` in configs/studies/prune.yaml"
