"""A teacher behind an OpenAI-compatible URL on this machine, and GSM8K files that it knows by heart: for tests of user models.

It reads the chat prompts of instruct-v1 and replies as a good model would, or, if told so, with garbage or not at all.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")
THINGS = ("pens", "shells", "cards", "stamps")
SOCRATIC_TEST_FROM = 800


@dataclass(frozen=True)
class Lesson:
    """One problem with its plan and worked solution."""

    have: int
    more: int
    away: int

    @property
    def name(self) -> str:
        return NAMES[self.have % len(NAMES)]

    @property
    def thing(self) -> str:
        return THINGS[self.more % len(THINGS)]

    @property
    def question(self) -> str:
        return f"{self.name} has {self.have} {self.thing}, gets {self.more} and loses {self.away}. How many are left?"

    @property
    def plan(self) -> str:
        return f"1. How many {self.thing} are {self.have} and {self.more}?\n2. How many is #1 without {self.away}?"

    @property
    def solution(self) -> str:
        together = self.have + self.more
        left = together - self.away
        return f"1. {self.have} + {self.more} = {together}\n2. {together} - {self.away} = {left}\nThe answer is: {left}"

    def row(self, socratic: bool) -> dict[str, str]:
        """As GSM8K writes it."""
        together = self.have + self.more
        left = together - self.away
        first = f"{self.have}+{self.more}=<<{self.have}+{self.more}={together}>>{together}"
        second = f"{together}-{self.away}=<<{together}-{self.away}={left}>>{left}"
        asked = ("How many are they together? ** ", "How many are left? ** ") if socratic else ("", "")
        return {"question": self.question, "answer": f"{asked[0]}{first}\n{asked[1]}{second}\n#### {left}"}


def write_gsm8k(folder: Path, train: int = 40, tested: int = 10) -> dict[str, Lesson]:
    """A small CLEAVE_DATA with `train` training problems and `tested` of the split socratic-test. Returns all lessons by question."""
    splits = {
        "train": [Lesson(20 + k, 3 + k % 7, 1 + k % 3) for k in range(train)],
        "test": [Lesson(1000 + k, 5 + k % 11, 2 + k % 4) for k in range(SOCRATIC_TEST_FROM + tested)],
    }
    place = folder / "gsm8k"
    place.mkdir(parents=True)
    for name, split, socratic in (("train", "train", False), ("test", "test", False), ("test_socratic", "test", True)):
        lines = [json.dumps(lesson.row(socratic)) for lesson in splits[split]]
        (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {lesson.question: lesson for lessons in splits.values() for lesson in lessons}


class Teacher(ThreadingHTTPServer):
    """Replies to what `lessons` hold. `garble` may give raw bytes to send in place of the reply to a question; `down` answers 503."""

    daemon_threads = True

    def __init__(self, lessons: dict[str, Lesson]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lessons = lessons
        self.garble: Callable[[str], bytes | None] = lambda question: None
        self.asked: list[str] = []
        self.lasts: int | None = None
        """Requests that it answers before it goes down; None: all."""
        self.turn = threading.Lock()
        """Held while a request is counted: the requests are served by threads."""

    @property
    def model(self) -> str:
        return f"openai:teacher@http://127.0.0.1:{self.server_port}/v1"

    def reply(self, messages: list[dict[str, str]]) -> str:
        """What a good model says to a prompt of instruct-v1."""
        question, _, plan = messages[-1]["content"].removeprefix("Problem: ").partition("\n\nSub-questions:\n")
        self.asked.append(question)
        lesson = self.lessons[question]
        return lesson.solution if plan or not messages[0]["content"].startswith("You split") else lesson.plan

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: Teacher

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.turn:
            if self.server.lasts is not None and len(self.server.asked) >= self.server.lasts:
                return self._send({"error": {"message": "out of order"}}, 503)
            text = self.server.reply(payload["messages"])
            garbage = self.server.garble(self.server.asked[-1])
        if garbage is not None:
            return self._send(garbage)
        choices = [
            {"index": k, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for k in range(payload.get("n", 1))
        ]
        return self._send({"choices": choices, "usage": {"prompt_tokens": 50, "completion_tokens": 20 * len(choices)}})

    def _send(self, data: object, status: int = 200) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@contextmanager
def teaching(lessons: dict[str, Lesson]) -> Iterator[Teacher]:
    """A teacher that listens while the body runs."""
    with Teacher(lessons) as teacher:
        thread = threading.Thread(target=teacher.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield teacher
        teacher.shutdown()
        thread.join()
