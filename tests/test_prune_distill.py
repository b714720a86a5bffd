"""`prune:` in `cleave distill`: one run leaves a smaller plain checkpoint that answers, says what was removed, and resumes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from cleave.errors import ConfigError
from cleave.lm.checkpoint import load_checkpoint
from pipelines.distill import main
from tests.test_distill import make_config

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
PRUNE: dict[str, Any] = {"sparsity": {"heads": 0.5, "neurons": 0.5}, "block": 8, "latency_tokens": 2}
TRAIN = {"max_steps": 10, "per_device_train_batch_tokens": 300, "gradient_accumulation_steps": 1, "save_steps": 4, "logging_steps": 1}


def pruned_config(folder: Path, prune: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Ten steps, frozen after seven."""
    return make_config(folder, **({"init": {"fresh": SHAPE}, "train": TRAIN, "prune": PRUNE | (prune or {})} | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert main(pruned_config(folder)) == 0
    return folder / "tiny"


def test_the_checkpoint_is_smaller_plain_and_answers(finished: Path) -> None:
    config = json.loads((finished / "checkpoint" / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["intermediate_size"]) == (2, 1, 16)
    loaded = AutoModelForCausalLM.from_pretrained(finished / "checkpoint")
    assert not [name for name in loaded.state_dict() if "gate" in name and "gate_proj" not in name]
    checkpoint = load_checkpoint(str(finished / "checkpoint"))
    ids = torch.tensor([checkpoint.tokenizer("how many")["input_ids"]])
    assert checkpoint.model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > ids.shape[1]


def test_the_card_and_the_run_say_what_was_removed(finished: Path) -> None:
    details = json.loads((finished / "pruned.json").read_text())
    assert details == json.loads((finished / "checkpoint" / "pruned.json").read_text())
    assert details["removed"] == pytest.approx(0.5)
    parameters = sum(part.numel() for part in AutoModelForCausalLM.from_pretrained(finished / "checkpoint").parameters())
    assert details["sliced"]["parameters"] == parameters < details["dense"]["parameters"]
    assert details["sliced"]["flops"] < details["dense"]["flops"]
    assert details["closed"] == {"heads": [0.5, 0.5], "neurons": [0.5, 0.5]}
    assert set(details["freezing"]) == {"loss_before", "loss_after", "exact_before", "exact_after", "same"}
    card = (finished / "checkpoint" / "README.md").read_text()
    for said in (
        "1 of 2 units of heads",
        "2 of 4 blocks of neurons",
        "50.0 % of the gated parameters",
        f"| {parameters:,} |",
        "seconds, 32",
    ):
        assert said in card
    assert yaml.safe_load(card.split("---\n", 2)[1])["library_name"] == "transformers"
    assert (finished / "agreement.svg").read_text().startswith("<svg")
    assert (finished / "sparsity.svg").read_text().startswith("<svg")


def test_the_best_weights_are_those_after_freezing(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert result["best_step"] > 7
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "agreement/heads" in row] == list(range(1, 7)), "from step 7 on there is nothing to agree on"
    assert result["best_loss"] == pytest.approx(min(row["eval_loss"] for row in rows if "eval_loss" in row and row["step"] > 7))


@pytest.mark.parametrize("stop", [5, 9], ids=["before freezing", "after freezing"])
def test_a_killed_run_resumes_to_the_same_checkpoint(tmp_path: Path, finished: Path, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleave.callbacks import MetricsFile

    log = MetricsFile.on_log

    def kill(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        log(self, args, state, control, **kwargs)
        if state.global_step == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "on_log", kill)
        with pytest.raises(KeyboardInterrupt):
            main(pruned_config(tmp_path))
    assert main(pruned_config(tmp_path)) == 0
    first, second = (load_checkpoint(str(run / "checkpoint")).model.state_dict() for run in (finished, tmp_path / "tiny"))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-5, rtol=0)
    figures = [json.loads((run / "pruned.json").read_text()) for run in (finished, tmp_path / "tiny")]
    assert figures[0]["agreement"] == pytest.approx(figures[1]["agreement"], abs=1e-5)
    assert figures[0]["freezing"] == pytest.approx(figures[1]["freezing"], abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"prune": {"layout": "free", "freeze": 1.0}},
        {"prune": {"sparsity": {"layers": 0.5}}, "evaluation": {"examples": 0}},
        {"objective": {"teacher": "TINY", "lmbda": 0.5, "max_new_tokens": 4}, "init": {"model": "TINY"}},
    ],
    ids=["free, frozen at the end", "layers, without evaluation", "on-policy from a teacher"],
)
def test_it_goes_with_other_layouts_and_objectives(tmp_path: Path, tiny_model_dir: Path, changes: dict[str, Any]) -> None:
    filled = json.loads(json.dumps(changes).replace("TINY", f"hf:{tiny_model_dir}"))
    train = {**TRAIN, "max_steps": 4, "packing": True, "max_length": 512}
    assert main(pruned_config(tmp_path, filled.pop("prune", None), train=train, **filled)) == 0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny" / "checkpoint")
    details = json.loads((tmp_path / "tiny" / "pruned.json").read_text())
    assert sum(part.numel() for part in loaded.parameters()) == details["sliced"]["parameters"]
    if "layers" in details["closed"]:
        assert loaded.config.num_hidden_layers == 1
        assert "freezing" not in details


def test_a_dry_run_says_what_would_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(pruned_config(tmp_path, {"sparsity": {"heads": 0.4, "neurons": 0.5}}), dry_run=True) == 0
    said = capsys.readouterr().err
    assert "pruned to 1 of 2 units of heads (sparsity 0.500, the nearest to 0.4), 2 of 4 blocks of neurons" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune": {"block": 12}}, r"prune\.block 12 does not divide 32 neurons"),
        ({"prune": {"sparsity": {"heads": 0.1}}}, "prune removes nothing"),
        ({"prune": {"sparsity": 1.0}}, "something has to stay"),
        ({"train": {**TRAIN, "torch_compile": True}}, r"train\.torch_compile: false"),
        ({"train": {**TRAIN, "gradient_checkpointing": True}}, r"train\.gradient_checkpointing: false"),
        ({"lora": {"r": 2}, "init": {"model": "hf:/no/such"}}, "remove lora or prune"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(pruned_config(tmp_path, **changes))
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_prune_like_one(tmp_path: Path, ray_session: None) -> None:
    """The same inputs vote, so the same units go."""
    evaluation = {"eval_steps": 5, "examples": 8, "generate": 0}
    for name, changes in {
        "inline": {"train": {**TRAIN, "gradient_accumulation_steps": 2}},
        "ray": {"train": TRAIN, "backend": "ray", "num_workers": 2, "resources_per_worker": {"CPU": 0.5}},
    }.items():
        assert main(pruned_config(tmp_path / name, evaluation=evaluation, **changes)) == 0
    one, two = (load_checkpoint(str(tmp_path / name / "tiny" / "checkpoint")).model.state_dict() for name in ("inline", "ray"))
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], atol=1e-4, rtol=0)
