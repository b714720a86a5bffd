"""How a language model is named: a mapping, or its short string.

hf:PATH_OR_HUB_ID        local weights through transformers (safetensors only)
openai:MODEL@URL         any OpenAI-compatible endpoint; split at the last "@http"
recorded:FILE            replays recorded calls; an unknown call is an error
reference:NAME           a checkpoint that ships with Cleave
"""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cleave.config.base import Config, split_short

Backend = Literal["hf", "openai", "recorded", "reference"]


class Price(Config):
    """Price per million tokens, in any one currency."""

    prompt: float = Field(0.0, ge=0)
    """Price per million prompt tokens."""
    completion: float = Field(0.0, ge=0)
    """Price per million generated tokens."""


class ModelConfig(Config):
    """One language model. Fields that do not apply to the backend are refused."""

    backend: Backend = "hf"
    """Where replies come from: hf, openai, recorded or reference."""
    model_name_or_path: str
    """Checkpoint folder or Hub id (hf), model name (openai), recording file (recorded), shipped name (reference)."""
    revision: str | None = None
    """Hub revision to pin (hf only)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights' number format; auto: as saved on a GPU, float32 on a CPU."""
    device_map: str | None = None
    """Device such as cpu, cuda or auto; None: cuda if there is one, else cpu."""
    adapter: str | None = None
    """Folder of a PEFT adapter to apply (hf only)."""
    max_model_len: int | None = Field(None, gt=0)
    """Longest prompt plus reply in tokens; None: the checkpoint's own limit."""
    max_batch_size: int = Field(64, gt=0)
    """Most sequences decoded at the same time (hf and reference)."""
    ngrams: str | None = None
    """Folder of n-gram tables that smooth its drafts (hf and reference); `cleave ngrams build` makes one."""
    base_url: str | None = None
    """Endpoint root that ends in /v1 (openai only)."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the endpoint's key (openai only); keys are never written in configs."""
    max_concurrency: int = Field(16, gt=0)
    """Most requests in flight at the same time (openai only)."""
    connect_timeout_s: float = Field(10.0, gt=0)
    """Seconds to wait for a connection (openai only)."""
    read_timeout_s: float = Field(120.0, gt=0)
    """Seconds to wait for a reply (openai only)."""
    max_retries: int = Field(5, ge=0)
    """Retries after 408, 409, 429, 5xx and connection errors (openai only)."""
    logprobs: bool = False
    """Ask for the log-probabilities of replies, from which a single sample gets its confidence; some servers refuse it (openai only)."""
    price: Price = Price()
    """What its tokens cost."""
    cache: str | None = None
    """Local folder that keeps its replies: what it was asked before (greedily, or with a seed) it is not asked again, whichever run asks;
    usage is then that of the first time."""

    @model_validator(mode="before")
    @classmethod
    def _short_string(cls, data: Any) -> Any:
        short, rest = split_short(data)
        return {**parse_short(short), **rest} if short is not None else data

    @field_validator("model_name_or_path")
    @classmethod
    def _not_empty(cls, name: str) -> str:
        if not name.strip():
            raise ValueError("a model needs a name or a path")
        return name

    @model_validator(mode="after")
    def _fits_backend(self) -> Self:
        if self.backend == "openai" and not self.base_url:
            raise ValueError("an openai model needs its URL: write openai:MODEL@https://HOST/v1")
        if self.backend != "openai" and (self.base_url or self.logprobs):
            raise ValueError(f"base_url and logprobs do not apply to a {self.backend} model")
        if self.backend in ("openai", "recorded") and self.ngrams:
            raise ValueError(f"ngrams do not apply to a {self.backend} model")
        if self.cache and (self.backend == "recorded" or "://" in self.cache):
            raise ValueError("cache is a folder on a local disk that keeps a model's replies; a recording needs none")
        if self.backend != "hf" and (self.revision or self.adapter):
            raise ValueError(f"revision and adapter do not apply to a {self.backend} model")
        return self

    @property
    def short(self) -> str:
        """The short string, for tables and logs."""
        return f"{self.backend}:{self.model_name_or_path}" + (f"@{self.base_url}" if self.base_url else "")


def parse_short(text: str) -> dict[str, str]:
    """Split a short string into the mapping's fields. Raises ValueError with the known forms."""
    backend, colon, rest = text.partition(":")
    if not colon or backend not in ("hf", "openai", "recorded", "reference") or not rest:
        raise ValueError(f"{text!r} names no model; write hf:PATH, openai:MODEL@URL, recorded:FILE or reference:NAME")
    if backend != "openai":
        return {"backend": backend, "model_name_or_path": rest}
    name, at, url = rest.rpartition("@http")
    if not at or not name:
        raise ValueError(f"{text!r} has no URL; write openai:MODEL@https://HOST/v1")
    return {"backend": backend, "model_name_or_path": name, "base_url": f"http{url}"}
