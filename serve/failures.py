"""Errors as HTTP: every failure becomes a status and the OpenAI error object `{"error": {message, type, param, code}}`.

`code` is a string. Typed errors carry their status and code (cleave/errors.py); whatever else escapes a route is a bug and becomes
a 500 that says nothing about the inside, with the traceback in the replica's log. 429 and 503 name a Retry-After.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from cleave import errors
from cleave.errors import CleaveError
from cleave.types import Failure

BUG = "the server failed in a way that it should not; its log has the details."
RETRYABLE = (429, 503)
SENTENCES = {
    404: "there is no such path; /docs lists them, none with a slash at its end.",
    405: "this path has no such method; /docs lists them.",
}
CODES = {404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "request_too_large"}
NO_OBJECT = ("model_attributes_type", "model_type", "dict_type", "missing")


class ApiError(Exception):
    """A request that is answered with an error. `param` names the field at fault."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after_s = status, message, code, param, retry_after_s


def refused(message: str, param: str | None = None, code: str = "invalid_request") -> ApiError:
    """A request that its sender has to change."""
    return ApiError(400, message, code, param)


def status_of(failure: Failure) -> int:
    """The HTTP status of a trace's error."""
    return _error_class(failure.type).http_status


def api_error(failure: Failure) -> ApiError:
    """A trace's error as an answer."""
    cls = _error_class(failure.type)
    where = f"{failure.role}: " if failure.role else ""
    return ApiError(cls.http_status, where + failure.message, cls.code)


def error_object(error: ApiError) -> dict[str, Any]:
    """The body of an error reply."""
    return {"error": {"message": error.message, "type": _type(error.status), "param": error.param, "code": error.code}}


def error_response(error: ApiError, retry_after_s: int) -> Response:
    """The error reply. `retry_after_s` is the server's default for replies that are worth another try."""
    seconds = error.retry_after_s or (retry_after_s if error.status in RETRYABLE else None)
    headers = {"Retry-After": str(seconds)} if seconds else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    # Escaped, since an error may quote what no encoding can carry, such as half a surrogate pair.
    return Response(json.dumps(error_object(error)), error.status, headers, media_type="application/json")


def install(app: FastAPI, retry_after_s: int) -> None:
    """Answer every exception of the application's routes with the error object."""

    async def on_api_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error_response(error, retry_after_s)

    async def on_cleave_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, CleaveError)
        return error_response(ApiError(error.http_status, str(error), error.code), retry_after_s)

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(_invalid(error.errors()), retry_after_s)

    async def on_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_response(_http_error(error), retry_after_s)

    async def on_bug(_: Request, error: Exception) -> Response:
        return error_response(ApiError(500, BUG, "internal_error"), retry_after_s)

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(CleaveError, on_cleave_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)


def _invalid(found: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first thing that does not fit, as one sentence with the field's path."""
    first = found[0]
    kind, path = first["type"], [str(part) for part in first["loc"] if part not in ("body", "path", "query")]
    param = ".".join(path) or None
    if kind == "json_invalid":
        return refused("the body is not valid JSON; check its quotes and commas.", code="invalid_json")
    if param is None and kind in NO_OBJECT:
        return refused("the body must be a JSON object, sent with `Content-Type: application/json`.", code="invalid_json")
    if kind == "extra_forbidden":
        return refused(f"unknown field {param!r}; remove it, fields are never ignored.", param, "unknown_field")
    if kind == "missing":
        return refused(f"the field {param!r} is missing.", param, "missing_field")
    message = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    return refused(f"{param}: {message}." if param else f"{message}.", param)


def _http_error(error: HTTPException) -> ApiError:
    """What the framework refuses: unknown paths and methods, bodies that cannot be read."""
    if error.status_code == 400:
        return refused("the body cannot be read; send a JSON object in UTF-8.", code="invalid_json")
    code = CODES.get(error.status_code, "invalid_request" if error.status_code < 500 else "internal_error")
    return ApiError(error.status_code, SENTENCES.get(error.status_code, str(error.detail)), code)


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    if status in (408, 504):
        return "timeout_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _error_class(name: str) -> type[CleaveError]:
    cls = getattr(errors, name, None)
    return cls if inspect.isclass(cls) and issubclass(cls, CleaveError) else CleaveError
