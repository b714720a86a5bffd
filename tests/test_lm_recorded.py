"""Recording calls and replaying them: equal replies whatever the batch, typed errors, files that survive kills and several writers."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cleave.decoding.draft import Draft, Drafting
from cleave.errors import ConfigError, DataError, GenerationError, StorageError
from cleave.lm.protocol import Capability, LanguageModel
from cleave.lm.recorded import RecordedModel, Recorder
from cleave.types import Completion, Message, ModelInfo, Prompt, Sampling, Usage

SAMPLING = Sampling(n=2, temperature=0.7, stop=("\n",))
CHAT = Prompt(messages=(Message("system", "Kürze"), Message("user", "2 + 3?")), seed=4)


class Echo:
    """Replies with its input; counts its calls."""

    info = ModelInfo("echo", "r1", "float32", 7)
    capabilities: frozenset[Capability] = frozenset({"text", "score"})

    def __init__(self) -> None:
        self.calls = 0
        self.closed = False

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        self.calls += 1
        return [
            [
                Completion(f"{p.text}{p.seed}-{i}", (1, 2), (-0.5, -1.5), (((1, -0.5),), ((2, -1.5),)), "length", Usage(1, 2, 3))
                for i in range(sampling.n)
            ]
            for p in prompts
        ]

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        return [Completion(text, (3,), (-1.0,)) for text in continuations]

    async def drafts(self, prompts: Sequence[Prompt], drafting: Drafting) -> list[list[Draft]]:
        return [[Draft("x", (1,), (-1.0,))] * drafting.k for _ in prompts]

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        for piece in ("one ", "two"):
            yield piece

    async def aclose(self) -> None:
        self.closed = True


async def test_replay_equals_the_recording_whatever_the_batch(tmp_path: Path) -> None:
    prompts = [Prompt(text="a", seed=1), Prompt(text="a", seed=2), CHAT]
    model = Echo()
    recorder = Recorder(model, tmp_path / "new" / "calls.jsonl")
    replies = await recorder.generate(prompts, SAMPLING)
    scores = await recorder.score(prompts, ["x", "y", "z"])
    await recorder.aclose()
    assert model.closed
    replay = RecordedModel(tmp_path / "new" / "calls.jsonl")
    assert isinstance(replay, LanguageModel)
    assert isinstance(recorder, LanguageModel)
    assert replay.info == model.info
    assert await replay.generate(prompts[::-1], SAMPLING) == replies[::-1]
    assert [(await replay.generate([prompt], SAMPLING))[0] for prompt in prompts] == replies
    assert await replay.score([replace(prompts[1], seed=99)], ["y"]) == [scores[1]]
    assert model.calls == 1


@pytest.mark.parametrize(
    ("prompt", "sampling"),
    [
        (Prompt(text="b", seed=1), SAMPLING),
        (Prompt(text="a", seed=2), SAMPLING),
        (Prompt(text="a", seed=1), replace(SAMPLING, temperature=0.8)),
        (Prompt(text="a", seed=1), replace(SAMPLING, n=1)),
        (Prompt(text="a", seed=1), replace(SAMPLING, stop=())),
    ],
    ids=["text", "seed", "temperature", "n", "stop"],
)
async def test_an_unknown_call_is_an_error_with_the_remedy(prompt: Prompt, sampling: Sampling, tmp_path: Path) -> None:
    await Recorder(Echo(), tmp_path / "c.jsonl").generate([Prompt(text="a", seed=1)], SAMPLING)
    with pytest.raises(GenerationError, match=r"call [0-9a-f]{32}; record it .* --record"):
        await RecordedModel(tmp_path / "c.jsonl").generate([prompt], sampling)


async def test_a_stream_is_recorded_as_a_call(tmp_path: Path) -> None:
    recorder = Recorder(Echo(), tmp_path / "c.jsonl")
    assert [piece async for piece in recorder.stream(CHAT, SAMPLING)] == ["one ", "two"]
    replay = RecordedModel(tmp_path / "c.jsonl")
    assert [piece async for piece in replay.stream(CHAT, SAMPLING)] == ["one two"]
    [[reply]] = await replay.generate([CHAT], replace(SAMPLING, n=1))
    assert reply.text == "one two"


async def test_drafts_are_replayed(tmp_path: Path) -> None:
    prompts = [CHAT, Prompt(text="a", seed=1)]
    drafted = await Recorder(Echo(), tmp_path / "c.jsonl").drafts(prompts, Drafting(k=2))
    assert [[draft.text for draft in drafts] for drafts in drafted] == [["x", "x"]] * 2
    replay = RecordedModel(tmp_path / "c.jsonl")
    assert await replay.drafts(prompts[::-1], Drafting(k=2)) == drafted
    for prompt, drafting in ((CHAT, Drafting(k=3)), (Prompt(text="a", seed=2), Drafting(k=2))):
        with pytest.raises(GenerationError, match=r"no recorded drafts call [0-9a-f]{32}; record it .* --record"):
            await replay.drafts([prompt], drafting)


async def test_the_first_recording_counts(tmp_path: Path) -> None:
    class Counting(Echo):
        async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
            self.calls += 1
            return [[Completion(str(self.calls))] for _ in prompts]

    recorder = Recorder(Counting(), tmp_path / "c.jsonl")
    for _ in range(2):
        await recorder.generate([CHAT], Sampling())
    [[reply]] = await RecordedModel(tmp_path / "c.jsonl").generate([CHAT], Sampling())
    assert reply.text == "1"


async def test_recorders_share_a_file_and_a_folder(tmp_path: Path) -> None:
    for target in (tmp_path / "shared.jsonl", f"{tmp_path}/folder/"):
        recorders = [Recorder(Echo(), target) for _ in range(4)]
        prompts = [Prompt(text="x" * 5000, seed=seed) for seed in range(40)]
        await asyncio.gather(*(r.generate(prompts[i::4], SAMPLING) for i, r in enumerate(recorders)))
        replay = RecordedModel(str(target))
        assert len(await replay.generate(prompts, SAMPLING)) == 40
    assert len(list((tmp_path / "folder").iterdir())) == 4


async def test_a_torn_last_line_is_dropped_and_appended_to_safely(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    prompts = [Prompt(text="a", seed=1), Prompt(text="b", seed=2)]
    replies = await Recorder(Echo(), file).generate(prompts, SAMPLING)
    file.write_bytes(file.read_bytes()[:-40])
    replay = RecordedModel(file)
    assert await replay.generate(prompts[:1], SAMPLING) == replies[:1]
    with pytest.raises(GenerationError):
        await replay.generate(prompts[1:], SAMPLING)
    await Recorder(Echo(), file).generate(prompts[1:], SAMPLING)
    assert await RecordedModel(file).generate(prompts, SAMPLING) == replies


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"kind": "generate", "key": "k"}', "\xff"])
def test_a_broken_line_is_named(line: str, tmp_path: Path) -> None:
    Recorder(Echo(), tmp_path / "c.jsonl")
    with (tmp_path / "c.jsonl").open("a", encoding="latin-1") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match="line 2"):
        RecordedModel(tmp_path / "c.jsonl")


def test_a_reply_of_another_version_is_a_data_error(tmp_path: Path) -> None:
    record = {"kind": "generate", "key": "k", "replies": [{"text": "x", "colour": 1}]}
    (tmp_path / "c.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError, match="colour"):
        RecordedModel(tmp_path / "c.jsonl")


def test_missing_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recording.*--record"):
        RecordedModel(tmp_path / "none.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot record"):
        Recorder(Echo(), tmp_path / "file" / "c.jsonl")
