"""Replies that are kept: equal to asking again, across processes, seeds and batches; nothing that cannot be repeated is kept."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cleave.config.base import validate
from cleave.config.model import ModelConfig
from cleave.config.study import StudyConfig
from cleave.errors import ConfigError, StorageError
from cleave.lm.build import build
from cleave.lm.protocol import LanguageModel
from cleave.lm.reply_cache import CachedModel, repeatable_key
from cleave.types import Completion, Prompt, Sampling
from tests.test_lm_recorded import CHAT, SAMPLING, Echo

GREEDY = Sampling(temperature=0.0)
PROMPTS = [Prompt(text="a", seed=1), Prompt(text="a", seed=2), CHAT]


class Counting(Echo):
    """Notes how many prompts reach it, and draws another reply each time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        self.asked.append(len(prompts))
        drawn = await super().generate(prompts, sampling)
        return [[replace(reply, text=f"{reply.text} #{len(self.asked)}") for reply in replies] for replies in drawn]

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        self.asked.append(len(prompts))
        return [Completion(text, (3,), (-float(len(self.asked)),)) for text in continuations]


def cached(folder: Path, model: LanguageModel, **identity: object) -> CachedModel:
    return CachedModel(model, folder, identity or {"weights": "r1"})


async def test_what_was_asked_is_not_asked_again(tmp_path: Path) -> None:
    model = Counting()
    first = cached(tmp_path / "new", model)
    assert isinstance(first, LanguageModel)
    before = await first.generate(PROMPTS[:2], SAMPLING)
    mixed = await first.generate([CHAT, *PROMPTS[:2]], SAMPLING)
    assert mixed[1:] == before
    assert model.asked == [2, 1]
    await first.aclose()
    assert model.closed
    again = Counting()
    assert await cached(tmp_path / "new", again).generate([*PROMPTS[:2], CHAT], SAMPLING) == [*before, mixed[0]]
    assert again.asked == []


async def test_greedy_replies_need_no_seed_and_draws_without_one_are_not_kept(tmp_path: Path) -> None:
    model = Counting()
    kept = cached(tmp_path, model)
    [greedy] = await kept.generate([Prompt(text="a", seed=1)], GREEDY)
    assert await kept.generate([Prompt(text="a"), Prompt(text="a", seed=9)], GREEDY) == [greedy, greedy]
    assert model.asked == [1]
    for _ in range(2):
        await kept.generate([Prompt(text="a")], SAMPLING)
    assert model.asked == [1, 1, 1]
    assert repeatable_key(Prompt(text="a"), SAMPLING) is None
    assert repeatable_key(Prompt(text="a", seed=1), SAMPLING) != repeatable_key(Prompt(text="a", seed=2), SAMPLING)


async def test_a_reply_that_ended_in_an_error_is_asked_for_again(tmp_path: Path) -> None:
    class Broken(Counting):
        async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
            return [[replace(reply, finish="error") for reply in replies] for replies in await super().generate(prompts, sampling)]

    model = Broken()
    kept = cached(tmp_path, model)
    for _ in range(2):
        await kept.generate([CHAT], SAMPLING)
    assert model.asked == [1, 1]


async def test_options_and_weights_are_told_apart(tmp_path: Path) -> None:
    model = Counting()
    await cached(tmp_path, model).generate([CHAT], SAMPLING)
    await cached(tmp_path, model).generate([CHAT], replace(SAMPLING, max_tokens=5))
    await cached(tmp_path, model, weights="r2").generate([CHAT], SAMPLING)
    assert model.asked == [1, 1, 1]
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


async def test_scores_are_kept(tmp_path: Path) -> None:
    model = Counting()
    kept = cached(tmp_path, model)
    first = await kept.score([CHAT, CHAT], ["x", "y"])
    assert await kept.score([CHAT, CHAT, CHAT], ["y", "z", "x"]) == [first[1], Completion("z", (3,), (-2.0,)), first[0]]
    assert model.asked == [2, 1]


async def test_two_processes_share_a_file(tmp_path: Path) -> None:
    one, two = cached(tmp_path, Counting()), cached(tmp_path, Counting())
    many = [Prompt(text=str(k), seed=k) for k in range(1200)]
    await one.generate(many[:800], SAMPLING)
    await two.generate(many[600:], SAMPLING)
    assert two.model.asked == [400]  # type: ignore[attr-defined]
    assert await one.generate(many, SAMPLING) == await two.generate(many, SAMPLING)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot keep replies"):
        cached(tmp_path / "file", Counting())


async def test_local_weights_are_known_by_what_they_hold(tmp_path: Path) -> None:
    """The same weights under two names share their replies; others do not."""
    by_name = ModelConfig.model_validate({"short": "reference:base", "cache": str(tmp_path)})
    by_path = by_name.model_copy(update={"backend": "hf", "model_name_or_path": "reference/base"})
    prompt, sampling = Prompt(text="Q: How many"), Sampling(max_tokens=4, temperature=0.0)
    replies = []
    for config in (by_name, by_path):
        model = build(config)
        replies.append(await model.generate([prompt], sampling))
        await model.aclose()
    assert replies[0] == replies[1]  # seconds included: the second was not asked
    assert len(list(tmp_path.glob("*.sqlite"))) == 1
    other = build(ModelConfig.model_validate({"short": "reference:solver", "cache": str(tmp_path)}))
    await other.aclose()
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


def test_recordings_and_urls_are_refused() -> None:
    for data in ({"short": "recorded:calls.jsonl", "cache": "x"}, {"short": "reference:base", "cache": "s3://bucket/x"}):
        with pytest.raises(ConfigError, match="local disk"):
            validate(ModelConfig, data, "test")


def test_rows_of_a_study_share_their_replies() -> None:
    data = {
        "name": "s",
        "storage_path": "runs",
        "models": {"T": "reference:base"},
        "evaluate": {"tasks": ["lookup"]},
        "rows": {"T → T": {"decomposer": "T", "solver": "T"}},
        "baseline": "T → T",
    }
    row = validate(StudyConfig, data, "test").row("T → T", 0)
    assert row.roles.solver.model.cache == row.roles.decomposer.model.cache == "runs/s/replies"
    for changes in ({"reuse_replies": False}, {"storage_path": "s3://bucket"}):
        assert validate(StudyConfig, data | changes, "test").row("T → T", 0).roles.solver.model.cache is None
