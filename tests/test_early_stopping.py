"""Sampling in rounds: the rule against simulation, replay against the loop, and that a vote that cannot change is never continued."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from actors.local import LocalHandle
from actors.solver import Solver
from cleave.config.base import validate
from cleave.config.reasoning import BudgetConfig, ReasoningConfig
from cleave.early_stopping import ahead, count, enough, replay
from cleave.errors import ConfigError
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.types import Problem, Trace
from tests.puppet import Puppet
from tests.test_judge import TEXT

PROBLEM = Problem("p", "What is 3 + 4 + 1?", answer="8")
answers = st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=16)


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_probability_to_be_ahead_is_that_of_a_beta(first: int, second: int) -> None:
    assert ahead(first, second) == pytest.approx(stats.beta(first + 1, second + 1).sf(0.5))


@given(answers, st.integers(0, 12))
def test_a_vote_that_is_over_cannot_be_turned(drawn: list[str | None], left: int) -> None:
    votes = sorted(count(drawn), reverse=True)
    if enough(votes, left, 1.0):
        assert votes[0] > (votes[1] if len(votes) > 1 else 0) + left, "not even if all that are left went to the runner-up"


@given(answers, st.sampled_from([0.8, 0.95, 1.0]), st.integers(1, 4))
def test_replay_stops_at_the_first_round_that_is_enough(samples: list[str | None], threshold: float, per_round: int) -> None:
    used = replay(samples, threshold, per_round)
    assert used == len(samples) or used % per_round == 0
    for drawn in range(per_round, used, per_round):
        assert not enough(count(samples[:drawn]), len(samples) - drawn, threshold)
    assert used == len(samples) or enough(count(samples[:used]), len(samples) - used, threshold)
    assert replay(samples, 1.0, per_round) >= used, "the certain rule never stops sooner"


@given(answers, st.integers(1, 4))
def test_the_certain_rule_never_changes_the_majority(samples: list[str | None], per_round: int) -> None:
    used = replay(samples, 1.0, per_round)
    if used < len(samples):
        before, after = ([s for s in part if s is not None] for part in (samples[:used], samples))
        assert max(set(before), key=before.count) == max(set(after), key=after.count)


async def vote(samples: list[str | None], budget: BudgetConfig | None = None, **options: Any) -> tuple[Trace, Puppet]:
    """By a solver whose samples, in the order in which they are drawn, are these."""
    stream = iter(samples)
    solver = Puppet(lambda prompt, i: f"The answer is: {answer}" if (answer := next(stream)) is not None else "I am lost.")
    handle = LocalHandle(Solver(solver, TEXT))
    data = {"strategy": "single", "n": len(samples), "temperature": 1.0, "selection": "majority", **options}
    trace = await reason(PROBLEM, Roles(handle, handle, None), ReasoningConfig.model_validate(data), budget)  # type: ignore[arg-type]
    return trace, solver


async def test_the_loop_draws_what_replay_says() -> None:
    rng = random.Random(0)
    for _ in range(40):
        samples = [rng.choice(["7", "8", "8", "8", "9", None]) for _ in range(8)]
        trace, solver = await vote(samples, stop_early=0.9, samples_per_round=3)
        used = replay(samples, 0.9, 3)
        assert len(trace.solutions) == used
        assert sum(sampling.n for _, sampling in solver.calls) == used


async def test_without_the_rule_all_are_drawn_at_once() -> None:
    trace, solver = await vote(["8"] * 6)
    assert len(trace.solutions) == 6
    assert [sampling.n for _, sampling in solver.calls] == [6]


async def test_agreement_ends_it_and_the_confidence_is_of_what_was_drawn() -> None:
    trace, solver = await vote(["8"] * 8, stop_early=0.85)
    assert [sampling.n for _, sampling in solver.calls] == [2], "two of two: 7 to 1 that it is the commoner one"
    assert (trace.answer, trace.confidence) == ("8", 1.0)
    seeds = {prompt.seed for prompts, _ in (await vote(["7", "8"] * 3, stop_early=0.99))[1].calls for prompt in prompts}
    assert len(seeds) == 3, "each round draws with a seed of its own"


async def test_rounds_without_an_answer_do_not_end_it() -> None:
    trace, _ = await vote([None, None, None, None, "8", "8"], stop_early=0.85)
    assert trace.answer == "8"
    assert trace.confidence == pytest.approx(1 / 3)
    lost, _ = await vote([None] * 4, stop_early=0.85)
    assert lost.error is not None
    assert "none of the 4 solutions" in lost.error.message


async def test_a_budget_ends_it_with_what_there_is() -> None:
    trace, solver = await vote(["7", "8"] * 4, BudgetConfig(max_calls=2), stop_early=0.99)
    assert len(solver.calls) == 2
    assert trace.answer is not None
    assert trace.error is not None
    assert trace.error.type == "BudgetExceeded"


@pytest.mark.parametrize("options", [{"n": 1}, {"n": 4, "temperature": 1, "plans": 2, "plan_temperature": 1}])
def test_it_needs_several_samples_of_one_plan(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="stop_early counts the votes on one plan"):
        validate(ReasoningConfig, {"stop_early": 0.9, **options}, "the test")
