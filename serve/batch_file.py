"""The file of a batch: one request per line, in OpenAI's form, checked before anything is asked.

    {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "cleave", "messages": […]}}

Left out: what is in a body; a request that is refused fails alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/solve")
FIELDS = {"custom_id", "method", "url", "body"}
MOST_ID = 256
"""Characters of a custom_id."""


class BadLine(Exception):
    """A file that is no batch. `line` counts from 1; None: the file as a whole."""

    def __init__(self, message: str, line: int | None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.line, self.code = line, code


@dataclass(frozen=True)
class FileRequest:
    """One request. `body`: JSON."""

    custom_id: str
    body: bytes


def read_requests(content: bytes, endpoint: str, most: int) -> Iterator[FileRequest]:
    """The requests of a file. Raises BadLine at the first that is none, and for more than `most`."""
    known: set[str] = set()
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        request = _request(line, number, endpoint)
        if request.custom_id in known:
            raise BadLine(f"the custom_id {request.custom_id!r} is used twice; give each request its own.", number, "duplicate_custom_id")
        known.add(request.custom_id)
        if len(known) > most:
            raise BadLine(f"the file has more than {most} requests; send several batches.", None, "too_many_requests")
        yield request
    if not known:
        raise BadLine("the file has no requests; write one JSON object per line.", None, "empty_file")


def _request(line: bytes, number: int, endpoint: str) -> FileRequest:
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadLine("this line is not valid JSON; write one JSON object per line.", number, "invalid_json_line") from error
    if not isinstance(data, dict) or set(data) != FIELDS:
        raise BadLine(f"a request has the fields {', '.join(sorted(FIELDS))}, no others; correct this line.", number)
    custom_id, body = data["custom_id"], data["body"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MOST_ID:
        raise BadLine(f"custom_id must be a text of up to {MOST_ID} characters.", number, "invalid_custom_id")
    if data["method"] != "POST":
        raise BadLine("method must be POST.", number, "invalid_method")
    if data["url"] != endpoint:
        raise BadLine(f"url must be the batch's endpoint {endpoint}.", number, "mismatched_endpoint")
    if not isinstance(body, dict):
        raise BadLine("body must be a JSON object.", number)
    if body.get("stream"):
        raise BadLine("the requests of a batch cannot be streams; leave stream out.", number)
    # ASCII escapes carry what UTF-8 cannot, such as half a surrogate pair; the route refuses it.
    return FileRequest(custom_id, json.dumps(body).encode())
