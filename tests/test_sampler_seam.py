"""Samplers: seeded, resumable to the exact next example, by weight and by stage."""

import itertools
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleave.curriculum.sampler import Observation, Sampler, ShuffledSource, Stage, StagedSampler
from cleave.errors import ConfigError, DataError
from cleave.examples import Example


def make_example(name: str, depth: int = 1, size: int = 4) -> Example:
    return Example((1,) * size, (True,) * size, problem_id=name, depth=depth)


def make_sampler(seed: int = 0, total_tokens: int = 4000, stages: tuple[Stage, ...] = (Stage(),)) -> StagedSampler:
    sources = {
        name: ShuffledSource([make_example(f"{name}{k}", depth=1 + k % 4, size=2 + k % 5) for k in range(40)], seed=1) for name in "ab"
    }
    return StagedSampler(sources, total_tokens=total_tokens, seed=seed, weights={"a": 3, "b": 1}, stages=stages)


def take(sampler: Sampler, count: int) -> list[str]:
    return [example.problem_id for example in itertools.islice(sampler, count)]


@given(st.integers(0, 200), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_a_restored_sampler_gives_the_same_next_examples(before: int, seed: int) -> None:
    stages = (Stage(share=1, max_depth=2), Stage(share=1, weights={"b": 1}), Stage(share=2))
    sampler = make_sampler(seed, total_tokens=600, stages=stages)
    take(sampler, before)
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = take(sampler, 60)
    fresh = make_sampler(seed + 1, total_tokens=600, stages=stages)
    take(fresh, 17)
    fresh.load_state_dict(state)
    assert take(fresh, 60) == expected


def test_seeds_decide_the_order() -> None:
    assert take(make_sampler(1), 50) == take(make_sampler(1), 50)
    assert take(make_sampler(1), 50) != take(make_sampler(2), 50)


def test_observing_changes_nothing_here() -> None:
    listening, deaf = make_sampler(), make_sampler()
    take(listening, 5), take(deaf, 5)
    listening.observe([Observation("a1", "add", 1, 2.5)])
    assert take(listening, 20) == take(deaf, 20)


def test_weights_decide_the_shares() -> None:
    drawn = Counter(name[0] for name in take(make_sampler(), 4000))
    assert drawn["a"] / 4000 == pytest.approx(0.75, abs=0.03)  # four standard deviations


def test_each_example_once_per_epoch() -> None:
    source = ShuffledSource([make_example(str(k)) for k in range(20)])
    sampler = StagedSampler({"s": source}, total_tokens=100)
    first, second = take(sampler, 20), take(sampler, 20)
    assert sorted(first) == sorted(second)
    assert first != second
    assert source.chunk(1) == source.chunk(1)


def test_stages_follow_the_tokens() -> None:
    stages = (Stage(share=1, max_depth=1), Stage(share=1, max_length=3), Stage(share=2, weights={"b": 1.0}))
    sampler = make_sampler(total_tokens=800, stages=stages)
    tokens, seen = 0, set()
    for example in sampler:
        stage = 0 if tokens < 200 else 1 if tokens < 400 else 2
        seen.add(stage)
        assert stage != 0 or example.depth == 1
        assert stage != 1 or len(example) <= 3
        assert stage != 2 or example.problem_id[0] == "b"
        tokens += len(example)
        if tokens > 1500:  # the last stage goes on beyond the total
            break
    assert seen == {0, 1, 2}


def test_impossible_wishes_are_refused() -> None:
    with pytest.raises(ConfigError, match="no source"):
        make_sampler(stages=(Stage(weights={"c": 1.0}),))
    with pytest.raises(ConfigError, match="all zero"):
        make_sampler(stages=(Stage(weights={"a": 0.0}),))
    with pytest.raises(DataError, match="admits none"):
        take(make_sampler(stages=(Stage(max_depth=0),)), 1)
    with pytest.raises(DataError, match="no examples"):
        ShuffledSource([])
    with pytest.raises(ConfigError, match="use a new name"):
        make_sampler().load_state_dict({"cursors": {"z": [0, 0]}, "tokens": 0, "random": []})
