"""Samplers of curricula: what is drawn when, exact resumes with and without observations, profiles, gates."""

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.curriculum.admission import DepthGate, EasyToHard, Gate, LossGate
from cleave.curriculum.missing_skills import MissingSkills
from cleave.curriculum.mixed_sampler import MixedSampler
from cleave.curriculum.mixture import Cumulative, Mixture, Ordered, Scheduled
from cleave.curriculum.pacing import Pacing, Shape
from cleave.curriculum.sampler import Observation, ShuffledSource
from cleave.errors import ConfigError, DataError
from cleave.examples import Example

SKILLS = ("a", "b", "c")
TOTAL = 3000
"""Tokens of a whole curriculum in the tests; examples have 4 of them on average."""
pacings = st.builds(
    Pacing,
    shape=st.sampled_from(["linear", "root", "quadratic", "geometric"]),
    start=st.floats(0.01, 0.9),
    until=st.floats(0.1, 1.0),
)


def make_examples(skill: str, count: int = 40) -> list[Example]:
    """Depths 1 to 4, 2 to 6 tokens."""
    return [
        Example((1,) * size, (True,) * size, problem_id=f"{skill}{k}", skill=skill, depth=1 + k % 4)
        for k, size in ((k, 2 + k % 5) for k in range(count))
    ]


def make_sampler(mixture: Mixture, gates: Sequence[Gate] = (), seed: int = 0) -> MixedSampler:
    sources = {skill: ShuffledSource(make_examples(skill), seed=1) for skill in mixture.skills}
    return MixedSampler(sources, mixture, total_tokens=TOTAL, seed=seed, gates=gates)


def drawn(sampler: MixedSampler) -> Iterator[tuple[float, Example]]:
    """Progress before each example of a whole curriculum, and the example."""
    examples = iter(sampler)
    while (progress := sampler.progress) < 1:
        yield progress, next(examples)


def take(sampler: Any, count: int) -> list[str]:
    return [example.problem_id for example in itertools.islice(sampler, count)]


def equal_shares() -> dict[str, float]:
    return dict.fromkeys(SKILLS, 1.0)


# ---- pacing


