"""What is found before anything starts: vocabularies, chat templates, adapters, trackers, sharding."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.integrations import integration_utils

from cleave.errors import ConfigError, DataError
from cleave.lm.checkpoint import load_checkpoint, load_skeleton
from cleave.runs import RunFolder
from pipelines.assembly import training_arguments
from pipelines.distill import main
from tests.test_distill import make_config

TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
STRICT_TEMPLATE = "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (
    "{% endfor %}"
)


def copy_of(model_dir: Path, target: Path, template: str | None = None) -> str:
    """A checkpoint that a test may change, as a model string."""
    shutil.copytree(model_dir, target)
    if template is not None:
        (target / "chat_template.jinja").write_text(template)
    return f"hf:{target}"


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whether anything was trained or any cluster asked for."""
    started: list[str] = []
    monkeypatch.setattr("pipelines.distill.run_inline", lambda config, folder: started.append("inline"))
    monkeypatch.setattr("pipelines.distill.run_on_ray", lambda config, folder: started.append("ray"))
    return started


def refused(tmp_path: Path, watched: list[str], message: str, **changes: Any) -> None:
    """Both backends refuse the config with the message, before anything starts, and leave the name free for a better one."""
    for backend in ("inline", "ray"):
        with pytest.raises(ConfigError, match=message):
            main(make_config(tmp_path / "runs", backend=backend, **changes))
    assert not watched
    assert not (tmp_path / "runs" / "tiny" / "config.yaml").exists()


def test_a_chat_prompt_set_needs_a_chat_template(tmp_path: Path, tiny_model_dir: Path, watched: list[str]) -> None:
    bare = copy_of(tiny_model_dir, tmp_path / "bare")
    refused(tmp_path, watched, r"the prompts instruct-v1 do not fit the student: .*use a prompt set of kind text", **chatting(bare))
    strict = copy_of(tiny_model_dir, tmp_path / "strict", STRICT_TEMPLATE)
    refused(tmp_path, watched, r"chat template refuses these messages: no system", **chatting(strict))


def chatting(model: str) -> dict[str, Any]:
    return {"init": {"model": model}, "prompts": "instruct-v1", "train": {"max_steps": 1, "max_length": 512}}


def test_a_chat_template_that_takes_the_messages_is_accepted(tmp_path: Path, tiny_model_dir: Path, watched: list[str]) -> None:
    able = copy_of(tiny_model_dir, tmp_path / "able", TEMPLATE)
    main(make_config(tmp_path / "runs", **chatting(able)))
    assert watched == ["inline"]


def test_every_token_needs_a_row_of_the_embedding(tmp_path: Path, tiny_model_dir: Path, tiny_tokenizer: Any, watched: list[str]) -> None:
    model = copy_of(tiny_model_dir, tmp_path / "model")
    tokenizer = type(tiny_tokenizer).from_pretrained(tmp_path / "model")
    tokenizer.add_tokens(["<plan>", "<step>"])
    tokenizer.save_pretrained(tmp_path / "model")
    rows = len(tiny_tokenizer)
    message = rf"token ids up to {rows + 1}, the model's embedding {rows} rows; give the tokenizer that belongs"
    refused(tmp_path, watched, message, init={"model": model})


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["q_proj", "query"], r"the model has no module query; it has .*down_proj.*q_proj"),
        (r".*\.attention\..*", r"the model has no module .*or write all-linear"),
        (["norm"], r"lora does not fit the model: .*RMSNorm"),
    ],
)
def test_adapters_need_modules_that_exist(tmp_path: Path, tiny_model_dir: Path, watched: list[str], modules: Any, message: str) -> None:
    refused(tmp_path, watched, message, init={"model": f"hf:{tiny_model_dir}"}, lora={"target_modules": modules})


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "self_attn.v_proj"], r".*\.(up|down)_proj"])
def test_adapters_by_name_path_and_expression_are_accepted(tmp_path: Path, tiny_model_dir: Path, watched: list[str], modules: Any) -> None:
    main(make_config(tmp_path, init={"model": f"hf:{tiny_model_dir}"}, lora={"target_modules": modules}, train={"max_length": 512}))
    assert watched == ["inline"]


def test_adapters_need_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set init\.model, or remove lora"):
        make_config(tmp_path, lora={"r": 2})


