"""A headless Chromium, spoken to by its DevTools protocol over one websocket: pages are opened, asked by JavaScript, and photographed."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
WITHIN_S = 60.0


def installed() -> str | None:
    """Path of the browser, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page. `errors`: what its script threw and what its policy refused."""

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self._socket, self._session, self._ids = socket, session, itertools.count(1000)
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        return _call(self._socket, next(self._ids), method, params, self._session, self._note)

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["source"] in ("security", "javascript"):
            self.errors.append(message["params"]["entry"]["text"])

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression, which may be a promise."""
        reply = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Until a JavaScript condition holds."""
        end = time.monotonic() + WITHIN_S
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never: {condition}; errors: {self.errors}; page: {self.run('document.body.innerText')}"
            time.sleep(0.02)

    def press(self, key: str, *, control: bool = False) -> None:
        """A key, where the focus is."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32}
        text = {"Enter": "\r", " ": " "}.get(key, "")
        params = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key], "modifiers": 2 if control else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown", **params, **({"text": text} if text and not control else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **params)

    def write(self, text: str) -> None:
        """Type, where the focus is."""
        self.send("Input.insertText", text=text)

    def size(self, width: int, height: int, *, phone: bool = False, scale: float = 1.0) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)

    def colours(self, scheme: str) -> None:
        """light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def photograph(self, path: Path) -> None:
        """All of the page as PNG."""
        reply = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(reply["data"]))


@contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """A browser with an empty profile, showing an empty page."""
    path = installed()
    assert path is not None
    options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run", "--disable-gpu"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium refuses it to root
    process = subprocess.Popen([path, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port, route = _address(profile / "DevToolsActivePort", process)
        with connect(f"ws://127.0.0.1:{port}{route}", max_size=None, proxy=None) as socket:
            target = _call(socket, 1, "Target.createTarget", {"url": "about:blank"})["targetId"]
            session = _call(socket, 2, "Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
            yield Page(socket, session)
    finally:
        process.terminate()
        process.wait()


def _address(file: Path, process: subprocess.Popen[bytes]) -> list[str]:
    end = time.monotonic() + WITHIN_S
    while not (file.exists() and len(lines := file.read_text().split("\n")) >= 2):
        assert process.poll() is None, "the browser ended while it started"
        assert time.monotonic() < end, "the browser does not start"
        time.sleep(0.02)
    return lines[:2]


def _call(
    socket: ClientConnection, number: int, method: str, params: dict[str, Any], session: str = "", note: Any = None
) -> dict[str, Any]:
    message: dict[str, Any] = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
    socket.send(json.dumps(message))
    while True:
        reply = json.loads(socket.recv(timeout=WITHIN_S))
        if reply.get("id") == number:
            assert "error" not in reply, reply
            result: dict[str, Any] = reply["result"]
            return result
        if note is not None:
            note(reply)