@given(pacings, st.floats(0, 1), st.floats(0, 1))
def test_pacings_rise_from_their_start_to_all(pacing: Pacing, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert pacing.at(low) <= pacing.at(high) + 1e-12
    assert pacing.at(0.0) == pytest.approx(pacing.start)
    assert pacing.at(pacing.until) == pacing.at(1.0) == 1.0


@given(pacings, st.floats(0.01, 1))
def test_a_pacing_reaches_a_share_when_it_says(pacing: Pacing, share: float) -> None:
    reached = pacing.reaches(share)
    assert 0 <= reached <= pacing.until
    assert pacing.at(reached) == pytest.approx(max(share, pacing.start), abs=1e-6)


@pytest.mark.parametrize(("shape", "half"), [("linear", 0.6), ("root", math.sqrt(0.52)), ("quadratic", 0.4), ("geometric", math.sqrt(0.2))])
def test_the_shapes_of_pacings(shape: Shape, half: float) -> None:
    assert Pacing(shape, start=0.2).at(0.5) == pytest.approx(half)


# ---- mixtures


def test_one_skill_after_another_in_a_single_pass() -> None:
    sampler = make_sampler(Ordered(SKILLS, ("c", "a", "b")))
    seen = list(drawn(sampler))
    assert [skill for skill, _ in itertools.groupby(example.skill for _, example in seen)] == ["c", "a", "b"]
    tokens = Counter[str]()
    for _, example in seen:
        tokens[example.skill] += len(example)
    assert all(count == pytest.approx(TOTAL / 3, abs=6) for count in tokens.values())
    first_pass = [example.problem_id for _, example in seen[:40]]
    assert len(set(first_pass)) == 40, "nothing comes twice before all has come once"
    assert sampler.ends == pytest.approx((1 / 3, 2 / 3, 1))
    assert {name[0] for name in take(sampler, 50)} == {"b"}, "the last stage lasts for ever"


def test_each_stage_adds_a_skill_to_those_before() -> None:
    shares = {"a": 3.0, "b": 1.0, "c": 1.0}
    seen: dict[int, Counter[str]] = {0: Counter(), 1: Counter(), 2: Counter()}
    for progress, example in drawn(make_sampler(Cumulative(shares, ("a", "b", "c")))):
        seen[int(3 * progress)][example.skill] += 1
    assert [set(counts) for counts in seen.values()] == [{"a"}, {"a", "b"}, {"a", "b", "c"}]
    assert seen[1]["a"] / seen[1].total() == pytest.approx(0.75, abs=0.1)


def test_a_pacing_decides_when_skills_come() -> None:
    early = Cumulative(equal_shares(), SKILLS, Pacing("root", start=0.5, until=0.8))
    assert early.ends == pytest.approx((0.8 * (4 / 9 - 1 / 4) / (1 - 1 / 4), 1.0))
    assert list(early.weights(0.0)) == [1, 1, 0], "half of three skills: two are there from the beginning"
    assert list(early.weights(0.8)) == [1, 1, 1]
    late = Ordered(SKILLS, SKILLS, Pacing("quadratic"))
    assert late.ends == pytest.approx((math.sqrt(1 / 3), math.sqrt(2 / 3), 1))


def test_a_schedule_moves_in_straight_lines() -> None:
    mixture = Scheduled(SKILLS, [(0.2, {"a": 1.0}), (0.6, {"a": 1.0, "b": 3.0}), (1.0, {"c": 2.0})])
    for progress, expected in [(0.0, [1, 0, 0]), (0.2, [1, 0, 0]), (0.4, [1, 1.5, 0]), (0.8, [0.5, 1.5, 1]), (1.0, [0, 0, 2])]:
        assert list(mixture.weights(progress)) == pytest.approx(expected)
    assert mixture.ends == (0.2, 0.6, 1.0)
    fixed = Scheduled(SKILLS, [(0.0, {"b": 1.0})])
    assert list(fixed.weights(0.7)) == [0, 1, 0]
    counts = Counter(example.skill for progress, example in drawn(make_sampler(mixture)) if progress < 0.2)
    assert set(counts) == {"a"}


def test_stages_of_a_mixture_without_any_are_for_measuring() -> None:
    mixture = Mixture({"a": 1.0, "b": 3.0})
    assert mixture.ends == (0.5, 1.0)
    counts = Counter(example.skill for _, example in drawn(make_sampler(mixture)))
    assert counts["b"] / counts.total() == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ordered(SKILLS, ("a", "b", "a")), "names 'a' twice"),
        (lambda: Ordered(SKILLS, ("a", "b")), "misses the skill 'c'"),
        (lambda: Cumulative(equal_shares(), ("a", "b", "d")), "'d', which is no skill of this run; there are a, b, c"),
        (lambda: Ordered(SKILLS, SKILLS, Pacing(start=0.5)), "one at a time"),
        (lambda: Cumulative({"a": 0.0, "b": 1.0}, ("a", "b")), "first skills of the order have no weight"),
        (lambda: Scheduled(SKILLS, []), "points whose `at` rise"),
        (lambda: Scheduled(SKILLS, [(0.5, {"a": 1.0}), (0.5, {"b": 1.0})]), "points whose `at` rise"),
        (lambda: Scheduled(SKILLS, [(0.0, {"d": 1.0})]), "'d', which is no skill"),
        (lambda: Mixture({"a": 0.0}), "not all zero"),
        (lambda: make_sampler(Mixture({"a": -1.0})), "not be negative"),
        (lambda: MixedSampler({"a": ShuffledSource(make_examples("a"))}, Mixture(equal_shares()), total_tokens=9), "name the same skills"),
    ],
)
def test_impossible_mixtures_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# ---- resuming

MIXTURES: dict[str, Callable[[], Mixture]] = {
    "fixed": lambda: Mixture(equal_shares()),
    "ordered": lambda: Ordered(SKILLS, ("b", "c", "a")),
    "cumulative": lambda: Cumulative(equal_shares(), ("b", "c", "a"), Pacing("root", 0.1)),
    "scheduled": lambda: Scheduled(SKILLS, [(0.0, {"a": 1.0, "b": 1.0}), (1.0, {"c": 1.0})]),
    "missing skills": lambda: MissingSkills(equal_shares(), every=3),
    "missing by loss": lambda: MissingSkills(equal_shares(), every=2, by="loss"),
}
GATES: dict[str, Callable[[], list[Gate]]] = {
    "open": lambda: [],
    "easy to hard": lambda: [EasyToHard(lambda e: e.depth, {s: [1, 2, 3, 4] for s in SKILLS}, Pacing("linear", 0.3))],
    "losses": lambda: [DepthGate(least=2), LossGate(0.5, 2.0, probe=0.2)],
    "losses per problem": lambda: [LossGate(0.5, None, per="problem", probe=0.2)],
}


