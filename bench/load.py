"""Requests in numbers: clients that ask one after another, arrivals at a fixed rate, and a load that goes on while something else happens.

    outcomes = closed(url, bodies, clients=16)            # each client asks again when it has its answer
    outcomes = arriving(url, bodies, per_second=80)       # whether or not anybody is answered
    with Load(url, bodies, clients=6) as load: ...        # load.outcomes

Nothing is asked twice, and 429 is an outcome like any other. Left out: starting what is asked (application.py).
"""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any

import aiohttp

TIMEOUT_S = 120.0
BROKEN = 0
"""In place of a status: the connection ended without a reply."""
HUNG = -1
"""In place of a status: no reply within TIMEOUT_S."""
Body = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of one request. `said`: a trace's answer and solutions, or a completion's texts; None without a good reply."""

    question: str
    status: int
    seconds: float
    said: tuple[Any, ...] | None = None


async def ask(session: aiohttp.ClientSession, url: str, body: Body) -> Outcome:
    """One request."""
    start = time.perf_counter()
    status, said = BROKEN, None
    try:
        async with session.post(url, json=body) as reply:
            status, text = reply.status, await reply.read()
        said = said_in(json.loads(text)) if status == 200 else None
    except TimeoutError:
        status = HUNG
    except (aiohttp.ClientError, ConnectionError):
        status = BROKEN
    return Outcome(str(body.get("question", "")), status, time.perf_counter() - start, said)


def said_in(reply: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a trace or a chat completion says, without what differs from one run to the next (times)."""
    if "choices" in reply:
        return tuple(choice["message"]["content"] for choice in reply["choices"])
    return reply["answer"], *(solution["text"] for solution in reply["solutions"])


def closed(url: str, bodies: Sequence[Body], clients: int) -> list[Outcome]:
    """Every body once, by so many clients; in the order of the bodies."""
    return asyncio.run(_closed(url, iter(bodies), clients, threading.Event()))


def arriving(url: str, bodies: Sequence[Body], per_second: float) -> list[Outcome]:
    """Every body once, at a fixed rate."""
    return asyncio.run(_arriving(url, bodies, per_second))


async def _closed(url: str, bodies: Iterator[Body], clients: int, ends: threading.Event) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    numbered = enumerate(bodies)

    async def client(session: aiohttp.ClientSession) -> None:
        while not ends.is_set() and (item := next(numbered, None)) is not None:
            outcomes[item[0]] = await ask(session, url, item[1])

    async with _session() as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return [outcomes[number] for number in sorted(outcomes)]


async def _arriving(url: str, bodies: Sequence[Body], per_second: float) -> list[Outcome]:
    start = asyncio.get_running_loop().time()
    async with _session() as session, asyncio.TaskGroup() as group:
        tasks = []
        for number, body in zip(count(), bodies, strict=False):
            await asyncio.sleep(start + number / per_second - asyncio.get_running_loop().time())
            tasks.append(group.create_task(ask(session, url, body)))
    return [task.result() for task in tasks]


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), connector=aiohttp.TCPConnector(limit=0))


class Load:
    """Clients that ask the bodies over and over for the body of the `with`, in a thread of their own; `outcomes` after it."""

    def __init__(self, url: str, bodies: Sequence[Body], clients: int) -> None:
        self.outcomes: list[Outcome] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(url, bodies, clients))

    def _run(self, url: str, bodies: Sequence[Body], clients: int) -> None:
        self.outcomes = asyncio.run(_closed(url, cycle(bodies), clients, self._ends))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()


def answered(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.status == 200]


def statuses(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How often each status came; `broken` and `hung` where there was none."""
    names = {BROKEN: "broken", HUNG: "hung"}
    return {names.get(status, str(status)): times for status, times in sorted(Counter(outcome.status for outcome in outcomes).items())}


def milliseconds(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Median and 95th percentile of the answered requests' latency."""
    times = sorted(1000 * outcome.seconds for outcome in answered(outcomes))
    return {"p50": statistics.median(times), "p95": times[min(len(times) - 1, int(0.95 * len(times)))]} if times else {}
