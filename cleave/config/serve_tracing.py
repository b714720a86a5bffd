"""Where the spans of requests go: to any receiver of OTLP over HTTP, such as an OpenTelemetry collector, Jaeger or Tempo."""

from typing import Self

from pydantic import Field, model_validator

from cleave.config.base import Config


class TracingConfig(Config):
    """Neither endpoint nor endpoint_env: there are no spans. What is not said here is taken from the standard OTEL_… environment variables
    of the replicas: sampler, propagators, headers, batches, limits, attributes of the resource."""

    endpoint: str | None = Field(None, pattern=r"^https?://\S+$")
    """Base URL of the receiver, such as http://localhost:4318; spans go to /v1/traces below it."""
    endpoint_env: str | None = None
    """Environment variable of the replicas with that URL, in place of `endpoint`; usually OTEL_EXPORTER_OTLP_ENDPOINT."""
    service_name: str | None = Field(None, min_length=1)
    """Name that the spans are found by; null: $OTEL_SERVICE_NAME, else cleave."""

    @model_validator(mode="after")
    def _one_endpoint(self) -> Self:
        if self.endpoint is not None and self.endpoint_env is not None:
            raise ValueError("endpoint and endpoint_env both name a receiver; keep one of them")
        return self

    @property
    def on(self) -> bool:
        """Whether there are spans."""
        return self.endpoint is not None or self.endpoint_env is not None
