"""What travels over `/v1/files` and `/v1/batches`: OpenAI's objects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from serve.batch_store import WINDOW_S
from serve.batch_tables import StoredBatch, StoredFile
from serve.schema import Body, Text

Name = Annotated[Text, Field(max_length=64)]
TIMES = ("in_progress", "completed", "failed", "expired", "cancelling", "cancelled")


class BatchBody(Body):
    """OpenAI's request for a batch."""

    input_file_id: Text
    """A file that was sent to /v1/files: one request per line."""
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/solve"]
    """The route of all requests of the file."""
    completion_window: Literal["24h"]
    """What is not done by then expires."""
    metadata: Annotated[dict[Name, Annotated[Text, Field(max_length=512)]], Field(max_length=16)] = Field(default_factory=dict)
    """Notes of the client's own."""


class FileReply(BaseModel):
    """What is known of a file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, file: StoredFile) -> FileReply:
        return cls(id=file.id, bytes=file.bytes, created_at=file.created, filename=file.name, purpose=file.purpose)


class FileDeleted(BaseModel):
    """A file is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class BatchErrors(BaseModel):
    """Why the file of a batch was refused: code, line, message."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


class RequestCounts(BaseModel):
    """Requests of a batch; `completed` ones were answered with 200."""

    total: int
    completed: int
    failed: int


class BatchReply(BaseModel):
    """A batch. The replies are in the files `output_file_id` (status 200) and `error_file_id` (others) once it is finished."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts
    metadata: dict[str, str]

    @classmethod
    def of(cls, batch: StoredBatch) -> BatchReply:
        return cls(
            id=batch.id,
            endpoint=batch.endpoint,
            errors=BatchErrors(data=[dict(error) for error in batch.errors]) if batch.errors else None,
            input_file_id=batch.file,
            status=batch.status,
            output_file_id=batch.output,
            error_file_id=batch.error,
            created_at=batch.created,
            expires_at=batch.created + WINDOW_S,
            request_counts=RequestCounts(total=batch.total, completed=batch.completed, failed=batch.failed),
            metadata=dict(batch.metadata),
            **{f"{name}_at": batch.times.get(name) for name in TIMES},
        )


class FileList(BaseModel):
    """Files, the newest first."""

    object: Literal["list"] = "list"
    data: list[FileReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchList(BaseModel):
    """Batches, the newest first."""

    object: Literal["list"] = "list"
    data: list[BatchReply]
    first_id: str | None
    last_id: str | None
    has_more: bool
