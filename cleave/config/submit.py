"""What `cleave submit` and `cleave jobs` need to know: which cluster, what to send, how to run it."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from cleave.config.base import Config


def parse_address(address: str) -> str:
    """A dashboard address as an http(s) URL without a trailing slash; `host:port` gets `http://`. Raises ValueError."""
    url = address.strip() if "://" in address else f"http://{address.strip()}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{address!r} is no dashboard address; write http://HOST:8265, the URL of the cluster's dashboard")
    _ = parts.port  # raises ValueError where it is no number
    return url.rstrip("/")


def parse_env(pairs: list[str], environment: dict[str, str]) -> dict[str, str]:
    """`KEY=VALUE` pairs as a mapping; a bare `KEY` takes its value from `environment`. Raises ValueError."""
    env: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise ValueError(f"{pair!r} is not of the form KEY=VALUE")
        if not equals and key not in environment:
            raise ValueError(f"{key} is not set here, so there is nothing to pass on; write {key}=VALUE")
        env[key] = value if equals else environment[key]
    return env


Address = Annotated[str, AfterValidator(parse_address)]


class SubmitConfig(Config):
    """One job for a running cluster."""

    command: tuple[str, ...] = Field(min_length=1)
    """Words after `cleave`, such as (evaluate, configs/evaluate/demo.yaml); a first word `python` runs the words as they are."""
    address: Address = "http://127.0.0.1:8265"
    """URL of the cluster's dashboard."""
    name: str | None = None
    """Submission id, unique on the cluster; None: Ray makes one."""
    working_dir: str = "."
    """Folder that is sent along; .gitignore and .rayignore in it are honoured, at most 100 MB when zipped."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the job. They are shown in the dashboard: give secrets to the cluster instead."""
    python: str = "python"
    """Interpreter on the head's PATH, or its path there."""
    entrypoint_num_cpus: float = Field(0.0, ge=0)
    """CPUs reserved for the driver itself; 0: it runs on the head without a reservation."""
    wait: bool = True
    """Follow the logs and pass the driver's exit code on; False: return as soon as the job is accepted."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError("a job's name has letters, digits, '.', '_' and '-' only, at most 100")
        return name
