"""What the HTTP application keeps of batches: requests that clients send as a file and whose replies they fetch later."""

from pydantic import Field

from cleave.config.base import Config


class BatchesConfig(Config):
    """What /v1/files and /v1/batches keep and do. Off without a folder."""

    folder: str | None = None
    """Folder, on a local disk of the node of the replica named Batches, in which files and batches are kept; null: there are no batches."""
    max_concurrent_requests: int = Field(4, ge=1)
    """Requests of batches at work at the same time in an ingress replica; each other request that it works on takes one of these places."""
    max_requests: int = Field(10_000, ge=1)
    """Requests in one batch."""
    max_open: int = Field(16, ge=1)
    """Batches of one key that are not finished."""
    max_file_bytes: int = Field(10_000_000, ge=1024)
    """Bytes of one file that is sent; more is answered with 413."""
    max_bytes: int = Field(200_000_000, ge=1024)
    """Bytes of all files and replies of one key. Beyond them its files are refused and its batches wait until it deletes some."""
    keep_days: float = Field(30.0, gt=0)
    """Days after which files are deleted, and batches after the end of their 24 hours."""
