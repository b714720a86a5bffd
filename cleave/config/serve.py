"""What the HTTP application is built from: `ServeArgs` for the application itself, `ServeConfig` for `cleave serve`.

    serve run serve.app:build reasoning.strategy=stepwise      # Ray's own command feeds ServeArgs
    cleave serve configs/serve/local.yaml --port 9000          # ours feeds ServeConfig: ServeArgs and where to listen

Left out: the keys of a Ray Serve config file (serve/deploy_file.py checks those).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from cleave.config.base import Config, read_yaml, validate
from cleave.config.base import load as load_config
from cleave.config.reasoning import PLANNED, ReasoningConfig, StageStrategy
from cleave.config.roles import DecomposerConfig, RoleConfig, RolesConfig, VerifierConfig
from cleave.config.serve_batches import BatchesConfig
from cleave.config.serve_keys import KeysConfig, is_loopback
from cleave.config.serve_tracing import TracingConfig
from cleave.config.serve_upgrades import UpgradesConfig
from cleave.errors import ConfigError
from cleave.roles import ROLES

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class LimitsConfig(Config):
    """What one request may ask for, and how many the application takes on."""

    max_body_bytes: int = Field(1_000_000, ge=1024)
    """Bytes of a request body; more is answered with 413."""
    max_question_bytes: int = Field(100_000, ge=1)
    """UTF-8 bytes of question and context together; more is answered with 413."""
    max_n: int = Field(64, ge=1)
    """Most solutions that one request may have sampled (samples × choices)."""
    max_tokens: int = Field(4096, ge=1)
    """Most tokens per reply of a model that one request may ask for; the roles' own max_tokens holds as well."""
    body_timeout_s: float = Field(30.0, gt=0)
    """Seconds that a request's body may take to arrive; then it is answered with 408."""
    request_timeout_s: float = Field(120.0, gt=0)
    """Seconds after which a request is given up with 504."""
    heartbeat_s: float = Field(10.0, gt=0)
    """Seconds after which a stream that has nothing to send gets a comment line, so that nobody takes it for dead."""
    max_concurrent_requests: int = Field(64, ge=1)
    """Requests that one ingress replica works on at the same time; further ones are answered with 429."""
    max_queued_requests: int = Field(256, ge=1)
    """Calls per role that may wait for a replica; further ones are answered with 429."""
    retry_after_s: int = Field(1, ge=1)
    """Seconds that the Retry-After header of a 429 or 503 names."""


class IngressConfig(Config):
    """The replicas that speak HTTP; they host no model."""

    num_replicas: int = Field(1, ge=1)
    """Replicas."""
    num_cpus: float = Field(0.25, gt=0)
    """Logical CPUs per replica."""


class TracesConfig(Config):
    """What /v1/traces/{id} remembers."""

    max_traces: int = Field(0, ge=0)
    """Requests whose traces are kept, the oldest go first; 0: none. They hold questions and answers; only the key that asked sees them."""
    max_bytes: int = Field(64_000_000, ge=1)
    """Bytes that all of them may take."""


