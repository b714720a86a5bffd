"""Where a data set's files are: the given path, or the folder of its name under $CLEAVE_DATA."""

import os
from pathlib import Path

from cleave.errors import ConfigError

VARIABLE = "CLEAVE_DATA"


def data_folder(name: str, path: str | None = None) -> Path:
    """The folder of data set `name`. Raises ConfigError, with both ways to give it, where there is none."""
    root = os.environ.get(VARIABLE)
    if path is None and not root:
        raise ConfigError(f"{name} is read from local files: set {VARIABLE} to the folder that holds {name}/, or give the task's path.")
    folder = Path(path) if path is not None else Path(root or "") / name
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder} for {name}; set {VARIABLE} to the folder that holds {name}/, or give the task's path."
        )
    return folder
