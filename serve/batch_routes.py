"""`/v1/files` and `/v1/batches`: requests sent as a file, worked on where there is room, and their replies as files, as OpenAI has it.

Each key sees its own files and batches only. Off unless `batches.folder` is set. Left out: the store (serve/batch_store.py), the work
(serve/batch_worker.py), and files for anything but batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Body, File, Form, Query, UploadFile
from fastapi.responses import Response

from serve.batch_schema import BatchBody, BatchList, BatchReply, FileDeleted, FileList, FileReply
from serve.batches import Batches
from serve.failures import ApiError
from serve.lease import holder
from serve.openai_routes import ERRORS
from serve.schema import Body as Strict

UPLOADS = 2
"""Files that are read into memory at the same time."""
MOST_LISTED = 100
MOST_NAME = 255
EXAMPLES: dict[str, Any] = {
    "batch": {
        "summary": "A batch of chats",
        "value": {"input_file_id": "file-0", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    }
}
T = TypeVar("T", FileReply, BatchReply)
After = Annotated[str | None, Query(description="Id after which the list goes on.")]
Limit = Annotated[int, Query(ge=1, le=MOST_LISTED)]


def batch_routes(batches: Batches | None) -> APIRouter:
    """The router over a store; None: everything is answered with 404 and why."""
    router = APIRouter(prefix="/v1", tags=["Batches"], responses={status: ERRORS[status] for status in (400, 401, 404, 413, 503)})
    uploads = asyncio.Semaphore(UPLOADS)

    def store() -> Batches:
        if batches is None:
            raise ApiError(404, "there are no batches here; the server needs batches.folder.", "batches_off")
        return batches

    @router.post("/files", summary="Send the requests of a batch")
    async def create_file(
        file: Annotated[UploadFile, File(description="One request per line, as JSON.")], purpose: Annotated[Literal["batch"], Form()]
    ) -> FileReply:
        most = store().config.max_file_bytes
        if (file.size or 0) > most:
            raise ApiError(413, f"the file has more than {most} bytes; send several.", "request_too_large", "file")
        async with uploads:
            return FileReply.of(await store().add_file(holder(), (file.filename or "file")[:MOST_NAME], await file.read()))

    @router.get("/files", summary="List files")
    async def list_files(after: After = None, limit: Limit = MOST_LISTED) -> FileList:
        page, more = _page([FileReply.of(file) for file in await store().files(holder())], after, limit)
        return FileList(data=page, has_more=more, **_ends(page))

    @router.get("/files/{name}", summary="Describe a file")
    async def file(name: str) -> FileReply:
        return FileReply.of(_there(await store().file(holder(), name), "file", name))

    @router.get("/files/{name}/content", summary="Fetch a file", response_class=Response)
    async def content(name: str) -> Response:
        return Response(_there(await store().content(holder(), name), "file", name), media_type="application/jsonl")

    @router.delete("/files/{name}", summary="Delete a file")
    async def delete_file(name: str) -> FileDeleted:
        _there(await store().delete_file(holder(), name) or None, "file", name)
        return FileDeleted(id=name)

    @router.post("/batches", summary="Have the requests of a file worked on")
    async def create_batch(body: Annotated[BatchBody, Body(openapi_examples=EXAMPLES)]) -> BatchReply:
        batch = await store().create(holder(), body.input_file_id, body.endpoint, body.metadata)
        return BatchReply.of(_there(batch, "file", body.input_file_id, "input_file_id"))

    @router.get("/batches", summary="List batches")
    async def list_batches(after: After = None, limit: Limit = 20) -> BatchList:
        page, more = _page([BatchReply.of(batch) for batch in await store().batches(holder())], after, limit)
        return BatchList(data=page, has_more=more, **_ends(page))

    @router.get("/batches/{name}", summary="Describe a batch")
    async def batch(name: str) -> BatchReply:
        return BatchReply.of(_there(await store().batch(holder(), name), "batch", name))

    @router.post("/batches/{name}/cancel", summary="Work on no more of a batch")
    async def cancel_batch(name: str, body: Annotated[Strict | None, Body()] = None) -> BatchReply:
        return BatchReply.of(_there(await store().cancel(holder(), name), "batch", name))

    return router


X = TypeVar("X")


def _there(found: X | None, kind: str, name: str, param: str = "name") -> X:
    """What was found. Raises ApiError 404."""
    if found is None:
        raise ApiError(404, f"there is no {kind} {name[:80]!r}; it may have been deleted.", f"{kind}_not_found", param)
    return found


def _page(items: Sequence[T], after: str | None, limit: int) -> tuple[list[T], bool]:
    """The part of a list after an id, and whether there is more. Raises ApiError 404 for an id that is not in it."""
    names = [item.id for item in items]
    if after is not None and after not in names:
        raise ApiError(404, f"there is no {after[:80]!r} in this list; leave `after` out.", "not_found", "after")
    start = 0 if after is None else names.index(after) + 1
    return list(items[start : start + limit]), start + limit < len(items)


def _ends(page: Sequence[T]) -> dict[str, str | None]:
    return {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
