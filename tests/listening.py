"""The application over scripted roles behind a real HTTP server in a thread, for clients that open connections of their own; and bytes
sent to it as they stand."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from tests.serving import Script, application

WAIT_S = 20.0


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The application's address, without a path."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def scripted(script: Script, **args: Any) -> Iterator[str]:
    """The same for the scripted application."""
    app, stage = application(json.dumps(args))
    stage.script = script
    with listening(app) as url:
        yield url


def connect(url: str) -> socket.socket:
    """A connection."""
    address = urlsplit(url)
    assert address.port is not None
    return socket.create_connection((address.hostname or "", address.port), timeout=WAIT_S)


def head(method: str, path: str, *lines: str) -> bytes:
    """The beginning of a request."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: cleave", *lines, "", "")).encode("latin-1")


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes; all there was, if it closes hard."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionError:
        pass
    return received


def exchange(url: str, sent: bytes) -> tuple[int, bytes]:
    """What bytes get: status (0: the connection was closed without a reply) and all that came."""
    with connect(url) as connection:
        connection.sendall(sent)
        received = read_all(connection)
    return int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/1.1 ") else 0, received
