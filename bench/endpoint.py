"""A local OpenAI-compatible endpoint that always says the same, a fixed time after it was asked: the model where no model is measured.

    with Endpoint(latency_s=0.2) as endpoint:
        role = {"model": endpoint.model, "prompts": "instruct-v1"}
        endpoint.seen()["requests"]

A process of its own, so that its work is not booked on whoever asks. Left out: streams, log-probabilities, several choices.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from typing import Any, Self

ANSWER = "The answer is: 1"
USAGE = {"prompt_tokens": 9, "completion_tokens": 5}


class Endpoint:
    """Runs while the body does. `model` is its short string for a config."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self._latency_s = latency_s
        self.url = self.model = ""

    def __enter__(self) -> Self:
        os.environ.setdefault("OPENAI_API_KEY", "none")
        command = [sys.executable, "-m", "bench.endpoint", "--latency-s", str(self._latency_s)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{port}/v1"
        self.model = f"openai:constant@{self.url}"
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def seen(self) -> dict[str, Any]:
        """`requests` so far and the `first` one's time, None before it, as time.time() has it."""
        with urllib.request.urlopen(f"{self.url}/seen", timeout=60) as reply:
            found: dict[str, Any] = json.load(reply)
        return found


class Server:
    """Counts requests and answers them."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._seen: dict[str, Any] = {"requests": 0, "first": None}

    async def serve(self) -> None:
        """Listen on a free port, which is printed, until the process ends."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(_content_length(head))
                body = json.dumps(await self._reply(head)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()  # whoever asked is gone

    async def _reply(self, head: bytes) -> dict[str, Any]:
        if head.startswith(b"GET"):
            return self._seen
        self._seen["requests"] += 1
        self._seen["first"] = self._seen["first"] or time.time()
        await asyncio.sleep(self._latency_s)
        chat = b"/chat/completions" in head.partition(b"\r\n")[0]
        said = {"message": {"role": "assistant", "content": ANSWER}} if chat else {"text": ANSWER}
        return {"id": "1", "choices": [{"index": 0, "finish_reason": "stop", **said}], "usage": USAGE}


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--latency-s", type=float, default=0.0)
    asyncio.run(Server(parser.parse_args().latency_s).serve())