class Missing:
    """A tracker whose package is not there."""

    def __init__(self) -> None:
        raise RuntimeError("requires it to be installed")


def test_trackers_are_named_and_installed(tmp_path: Path, watched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, name, Missing)
        refused(tmp_path, watched, rf"report_to: {name} is not installed .*`pip install {name}`", train={"report_to": [name]})
    refused(tmp_path, watched, r"'wandbb' is no tracker; there are .*wandb", train={"report_to": ["wandbb"]})


def test_a_tracker_that_is_there_gets_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainerCallback

    seen: list[tuple[str, int]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                seen.append((args.run_name, state.global_step))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Tracker)
    train = {"max_steps": 2, "per_device_train_batch_tokens": 100, "logging_steps": 1, "report_to": ["wandb"]}
    assert main(make_config(tmp_path, train=train, evaluation={"examples": 0})) == 0
    assert seen == [("tiny", 1), ("tiny", 2)]


def test_nothing_to_learn_is_found_before_workers_are(tmp_path: Path, watched: list[str]) -> None:
    RunFolder.open(str(tmp_path), "empty").write_text("manifest.json", json.dumps({"recipes": {"abc": {}}}))
    config = make_config(
        tmp_path, source="collection", collection={"path": str(tmp_path / "empty")}, tasks=["lookup"], backend="ray", train={"max_steps": 1}
    )
    with pytest.raises(DataError, match="has no traces of lookup"):
        main(config)
    assert not watched


@pytest.mark.parametrize(
    "options", [{"backend": "inline"}, {"backend": "ray"}, {"backend": "ray", "resources_per_worker": {"CPU": 2, "GPU": 0}}]
)
def test_sharding_needs_workers_with_gpus(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"set backend: ray and resources_per_worker: \{GPU: 1\}, or fsdp: false"):
        make_config(tmp_path, train={"max_steps": 1, "fsdp": True}, **options)
    with pytest.raises(ConfigError, match="no effect without fsdp: true"):
        make_config(tmp_path, train={"max_steps": 1, "fsdp_config": {"version": 2}})
    with pytest.raises(ConfigError, match="remove state_dict_type"):
        make_config(tmp_path, train={"max_steps": 1, "fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}})


def test_sharding_is_handed_to_transformers_by_its_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "FSDP_CPU_RAM_EFFICIENT_LOADING", "")  # transformers sets it for the whole process
    options = {
        "reshard_after_forward": False,
        "cpu_offload": True,
        "activation_checkpointing": True,
    }
    gpus = {"backend": "ray", "num_workers": 2, "resources_per_worker": {"GPU": 1}}
    config = make_config(tmp_path, train={"max_steps": 3, "fsdp": True, "fsdp_config": options, "bf16": True}, **gpus)
    arguments = training_arguments(config, tmp_path, passes=4)
    assert arguments.fsdp is True
    plugin = arguments.fsdp_plugin_args
    assert plugin["fsdp_version"] == 2
    assert {name: plugin[name] for name in options} == options
    assert (arguments.gradient_accumulation_steps, arguments.max_steps, arguments.run_name) == (4, 3, "tiny")
    assert training_arguments(make_config(tmp_path), tmp_path, passes=1).fsdp_plugin_args is None


@pytest.mark.gpu
@pytest.mark.slow
def test_sharded_training_has_the_losses_of_whole_weights_and_exports(tmp_path: Path) -> None:
    """On as many GPUs as there are."""
    workers = {"backend": "ray", "num_workers": torch.cuda.device_count(), "resources_per_worker": {"GPU": 1}}
    results = {}
    for sharded in (False, True):
        train = {"max_steps": 4, "per_device_train_batch_tokens": 300, "gradient_accumulation_steps": 2, "save_steps": 2, "fsdp": sharded}
        assert main(make_config(tmp_path / str(sharded), train=train, **workers)) == 0
        run = tmp_path / str(sharded) / "tiny"
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        results[sharded] = [row["loss"] for row in rows if "loss" in row]
        assert load_checkpoint(str(run / "checkpoint"))
    assert results[True] == pytest.approx(results[False], abs=1e-3)


def test_a_skeleton_has_shapes_and_no_weights(tiny_model_dir: Path) -> None:
    model, tokenizer = load_skeleton(str(tiny_model_dir))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    with pytest.raises(ConfigError, match="there is no checkpoint folder"):
        load_skeleton("./nowhere")