def told(example: Example, rng: random.Random) -> Observation:
    return Observation(example.problem_id, example.skill, example.depth, rng.expovariate(1.0), rng.random() < 0.4)


def train(sampler: Any, steps: int, rng: random.Random) -> list[str]:
    """Draw five examples a step and tell how they went."""
    names = []
    for _ in range(steps):
        step = list(itertools.islice(sampler, 5))
        sampler.observe([told(example, rng) for example in step])
        names += [example.problem_id for example in step]
    return names


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_restored_sampler_goes_on_to_the_next_example(mixture: str, gates: str) -> None:
    """After draws and observations, and with further observations on both sides."""
    for steps in (0, 4, 40, 150):
        sampler = make_sampler(MIXTURES[mixture](), GATES[gates]())
        train(sampler, steps, random.Random(1))
        state = json.loads(json.dumps(sampler.state_dict()))
        expected = train(sampler, 30, random.Random(2))
        fresh = make_sampler(MIXTURES[mixture](), GATES[gates](), seed=5)
        train(fresh, 7, random.Random(3))
        fresh.load_state_dict(state)
        assert train(fresh, 30, random.Random(2)) == expected


def test_only_those_that_listen_change_with_what_they_hear() -> None:
    for name, make in MIXTURES.items():
        quiet, told_of = make_sampler(make()), make_sampler(make())
        assert told_of.listens == name.startswith("missing")
        train(told_of, 30, random.Random(0))
        take(quiet, 150)
        assert (take(quiet, 200) != take(told_of, 200)) == told_of.listens


def test_a_state_of_other_skills_is_refused() -> None:
    with pytest.raises(ConfigError, match="use a new name"):
        make_sampler(Mixture({"a": 1.0})).load_state_dict(make_sampler(Mixture(equal_shares())).state_dict())


# ---- missing skills


def observed(failures: dict[str, tuple[int, int]], loss: float = 1.0) -> list[Observation]:
    """By skill: how many of how many failed."""
    return [Observation("p", skill, 1, loss, k >= failed) for skill, (failed, count) in failures.items() for k in range(count)]


def test_skills_are_drawn_in_proportion_to_their_failures() -> None:
    mixture = MissingSkills(equal_shares(), every=2, explore=0.0)
    assert list(mixture.weights(0.5)) == [1, 1, 1], "nothing is known yet"
    mixture.observe(observed({"a": (8, 10), "b": (1, 5)}))
    assert list(mixture.weights(0.5)) == [1, 1, 1], "the profile is not due yet"
    mixture.observe(observed({"b": (1, 5), "c": (0, 20)}))
    assert mixture.profile == {"a": 0.8, "b": 0.2, "c": 0.0}
    assert list(mixture.weights(0.5)) == pytest.approx([0.8, 0.2, 0.0])
    for _ in range(2):
        mixture.observe(observed({"b": (4, 10)}))
    assert mixture.profile == {"a": 0.8, "b": 0.4, "c": 0.0}, "only what happened since the last profile counts, of those that were drawn"


def test_what_is_known_keeps_a_share() -> None:
    mixture = MissingSkills({"a": 3.0, "b": 1.0}, every=1, explore=0.2)
    mixture.observe(observed({"a": (0, 10), "b": (5, 10)}))
    assert list(mixture.weights(0)) == pytest.approx([0.15, 0.85])
    mixture.observe(observed({"a": (0, 10), "b": (0, 10)}))
    assert list(mixture.weights(0)) == [3, 1], "nothing is missing: the run's own shares"


def test_a_skill_that_was_never_seen_counts_like_the_mean() -> None:
    mixture = MissingSkills(equal_shares(), every=1, explore=0.0)
    mixture.observe(observed({"a": (6, 10), "b": (2, 10)}))
    assert mixture.profile["c"] is None
    assert list(mixture.weights(0)) == pytest.approx([0.5, 1 / 6, 1 / 3])