class LogsConfig(Config):
    """How replicas log; null: as Ray Serve is set up."""

    encoding: Literal["TEXT", "JSON"] | None = None
    """JSON: one object per line, with a line of figures per request, problem and call to a role, all with the request's id."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = None
    """Least severity that is written."""
    enable_access_log: bool | None = None
    """Whether Serve writes its own line per request and call."""


class RolesBefore(Config):
    """Roles as they were; null: never promoted."""

    decomposer: DecomposerConfig | None = None
    """The decomposer."""
    solver: RoleConfig | None = None
    """The solver."""
    verifier: VerifierConfig | None = None
    """The verifier."""


class ServeArgs(Config):
    """The one argument of `serve.app:build`. `args:` of a Ray Serve config file and `key=value` of `serve run` feed it."""

    roles: RolesConfig = Field(default_factory=RolesConfig)
    """Who plays each role."""
    reasoning: ReasoningConfig = ReasoningConfig()
    """How the model `name` reasons; requests may override single options."""
    name: str = "cleave"
    """Name of the composed pipeline under /v1/models."""
    pipelines: dict[str, ReasoningConfig] = Field(default_factory=dict)
    """Further composed pipelines by model name; none given: one per strategy that any decomposer can (not dynamic; adaptive where
    `reasoning` has stages), as NAME-STRATEGY."""
    limits: LimitsConfig = LimitsConfig()
    """Limits on requests."""
    keys: KeysConfig = KeysConfig()
    """Who may ask, and how much."""
    traces: TracesConfig = TracesConfig()
    """What is remembered of answered requests."""
    batches: BatchesConfig = BatchesConfig()
    """Requests that are sent as a file and worked on where there is room."""
    upgrades: UpgradesConfig = UpgradesConfig()
    """When a promotion is taken back by itself."""
    previous: RolesBefore = RolesBefore()
    """What the roles were before their last promotions; `cleave serve promote` writes it, `cleave serve rollback` reads it."""
    logs: LogsConfig = LogsConfig()
    """What the replicas write into their logs."""
    tracing: TracingConfig = TracingConfig()
    """Where the spans of requests go; not to be confused with `traces`, what a problem's reasoning was."""
    ingress: IngressConfig = IngressConfig()
    """The HTTP replicas."""

    @model_validator(mode="before")
    @classmethod
    def _nest_dotted_keys(cls, data: Any) -> Any:
        """`serve run … roles.solver=hf:x` arrives as one flat key; read it as the nested one."""
        return nest(data) if isinstance(data, Mapping) and any("." in str(key) for key in data) else data

    @field_validator("name")
    @classmethod
    def _name_is_simple(cls, name: str) -> str:
        return _simple(name)

    @field_validator("pipelines")
    @classmethod
    def _names_are_simple(cls, pipelines: dict[str, ReasoningConfig]) -> dict[str, ReasoningConfig]:
        return {_simple(name): reasoning for name, reasoning in pipelines.items()}

    @model_validator(mode="after")
    def _within_limits(self) -> Self:
        if self.name in self.pipelines:
            raise ValueError(f"the pipeline {self.name!r} is already described by `reasoning`; give the other one another name")
        for name, reasoning in self.models().items():
            if reasoning.most_samples > self.limits.max_n:
                samples = reasoning.most_samples
                raise ValueError(f"the pipeline {name!r} samples {samples} solutions; raise limits.max_n to at least that")
        return self

    @model_validator(mode="after")
    def _keeps_no_replies(self) -> Self:
        for role, config in self.roles.played().items():
            if config.model.cache is not None:
                raise ValueError(f"roles.{role}.model.cache would keep all that clients ask, for ever and for everybody; remove it")
        return self

    @property
    def needs_ledger(self) -> bool:
        """Whether the HTTP replicas have something to share: counts of keys, traces, or counts of failures."""
        return self.keys.required or self.traces.max_traces > 0 or self.upgrades.watch_s > 0

    def models(self) -> dict[str, ReasoningConfig]:
        """The composed pipelines by model name, the default one first."""
        return {self.name: self.reasoning, **(self.pipelines or self._one_per_strategy())}

    def _one_per_strategy(self) -> dict[str, ReasoningConfig]:
        strategies = [strategy for strategy in get_args(StageStrategy) if strategy != "dynamic"]
        if self.reasoning.stages:
            strategies.append("adaptive")
        return {f"{self.name}-{strategy}": _with_strategy(self.reasoning, strategy) for strategy in strategies}


class ServeConfig(ServeArgs):
    """What `cleave serve` reads: the application and where it listens."""

    host: str = "127.0.0.1"
    """Address to listen on. Any other than loopback needs `keys`."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen on."""
    application: str = "cleave"
    """Name of the application in Ray Serve."""
    route_prefix: str = Field("/", pattern=r"^/([^/\s]+(/[^/\s]+)*)?$")
    """Path under which the routes are found, such as /math; several applications of one cluster need different ones."""
    address: str | None = None
    """Ray cluster to run on, such as auto; None: $RAY_ADDRESS, else a new local one that ends with the command."""

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not self.keys.required and not is_loopback(self.host):
            raise ValueError(f"others reach {self.host}, so keys are needed; set keys.env or keys.file, or listen on 127.0.0.1")
        return self

    def args(self) -> ServeArgs:
        """The part that builds the application."""
        return ServeArgs.model_validate({field: getattr(self, field) for field in ServeArgs.model_fields})


def load_serve(path: str | Path | None, overrides: Sequence[str] = ()) -> ServeConfig:
    """Read the config of `cleave serve`. Raises ConfigError, also for a Ray Serve config file, with what to do with one."""
    if path is not None and "applications" in read_yaml(path):
        raise ConfigError(f"{path} is a Ray Serve config file; run `serve run {path}` or `serve deploy {path}` with it.")
    return load_config(ServeConfig, path, overrides)


def validate_args(data: Mapping[str, Any], source: str) -> ServeArgs:
    """Build ServeArgs from plain data. Raises ConfigError with one sentence."""
    return validate(ServeArgs, data, source)


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1, "c": 2}` → `{"a": {"b": 1}, "c": 2}`. Raises ValueError where a key is both a value and a section."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = str(key).split(".")
        section = nested
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ValueError(f"{key!r} goes into {parent!r}, which has a value of its own")
        if last in section:
            raise ValueError(f"{key!r} is given twice")
        section[last] = value
    return nested


def _simple(name: str) -> str:
    if name in ROLES:
        raise ValueError(f"{name!r} is the name of a role; choose another model name")
    if not _MODEL_NAME.match(name):
        raise ValueError(f"{name!r} is no model name; use up to 64 letters, digits, dots, dashes and underscores")
    return name


def _with_strategy(reasoning: ReasoningConfig, strategy: str) -> ReasoningConfig:
    data = reasoning.model_dump() | {"strategy": strategy}
    return ReasoningConfig.model_validate(data if strategy in PLANNED else data | {"plans": 1})
