"""From a ModelConfig to a backend, what each backend imports, shipped checkpoints and their fingerprints, thinking blocks."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cleave.config.model import ModelConfig
from cleave.errors import ConfigError, DataError, FingerprintError
from cleave.lm import reference
from cleave.lm.build import build
from cleave.lm.recorded import Recorder
from cleave.lm.reference import resolve, shipped, write_index_entry
from cleave.lm.thinking import ThinkingFilter, strip_thinking
from cleave.types import Prompt, Sampling


def config(short: str | dict[str, object]) -> ModelConfig:
    return ModelConfig.model_validate(short)


async def test_a_checkpoint_by_path(tiny_model_dir: Path) -> None:
    model = build(config({"model_name_or_path": str(tiny_model_dir), "max_model_len": 20, "price": {"completion": 1e6}}))
    assert model.info.name == f"hf:{tiny_model_dir}"
    [[reply]] = await model.generate([Prompt(text="a" * 18)], Sampling(max_tokens=9))
    assert len(reply.token_ids) <= 2
    assert reply.usage.price == len(reply.token_ids)


async def test_record_wraps_any_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = build(config(f"hf:{tiny_model_dir}"), record=tmp_path / "calls.jsonl")
    assert isinstance(model, Recorder)
    prompts = [Prompt(text="a", seed=1)]
    replies = await model.generate(prompts, Sampling(max_tokens=3))
    replay = build(config(f"recorded:{tmp_path / 'calls.jsonl'}"))
    assert await replay.generate(prompts, Sampling(max_tokens=3)) == replies
    assert replay.info == model.info


def test_endpoints_and_recordings_need_no_torch(tmp_path: Path, root: Path) -> None:
    (tmp_path / "c.jsonl").write_text("")
    code = f"""
import sys
from cleave.config.model import ModelConfig
from cleave.lm.build import build
print(build(ModelConfig.model_validate("openai:a@b@http://host:1/v1")).info.name)
print(build(ModelConfig.model_validate("recorded:{tmp_path}/c.jsonl")).info.name)
assert not {{"torch", "transformers", "ray"}} & set(sys.modules), "too much imported"
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["openai:a@b@http://host:1/v1", f"recorded:{tmp_path}/c.jsonl"], ran.stderr


@pytest.fixture
def shipped_root(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reference folder with one checkpoint, `tiny`, whose fingerprint is up to date."""
    root = tmp_path / "reference"
    shutil.copytree(tiny_model_dir, root / "tiny")
    write_index_entry("tiny", root / "tiny", "default-v1", "reference-v1", {"tokens": 5})
    monkeypatch.setattr(reference, "ROOT", root)
    return root


def test_reference_resolves(shipped_root: Path) -> None:
    assert resolve("tiny", shipped_root) == shipped_root / "tiny"
    assert shipped(shipped_root) == ["tiny"]
    assert json.loads((shipped_root / "index.json").read_text())["tiny"]["tokens"] == 5
    assert not list(shipped_root.glob("*.partial"))


def test_index_entries_are_added_and_replaced(shipped_root: Path) -> None:
    shutil.copytree(shipped_root / "tiny", shipped_root / "other")
    write_index_entry("other", shipped_root / "other", "default-v1", "reference-v1")
    write_index_entry("tiny", shipped_root / "tiny", "default-v1", "reference-v1", {"tokens": 6})
    index = json.loads((shipped_root / "index.json").read_text())
    assert sorted(index) == ["other", "tiny"]
    assert index["tiny"]["tokens"] == 6


def test_unknown_reference_lists_the_shipped_ones(shipped_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"no reference model 'huge'.*shipped: tiny; name one of them"):
        resolve("huge", shipped_root)


@pytest.mark.parametrize(("file", "part"), [("tokenizer.json", "tokenizer.json"), ("config.json", "config.json")])
def test_stale_files_are_named(file: str, part: str, shipped_root: Path) -> None:
    path = shipped_root / "tiny" / file
    path.write_text(path.read_text() + " ")
    with pytest.raises(FingerprintError, match=rf"stale: {part} changed.*run `cleave distill configs/reference/tiny.yaml`") as caught:
        resolve("tiny", shipped_root)
    assert "profile" not in str(caught.value)


@pytest.mark.parametrize(("key", "words"), [("profile_hash", "generated problems"), ("prompts_hash", "text of the prompt set")])
def test_stale_profile_and_prompts_are_named(key: str, words: str, shipped_root: Path) -> None:
    index = json.loads((shipped_root / "index.json").read_text())
    index["tiny"]["fingerprint"][key] = "0"
    (shipped_root / "index.json").write_text(json.dumps(index))
    with pytest.raises(FingerprintError, match=words):
        resolve("tiny", shipped_root)


def test_a_vanished_prompt_set_is_stale_too(shipped_root: Path) -> None:
    index = json.loads((shipped_root / "index.json").read_text())
    index["tiny"]["fingerprint"]["prompts"] = "gone-v0"
    (shipped_root / "index.json").write_text(json.dumps(index))
    with pytest.raises(FingerprintError, match="gone-v0"):
        resolve("tiny", shipped_root)


def test_a_broken_index_is_a_data_error(shipped_root: Path) -> None:
    (shipped_root / "index.json").write_text("[1]")
    with pytest.raises(DataError, match=r"index\.json"):
        resolve("tiny", shipped_root)


@pytest.mark.parametrize(
    ("text", "visible", "hidden"),
    [
        ("plain  text ", "plain  text ", ""),
        ("<think>a b</think>\n\n42", "42", "a b"),
        ("<think>a</think>x<think>b</think>y", "xy", "a\nb"),
        ("reasoning first</think> 42", "42", "reasoning first"),
        ("<think>cut off", "", "cut off"),
        ("<think></think>42", "42", ""),
        ("", "", ""),
    ],
    ids=["none", "one", "two", "no beginning", "no end", "empty block", "empty"],
)
def test_strip_thinking(text: str, visible: str, hidden: str) -> None:
    assert strip_thinking(text) == (visible, hidden)
    assert strip_thinking(visible)[0] == visible


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("plain <b> text", "plain <b> text"),
        ("<think>a b</think>\n42 > 3", "42 > 3"),
        (" \n<think>a</think><think>b</think>x", "x"),
        ("<thin", "<thin"),
        ("<think>cut off", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_thinking_filter(text: str, visible: str, size: int) -> None:
    stream = ThinkingFilter()
    pieces = [stream.push(text[i : i + size]) for i in range(0, len(text), size)]
    assert "".join(pieces) + stream.finish() == visible
