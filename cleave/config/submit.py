"""What `cleave submit` needs to know: where (a where file and flags over it), what to run, whether to check and to wait."""

import re

from pydantic import Field, field_validator

from cleave.config.programs import command_of
from cleave.config.where import VARIABLE, WhereConfig
from cleave.config.where import parse_address as parse_address

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def parse_env(pairs: list[str], environment: dict[str, str]) -> dict[str, str]:
    """`KEY=VALUE` pairs as a mapping; a bare `KEY` takes its value from `environment`. Raises ValueError."""
    env: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not VARIABLE.fullmatch(key):
            raise ValueError(f"{pair!r} is not of the form KEY=VALUE")
        if not equals and key not in environment:
            raise ValueError(f"{key} is not set here, so there is nothing to pass on; write {key}=VALUE")
        env[key] = value if equals else environment[key]
    return env


class SubmitConfig(WhereConfig):
    """One job for a running cluster."""

    command: tuple[str, ...] = Field(min_length=1)
    """Words after `cleave`, such as (evaluate, configs/evaluate/demo.yaml); a first word `python` runs the words as they are."""
    name: str | None = None
    """Submission id, unique on the cluster; None: Ray makes one."""
    doctor: bool = True
    """Examine the cluster with the command's config before anything starts; False: submit at once."""
    wait: bool = True
    """Follow the logs and pass the driver's exit code on; False: return as soon as the job is accepted."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not NAME.fullmatch(name):
            raise ValueError("a job's name has letters, digits, '.', '_' and '-' only, at most 100")
        return name

    @property
    def words(self) -> tuple[str, ...]:
        """The command without `--` and `cleave` in front, and with the where file's storage_path over the config's."""
        words = self.command[1:] if self.command[0] == "--" else self.command
        words = words[1:] if words[:1] == ("cleave",) else words
        reads = command_of(words)
        if self.storage_path is None or reads is None or reads.program == "serve":
            return words
        if any(word.startswith("storage_path=") for word in words):
            return words
        return (*words, f"storage_path={self.storage_path}")
