"""Where a command runs: which cluster, what is sent, the environment there, where results go. The other half of a config, which says what.

    cleave submit --where configs/where/kubernetes.yaml -- evaluate configs/evaluate/demo.yaml

Names are those of `ray job submit` where they mean the same. Values of secrets never occur here: `secrets` names variables that the
cluster's own environment has to have.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from cleave.config.base import Config, load, read_yaml
from cleave.config.fleet import FleetConfig
from cleave.errors import ConfigError

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


def parse_address(address: str) -> str:
    """A dashboard address as an http(s) URL without a trailing slash; `host:port` gets `http://`. Raises ValueError."""
    url = address.strip() if "://" in address else f"http://{address.strip()}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{address!r} is no dashboard address; write http://HOST:8265, the URL of the cluster's dashboard")
    _ = parts.port  # raises ValueError where it is no number
    return url.rstrip("/")


def is_secret(name: str) -> bool:
    """Whether a variable looks like one that nobody else should read."""
    return any(word in name.upper() for word in SECRET_WORDS)


Address = Annotated[str, AfterValidator(parse_address)]


class WhereConfig(Config):
    """One place to run commands at."""

    address: Address = "http://127.0.0.1:8265"
    """URL of the cluster's dashboard."""
    working_dir: str = "."
    """Folder that is sent along; .gitignore and .rayignore in it are honoured."""
    max_package_mb: float = Field(100.0, gt=0, le=100)
    """Most megabytes of that folder when zipped; a dashboard takes 100."""
    excludes: tuple[str, ...] = ()
    """Further patterns that are not sent, written as in .gitignore."""
    storage_path: str | None = None
    """Where results go: a path that all nodes share, or a URL; it overrides the config's own. null: as the config says."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the job. They are shown in the dashboard: secrets go into `secrets`."""
    secrets: tuple[str, ...] = ()
    """Names of variables that the environment of the cluster has to have, such as HF_TOKEN; never their values."""
    pip: tuple[str, ...] = ()
    """Packages that Ray installs for the job on each node, such as wandb==0.31.0; needs a package index there."""
    python: str = "python"
    """Interpreter on the head's PATH, or its path there."""
    entrypoint_num_cpus: float = Field(0.0, ge=0)
    """CPUs reserved for the driver itself; 0: it runs on the head without a reservation."""
    entrypoint_num_gpus: float = Field(0.0, ge=0)
    """GPUs reserved for the driver itself."""
    entrypoint_memory: int = Field(0, ge=0)
    """Bytes of memory reserved for the driver itself."""
    entrypoint_resources: dict[str, float] = Field(default_factory=dict)
    """Custom resources reserved for the driver itself."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """What the dashboard shows beside the job, such as {team: research}."""
    fleet: FleetConfig | None = None
    """The nodes themselves, for `cleave render`; a running cluster is not changed by them."""

    @field_validator("env")
    @classmethod
    def _variables(cls, env: dict[str, str]) -> dict[str, str]:
        _check_names(env)
        return env

    @field_validator("secrets")
    @classmethod
    def _names_alone(cls, secrets: tuple[str, ...]) -> tuple[str, ...]:
        _check_names(secrets)
        return secrets

    @model_validator(mode="after")
    def _secrets_are_not_sent(self) -> "WhereConfig":
        both = set(self.env) & set(self.secrets)
        if both:
            raise ValueError(f"{sorted(both)[0]} is in env and in secrets; remove it from env, the cluster has it")
        return self

    @property
    def reserved(self) -> dict[str, float]:
        """What the driver itself reserves, by Ray's names."""
        amounts = {"CPU": self.entrypoint_num_cpus, "GPU": self.entrypoint_num_gpus, "memory": self.entrypoint_memory}
        return {name: amount for name, amount in (amounts | self.entrypoint_resources).items() if amount > 0}


def load_where(path: str | Path) -> WhereConfig:
    """Read a where file. Raises ConfigError, also where the value of a secret is written in it."""
    for name in read_yaml(path).get("env") or ():
        if is_secret(str(name)):
            raise ConfigError(f"{path} holds a value for {name}; list the name under secrets, and set it where the cluster is started.")
    return load(WhereConfig, path)


def where_fields(path: str | Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a where file with those of the command line over it; None on the command line is: not given. Raises ConfigError."""
    written = load_where(path).model_dump(exclude_unset=True) if path is not None else {}
    env = {**written.get("env", {}), **(given.get("env") or {})}
    return {**written, **{name: value for name, value in given.items() if value is not None}, "env": env}


def _check_names(names: "dict[str, str] | tuple[str, ...]") -> None:
    for name in names:
        if not VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable; write letters, digits and underscores, such as HF_TOKEN")
