"""`cleave.json` in a checkpoint folder: which role, prompts and task profile the weights were trained for."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cleave.config.model import ModelConfig
from cleave.errors import DataError

NAME = "cleave.json"


@dataclass(frozen=True)
class CheckpointCard:
    """Written beside the weights by training, read to choose prompts. Empty where unknown."""

    prompts: str = ""
    role: str = ""
    profile: str = ""


def write_card(folder: Path, card: CheckpointCard) -> None:
    """Write the card of a checkpoint folder."""
    (folder / NAME).write_text(json.dumps(asdict(card), indent=2) + "\n", encoding="utf-8")


def read_card(folder: Path) -> CheckpointCard | None:
    """The card, None if the folder has none. Unknown keys are ignored. Raises DataError for a broken file."""
    try:
        data = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return CheckpointCard(**{key: str(data[key]) for key in ("prompts", "role", "profile") if key in data})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / NAME} cannot be read: {error}; delete it or write it again.") from error


def trained_prompts(config: ModelConfig) -> str | None:
    """The prompt set that a local or shipped checkpoint was trained with, None where nothing says so."""
    if config.backend not in ("hf", "reference"):
        return None
    if config.backend == "reference":
        from cleave.lm.reference import ROOT

        card = read_card(ROOT / config.model_name_or_path)
    else:
        card = read_card(Path(config.model_name_or_path).expanduser())
    return card.prompts or None if card else None
