"""The revision of a local checkpoint: the same for a copy, another one after any change of what it holds."""

import shutil
from pathlib import Path

import pytest

from cleave.config.model import ModelConfig
from cleave.lm.build import build
from cleave.lm.revision import folder_revision, local_revision


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model_dir, tmp_path / "copy")


def test_a_copy_is_the_same_and_what_the_loaded_model_reports(tiny_model_dir: Path, folder: Path) -> None:
    config = ModelConfig(model_name_or_path=str(folder))
    assert local_revision(config) == folder_revision(tiny_model_dir) == build(config).info.revision


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_changed_byte_is_another_revision(folder: Path, name: str) -> None:
    before = folder_revision(folder)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(bytes(content))
    assert folder_revision(folder) != before


def test_notes_beside_the_weights_do_not_count(folder: Path) -> None:
    before = folder_revision(folder)
    (folder / "README.md").write_text("A card.")
    assert folder_revision(folder) == before


def test_an_adapter_counts(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert folder_revision(folder, adapter) != folder_revision(folder)


def test_large_files_are_hashed_by_blocks_from_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    size = 200 * 2**20
    with path.open("wb") as file:
        file.truncate(size)
    before = folder_revision(tmp_path)
    for place in (0, size - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        after = folder_revision(tmp_path)
        assert after != before
        before = after


@pytest.mark.parametrize("short", ["openai:gpt@https://api.example.com/v1", "recorded:calls.jsonl", "hf:org/name"])
def test_models_elsewhere_have_no_local_revision(short: str) -> None:
    assert local_revision(ModelConfig.model_validate(short)) is None
