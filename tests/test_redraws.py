"""Plans that name what their problem does not: found without a model, and drawn anew."""

from collections.abc import Sequence

import pytest

from actors.decomposer import Decomposer
from cleave.config.base import validate
from cleave.config.roles import DecomposerConfig
from cleave.errors import ConfigError
from cleave.grounding import strangers
from cleave.plans import parse_plan
from cleave.prompts import load_prompts
from cleave.roles import DecomposeReply, DecomposeRequest
from cleave.tasks.reference.task import reference_task
from cleave.types import Problem, Prompt, Sampling
from tests.puppet import Puppet

TEXT = load_prompts("reference-v1")
PROBLEM = Problem("p", "Bamel has 1,200 pens. Vitas has 3.5 times as many as Bamel. How many has Vitas?")
RIGHT = "1. How many pens has Vitas if Bamel has 1200?"
OTHER = "1. How many has Vitas in all?"
STRANGE = "1. How many pens has Batas if Bamel has 1,200?"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (RIGHT, set()),
        (STRANGE, {"Batas"}),
        ("1. What has Bamel?\n2. Add 17 to #1.", {"17"}),
        ("1. Batas has how many?", set()),  # a first word has its capital anyway
        ("1. How many has vitas, and 3.5 times #1 of BAMEL?".replace("#1 ", ""), set()),
        ("1. How many has Vitas' friend Éva?", {"Éva"}),
    ],
)
def test_strangers_are_capitalised_words_and_numbers_that_the_problem_lacks(text: str, found: set[str]) -> None:
    assert strangers(parse_plan(text), PROBLEM) == found


def test_what_stands_in_the_context_is_known() -> None:
    assert not strangers(parse_plan("1. What has Batas?"), Problem("p", "Who has most?", context="Batas: 5"))


@pytest.mark.parametrize("family", ["arithmetic", "lookup", "reading"])
def test_gold_plans_name_no_strangers(family: str) -> None:
    for problem in reference_task(family).problems("test", limit=200):
        assert problem.gold_plan is not None
        assert not strangers(problem.gold_plan, problem)


def planner(first: str, redrawn: Sequence[str]) -> Puppet:
    """Replies `first` when it is asked greedily, and `redrawn`, sample by sample, at temperature 1."""
    puppet = Puppet(lambda prompt, i: redrawn[i] if puppet.calls[-1][1].temperature == 1 else first)
    return puppet


async def plan(puppet: Puppet, redraws: int, sampling: Sampling | None = None) -> DecomposeReply:
    decomposer = Decomposer(puppet, TEXT, redraws=redraws)
    [reply] = await decomposer([DecomposeRequest(PROBLEM, sampling or Sampling(64), seed=3)])
    return reply


async def test_the_most_frequent_plan_without_strangers_takes_the_place() -> None:
    puppet = planner(STRANGE, [OTHER, RIGHT, STRANGE, STRANGE, "no plan", RIGHT])
    reply = await plan(puppet, 6)
    assert reply.plans == (parse_plan(RIGHT),)
    assert reply.texts == (RIGHT,)
    assert not reply.failures
    drawn = (STRANGE, OTHER, RIGHT, STRANGE, STRANGE, "no plan", RIGHT)
    assert reply.usage.completion_tokens == sum(len(text.split()) for text in drawn), "what was drawn is paid for"
    (_, greedy), (prompts, free) = puppet.calls
    assert (greedy.temperature, free.temperature, free.n) == (0, 1, 6)
    assert prompts[0].seed not in (None, 3)


async def test_a_plan_stays_where_nothing_better_is_drawn() -> None:
    reply = await plan(planner(STRANGE, [STRANGE, "no plan"]), 2)
    assert reply.plans == (parse_plan(STRANGE),)
    assert not reply.failures
    assert reply.usage.calls == 2


@pytest.mark.parametrize(("first", "redraws"), [(RIGHT, 4), (STRANGE, 0), ("no plan", 4)])
async def test_nothing_is_drawn_for_good_plans_or_without_redraws(first: str, redraws: int) -> None:
    puppet = planner(first, [RIGHT] * 4)
    await plan(puppet, redraws)
    assert len(puppet.calls) == 1


async def test_each_strange_sample_is_redrawn_with_a_seed_of_its_own() -> None:
    def script(prompt: Prompt, i: int) -> str:
        return RIGHT if len(puppet.calls) > 1 or i == 1 else STRANGE

    puppet = Puppet(script)
    reply = await plan(puppet, 2, Sampling(64, temperature=0.7, n=3))
    assert reply.plans == (parse_plan(RIGHT),) * 3
    (prompts, _) = puppet.calls[1]
    assert len({prompt.seed for prompt in prompts}) == 2


def test_drafts_are_not_redrawn() -> None:
    with pytest.raises(ConfigError, match="drafts are not redrawn"):
        validate(DecomposerConfig, {"model": "reference:decomposer", "drafts": 3, "redraws": 2}, "test")
