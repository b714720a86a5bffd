"""Which weights a local checkpoint holds, as a short hash: what the Hub's commit is for a Hub model. Reads files only, no torch.

A folder that is trained again gets another revision, so that results of two models never mix. Files up to 64 MiB are hashed whole; of
larger ones the length and 64 evenly spaced blocks, which no training leaves unchanged, so that a large model costs no minutes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cleave.config.model import ModelConfig
from cleave.errors import ConfigError

_PARTS = ("config.json", "generation_config.json", "adapter_config.json", "tokenizer.json", "*.safetensors")
_BLOCK = 2**20
_BLOCKS = 64


def local_revision(config: ModelConfig) -> str | None:
    """The revision that loading `config` would report; None where only the Hub or a server knows. Raises ConfigError as loading would."""
    if config.backend == "reference":
        from cleave.lm.reference import resolve

        return folder_revision(resolve(config.model_name_or_path))
    if config.backend != "hf" or not Path(config.model_name_or_path).expanduser().is_dir():
        return None
    return folder_revision(*filter(None, (config.model_name_or_path, config.adapter)))


def folder_revision(*folders: str | Path) -> str:
    """Sixteen hexadecimal digits for the content of a checkpoint and the adapters on it. Raises ConfigError for an unreadable file."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in _files(Path(folder).expanduser()):
            digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
            _hash_content(path, digest)
    return digest.hexdigest()[:16]


def content_hash(path: Path) -> str:
    """Sixteen hexadecimal digits for one file's content, read like those of a checkpoint. Raises ConfigError for an unreadable file."""
    digest = hashlib.sha256()
    _hash_content(path, digest)
    return digest.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    return sorted(path for part in _PARTS for path in folder.glob(part))


def _hash_content(path: Path, digest: hashlib._Hash) -> None:
    size = path.stat().st_size
    whole = size <= _BLOCK * _BLOCKS
    starts = range(0, size, _BLOCK) if whole else [k * (size - _BLOCK) // (_BLOCKS - 1) for k in range(_BLOCKS)]
    try:
        with path.open("rb") as file:
            for start in starts:
                file.seek(start)
                digest.update(file.read(_BLOCK))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}; check its permissions.") from error
