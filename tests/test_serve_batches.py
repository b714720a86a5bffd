"""Batches: the store and what it survives, the worker and who goes first, the routes with the real client, and a killed replica."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cleave.config.serve import ServeArgs
from cleave.config.serve_batches import BatchesConfig
from cleave.errors import ConfigError, DataError, RoleUnavailable
from cleave.roles import Roles
from serve.admission import Admission
from serve.api import create_app
from serve.batch_file import BadLine, read_requests
from serve.batch_store import WINDOW_S, BatchStore
from serve.batch_tables import StoredBatch, Work
from serve.batch_worker import BatchWorker
from serve.batches import LocalBatches
from serve.catalogue import Catalogue
from serve.keys import KeyRing, entry, new_key
from serve.ledger import LocalLedger
from serve.limiter import DAY_S
from serve.service import Service
from tests.serving import PLAN_COST, SOLVE_COST, Decomposes, Script, Solves, Speaks, Stage, chat, check_error, client_of

CHAT = "/v1/chat/completions"
KEYS = {name: new_key() for name in ("alice", "bob")}
DONE = {"status_code": 200, "request_id": "1", "body": {}}
TOKENS = (PLAN_COST + SOLVE_COST).tokens


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def lines(*bodies: Any, url: str = CHAT) -> bytes:
    rows = [{"custom_id": f"q{i}", "method": "POST", "url": url, "body": body} for i, body in enumerate(bodies)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def config(tmp_path: Path) -> BatchesConfig:
    return BatchesConfig(folder=str(tmp_path / "batches"))


@pytest.fixture
def store(config: BatchesConfig, clock: Clock) -> BatchStore:
    return BatchStore(config, clock)


def create(store: BatchStore, count: int = 3, key: str = "alice") -> StoredBatch:
    batch = store.create(key, store.add_file(key, "in.jsonl", lines(*[{"n": i} for i in range(count)])).id, CHAT, {})
    assert batch is not None
    return batch


def status_of(store: BatchStore, batch: StoredBatch, key: str = "alice") -> StoredBatch:
    found = store.batch(key, batch.id)
    assert found is not None
    return found


def ids_in(store: BatchStore, file: str | None, key: str = "alice") -> list[str]:
    content = store.content(key, file) if file else None
    return [json.loads(line)["custom_id"] for line in (content or b"").splitlines()]


# --- the file ---


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"", "empty_file", None),
        (b"\n \n", "empty_file", None),
        (lines({}) + b"{", "invalid_json_line", 2),
        (b"\xff\xfe\xfa", "invalid_json_line", 1),
        (b"[" * 100_000, "invalid_json_line", 1),
        (b"[]", "invalid_request", 1),
        (lines({}).replace(b"method", b"verb"), "invalid_request", 1),
        (lines({}).replace(b"POST", b"GET"), "invalid_method", 1),
        (lines({}) + lines({}), "duplicate_custom_id", 2),
        (lines({}, url="/v1/solve"), "mismatched_endpoint", 1),
        (lines({}, [1]), "invalid_request", 2),
        (lines({"stream": True}), "invalid_request", 1),
        (lines({}).replace(b'"q0"', b'""'), "invalid_custom_id", 1),
        (lines(*[{}] * 4), "too_many_requests", None),
    ],
)
def test_a_file_that_is_no_batch_is_refused(content: bytes, code: str, line: int | None) -> None:
    with pytest.raises(BadLine) as bad:
        list(read_requests(content, CHAT, 3))
    assert (bad.value.code, bad.value.line) == (code, line)


# --- the store ---


def test_what_is_done_is_never_handed_out_again_whatever_dies(store: BatchStore, config: BatchesConfig, clock: Clock) -> None:
    batch = create(store)
    first, second = store.take(10), store.take(10)
    assert first is not None
    assert second is not None
    store.finish(first, DONE)
    again = BatchStore(config, clock)  # the process was killed: nothing is said of the second request
    third = again.take(10)
    assert third is not None
    assert third.number == 2
    assert again.take(10) is None
    clock.now += 10
    assert again.take(10) == second
    again.finish(second, DONE)
    store.finish(second, DONE | {"body": "late"})  # the worker that was taken for dead
    again.finish(third, DONE | {"status_code": 400})
    done = status_of(again, batch)
    assert (done.status, done.completed, done.failed) == ("completed", 2, 1)
    assert (ids_in(again, done.output), ids_in(again, done.error)) == (["q0", "q1"], ["q2"])
    assert b"late" not in (again.content("alice", done.output or "") or b"")
    assert again.take(10) is None


def test_cancelling_waits_for_what_is_at_work(store: BatchStore) -> None:
    batch = create(store)
    work = store.take(10)
    assert work is not None
    assert store.cancel("alice", batch.id) is not None
    assert (store.take(10), status_of(store, batch).status) == (None, "cancelling")
    store.finish(work, DONE)
    done = status_of(store, batch)
    assert (done.status, ids_in(store, done.output), done.error) == ("cancelled", ["q0"], None)
    assert store.cancel("alice", batch.id) == done


def test_a_batch_expires_with_what_it_has(store: BatchStore, clock: Clock) -> None:
    batch = create(store)
    work = store.take(10)
    assert work is not None
    store.finish(work, DONE)
    clock.now += WINDOW_S
    assert store.take(10) is None
    done = status_of(store, batch)
    assert (done.status, ids_in(store, done.output), ids_in(store, done.error)) == ("expired", ["q0"], ["q1", "q2"])
    assert b"batch_expired" in (store.content("alice", done.error or "") or b"")


def test_keys_take_turns_and_a_batch_may_rest(store: BatchStore, clock: Clock) -> None:
    create(store, 3, "alice")
    create(store, 2, "bob")
    taken = [store.take(10) for _ in range(5)]
    assert [work.key for work in taken if work] == ["alice", "bob", "alice", "bob", "alice"]
    assert taken[0] is not None
    store.put_back(taken[0], 5)
    assert store.take(10) is None
    clock.now += 5
    assert store.take(10) == taken[0]


def test_nobody_sees_or_uses_what_is_anothers(store: BatchStore) -> None:
    batch = create(store)
    assert (store.file("bob", batch.file), store.content("bob", batch.file), store.delete_file("bob", batch.file)) == (None, None, False)
    assert (store.files("bob"), store.batches("bob"), store.batch("bob", batch.id), store.cancel("bob", batch.id)) == ([], [], None, None)
    assert store.create("bob", batch.file, CHAT, {}) is None
    assert status_of(store, batch).status == "in_progress"


def test_what_a_key_keeps_is_bounded(tmp_path: Path, clock: Clock) -> None:
    store = BatchStore(BatchesConfig(folder=str(tmp_path), max_bytes=5000, max_open=2, keep_days=1), clock)
    create(store)
    create(store)
    with pytest.raises(DataError, match="2 batches that are not finished"):
        create(store)
    with pytest.raises(DataError, match="5000 bytes"):
        store.add_file("alice", "large", b"x" * 5000)
    assert store.add_file("bob", "large", b"x" * 5000).bytes == 5000
    clock.now += 2 * 86_400
    assert [batch.status for batch in store.batches("alice")] == ["expired"] * 2
    clock.now += 2 * 86_400
    assert (store.batches("alice"), store.files("bob")) == ([], [])


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"correct batches\.folder"):
        BatchStore(BatchesConfig(folder=str(tmp_path / "file")))


# --- who goes first ---


async def test_batches_borrow_only_what_nobody_wants() -> None:
    admission = Admission(8)
    await admission.borrow(2)
    with admission.admit():
        waiting = asyncio.create_task(admission.borrow(2))
        await asyncio.sleep(0.01)
        assert not waiting.done()
    await waiting
    places = [admission.admit() for _ in range(8)]  # borrowed places are none of theirs
    for place in places:
        place.__enter__()
    admission.give_back()
    admission.give_back()
    waiting = asyncio.create_task(admission.borrow(2))
    for left, place in enumerate(reversed(places)):
        await asyncio.sleep(0)
        assert waiting.done() == (left > 6)
        place.__exit__(None, None, None)
    await waiting


# --- the routes and the worker, with the real client ---


class Bench:
    """An application with keys and batches, with a worker that can be started, killed and started again."""

    def __init__(self, folder: Path, script: Script, **args: Any) -> None:
        batches = {"folder": str(folder), **args.pop("batches", {})}
        self.args = ServeArgs.model_validate({**args, "batches": batches, "keys": {"env": "TEST_KEYS", **args.get("keys", {})}})
        self.stage = Stage()
        self.stage.script = script
        solver = Solves(self.stage)
        self.service = Service(Roles(Decomposes(self.stage), solver), self.args.limits, {"solver": Speaks(solver)})
        self.ledger, self.batches = LocalLedger(self.args), LocalBatches(self.args)
        self.inner = create_app(self.service, Catalogue.of(self.args))
        self.app = create_app(self.service, Catalogue.of(self.args), KeyRing.read(self.args.keys), self.ledger, self.batches)

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app, raise_app_exceptions=False))

    def client(self, name: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url="http://cleave/v1", api_key=KEYS[name], max_retries=0, http_client=self.http())

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        worker = BatchWorker(self.args, self.batches, self.inner, self.service.admission, self.ledger)
        task = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.batch_worker.POLL_S", 0.02)
    monkeypatch.setattr("serve.batch_worker.PAUSE_S", 0.02)
    monkeypatch.setenv("TEST_KEYS", "\n".join(entry(name, key) for name, key in KEYS.items()))


async def start(client: openai.AsyncOpenAI, content: bytes, **fields: Any) -> Any:
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", **fields)


async def ended(client: openai.AsyncOpenAI, name: str) -> Any:
    for _ in range(1000):
        batch = await client.batches.retrieve(name)
        if batch.status not in ("in_progress", "cancelling"):
            return batch
        await asyncio.sleep(0.02)
    raise AssertionError("the batch did not end")


@pytest.mark.usefixtures("secret")
async def test_the_openai_client_has_a_batch_worked_on(tmp_path: Path, script: Script) -> None:
    bench = Bench(tmp_path, script, keys={"limits": {"alice": {"requests_per_minute": 60, "tokens_per_day": 1000}}})
    client = bench.client("alice")
    bodies = [chat(f"What is {i} + 1?", seed=i) for i in range(3)]
    batch = await start(client, lines(*bodies, chat(frequency_penalty=1)), metadata={"mine": "yes"})
    assert (batch.status, batch.request_counts.total, batch.metadata) == ("in_progress", 4, {"mine": "yes"})
    async with bench.working():
        done = await ended(client, batch.id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 3, 1)
    replies = [json.loads(line) for line in (await client.files.content(done.output_file_id)).text.splitlines()]
    assert [reply["custom_id"] for reply in replies] == ["q0", "q1", "q2"]
    assert all(reply["response"]["body"]["choices"][0]["message"]["content"] and reply["error"] is None for reply in replies)
    (failed,) = [json.loads(line) for line in (await client.files.content(done.error_file_id)).text.splitlines()]
    assert (failed["response"]["status_code"], failed["response"]["body"]["error"]["param"]) == (400, "frequency_penalty")
    assert bench.ledger._limiter._accounts["alice"].tokens == 3 * TOKENS
    assert [file.purpose async for file in client.files.list()] == ["batch_output", "batch_output", "batch"]
    assert [each.id async for each in client.batches.list(limit=1)] == [batch.id]
    assert (await client.files.delete(batch.input_file_id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(batch.input_file_id)


@pytest.mark.usefixtures("secret")
async def test_a_batch_is_its_keys_own(tmp_path: Path, script: Script) -> None:
    bench = Bench(tmp_path, script)
    alice, bob = bench.client("alice"), bench.client("bob")
    batch = await start(alice, lines(chat()))
    for call in (
        bob.batches.retrieve(batch.id),
        bob.batches.cancel(batch.id),
        bob.files.retrieve(batch.input_file_id),
        bob.files.content(batch.input_file_id),
        bob.files.delete(batch.input_file_id),
        bob.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"),
    ):
        with pytest.raises(openai.NotFoundError):
            await call
    assert (await bob.batches.list()).data == []
    assert (await alice.batches.cancel(batch.id)).status == "cancelled"
    async with bench.http() as http:
        for method, path in (("GET", "/files"), ("POST", "/files"), ("POST", "/batches"), ("GET", f"/batches/{batch.id}")):
            check_error(await http.request(method, f"http://cleave/v1{path}"), 401, "missing_api_key")


@pytest.mark.usefixtures("secret")
async def test_a_worker_that_is_killed_leaves_no_request_undone_and_does_none_twice(tmp_path: Path, script: Script) -> None:
    bench = Bench(tmp_path, script, batches={"max_concurrent_requests": 1})
    client = bench.client("alice")
    batch = await start(client, lines(*[chat(f"What is {i}?") for i in range(4)]))
    async with bench.working():
        while len(script.solved) < 2:
            await asyncio.sleep(0.005)
    again = Bench(tmp_path, script)
    async with again.working():
        assert (await ended(again.client("alice"), batch.id)).request_counts.completed == 4
    asked = [request.problem.question for request in script.solved]
    assert sorted(set(asked)) == [f"What is {i}?" for i in range(4)]
    assert len(asked) <= 5  # the one in flight at most


@pytest.mark.usefixtures("secret")
async def test_requests_over_http_go_first(tmp_path: Path, script: Script) -> None:
    bench = Bench(tmp_path, script, batches={"max_concurrent_requests": 1})
    client = bench.client("alice")
    script.waits_s = 0.2
    async with bench.working():
        chats = [asyncio.create_task(client.chat.completions.create(**chat("Now?"))) for _ in range(2)]
        while not script.asked:
            await asyncio.sleep(0.005)
        batch = await start(client, lines(chat("Later?")))
        await asyncio.gather(*chats)
        await ended(client, batch.id)
    assert [request.problem.question for request in script.solved] == ["Now?", "Now?", "Later?"]


@pytest.mark.usefixtures("secret")
async def test_a_key_without_tokens_and_roles_that_are_away_make_a_batch_wait(tmp_path: Path, script: Script) -> None:
    bench = Bench(tmp_path, script, keys={"default": {"tokens_per_day": TOKENS}}, batches={"max_concurrent_requests": 1})
    client, rests, put_back = bench.client("bob"), list[float](), bench.batches.put_back

    async def noted(work: Work, pause_s: float) -> None:
        rests.append(pause_s)
        await put_back(work, pause_s)

    bench.batches.put_back = noted  # type: ignore[method-assign]
    script.fails = RoleUnavailable("away; try again later.")
    batch = await start(client, lines(chat("1?"), chat("2?")))
    async with bench.working():
        while len(rests) < 2:
            await asyncio.sleep(0.005)
        script.fails = None
        while max(rests) < DAY_S / 2:  # until the day's tokens are used up
            await asyncio.sleep(0.005)
        now = await client.batches.retrieve(batch.id)
        assert (now.status, now.request_counts.completed, len(script.solved)) == ("in_progress", 1, 1)
        assert (await client.batches.cancel(batch.id)).status == "cancelled"


@pytest.mark.usefixtures("secret")
async def test_bad_uploads_are_refused(tmp_path: Path, script: Script) -> None:
    bench = Bench(tmp_path, script, batches={"max_file_bytes": 2048})
    client = bench.client("alice")
    with pytest.raises(openai.APIStatusError) as large:
        await client.files.create(file=("x", b"x" * 3000), purpose="batch")
    assert large.value.status_code == 413
    with pytest.raises(openai.APIStatusError) as larger:
        await client.files.create(file=("x", b"x" * 30_000), purpose="batch")
    assert larger.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match="purpose"):
        await client.files.create(file=("x", b"x"), purpose="assistants")
    batch = await start(client, b"no json")
    assert (batch.status, batch.errors.data[0].line, batch.errors.data[0].code) == ("failed", 1, "invalid_json_line")
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        await client.batches.create(input_file_id=batch.input_file_id, endpoint="/v1/embeddings", completion_window="24h")
    async with bench.http() as http:
        headers = {"Authorization": f"Bearer {KEYS['alice']}", "Content-Type": "multipart/form-data; boundary=x"}
        for content in (b"", b"--x\r\n", b"--x--\r\n", b"\xff" * 100, b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nq'):
            reply = await http.post("http://cleave/v1/files", content=content, headers=headers)
            assert reply.status_code == 400, reply.text


async def test_batches_are_off_by_default(script: Script) -> None:
    async with client_of(script) as http:
        assert "batches.folder" in check_error(await http.get("/batches"), 404, "batches_off")
        reply = await http.post("/files", files={"file": b"x"}, data={"purpose": "batch"})
        check_error(reply, 404, "batches_off")