def test_failures_by_loss_and_the_control() -> None:
    strict = MissingSkills({"a": 1.0, "b": 1.0}, every=1, explore=0.0, failed_above=0.5)
    strict.observe([Observation("p", "a", 1, 0.4), Observation("q", "a", 1, 0.6, solved=True), Observation("r", "b", 1, 0.9)])
    assert strict.profile == {"a": 0.5, "b": 1.0}
    control = MissingSkills({"a": 1.0, "b": 1.0}, every=1, explore=0.0, by="loss")
    control.observe([Observation("p", "a", 1, 3.0), Observation("q", "b", 1, 1.0)])
    assert list(control.weights(0)) == pytest.approx([0.75, 0.25])


def test_a_student_that_fails_at_one_skill_gets_more_of_it() -> None:
    sampler = make_sampler(MissingSkills(equal_shares(), every=5))
    for _ in range(20):
        step = list(itertools.islice(sampler, 10))
        sampler.observe([Observation(e.problem_id, e.skill, e.depth, 1.0, solved=e.skill != "b") for e in step])
    counts = Counter(name[0] for name in take(sampler, 400))
    assert counts["b"] / 400 == pytest.approx(0.9 + 0.1 / 3, abs=0.05)


# ---- gates


def test_depths_outside_the_gate_are_not_drawn() -> None:
    sampler = make_sampler(Mixture(equal_shares()), [DepthGate(2, 3)])
    assert {example.depth for example in itertools.islice(sampler, 300)} == {2, 3}


def test_what_is_too_easy_or_too_hard_is_dropped_but_still_probed() -> None:
    sampler = make_sampler(Mixture(equal_shares()), [LossGate(0.5, 2.0, probe=0.1)])
    losses = {1: 0.1, 2: 1.0, 3: 5.0, 4: 1.5}
    step = [example for skill in SKILLS for example in make_examples(skill)]
    sampler.observe([Observation(e.problem_id, e.skill, e.depth, losses[e.depth]) for e in step])
    counts = Counter(example.depth for example in itertools.islice(sampler, 1000))
    assert 0 < counts[1] + counts[3] < 150
    assert counts[2] + counts[4] > 850
    for _ in range(100):  # what was too hard is now learned, what was known is forgotten
        sampler.observe([Observation("p", skill, depth, 1.0) for skill in SKILLS for depth in (1, 3)])
    counts = Counter(example.depth for example in itertools.islice(sampler, 1000))
    assert min(counts.values()) > 180


def test_losses_per_problem_are_the_last_that_were_seen() -> None:
    gate = LossGate(0.5, per="problem", probe=1e-9)
    known, new = make_examples("a", 2)
    gate.observe([Observation(known.problem_id, "a", known.depth, 3.0), Observation(known.problem_id, "a", known.depth, 0.1)])
    rng = random.Random(0)
    assert not gate.admits("a", known, 0.0, rng)
    assert gate.admits("a", new, 0.0, rng)


@given(st.floats(0.05, 1.0))
def test_the_easiest_share_is_let_in(progress: float) -> None:
    examples = [Example((1, 2), (True, True), problem_id=str(k), skill="a", depth=k) for k in range(100)]
    random.Random(0).shuffle(examples)
    gate = EasyToHard(lambda e: e.depth, {"a": [e.depth for e in examples]}, Pacing())
    inside = [example.depth for example in examples if gate.admits("a", example, progress, random.Random(0))]
    assert len(inside) == pytest.approx(100 * progress, abs=1)
    assert max(inside) == len(inside) - 1, "all of them are easier than those left out"


def test_easy_problems_come_first_in_every_skill() -> None:
    known = {skill: [example.depth for example in make_examples(skill)] for skill in SKILLS}
    sampler = make_sampler(Mixture(equal_shares()), [EasyToHard(lambda e: e.depth, known, Pacing("linear", start=0.1, until=0.8))])
    depths: dict[bool, set[int]] = {True: set(), False: set()}
    skills = Counter[str]()
    for progress, example in drawn(sampler):
        depths[progress < 0.1].add(example.depth)
        skills[example.skill] += progress < 0.1
    assert depths == {True: {1}, False: {1, 2, 3, 4}}
    assert set(skills) == set(SKILLS)


def test_gates_that_nothing_passes_say_so() -> None:
    with pytest.raises(DataError, match="gates keep out each of 100,000 examples"):
        take(make_sampler(Mixture(equal_shares()), [DepthGate(least=9)]), 1)
