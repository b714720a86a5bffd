"""A decomposer with `drafts`: plans from one superposed pass, read like sampled ones, shared among samples, recorded and replayed."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from actors.decomposer import Decomposer, build_decomposer
from actors.local import LocalHandle
from actors.solver import Solver
from cleave.config.reasoning import ReasoningConfig
from cleave.config.roles import DecomposerConfig, RolesConfig
from cleave.decoding.draft import Draft, Drafting
from cleave.errors import ConfigError
from cleave.lm.protocol import LanguageModel
from cleave.lm.recorded import RecordedModel, Recorder
from cleave.plans import parse_plan
from cleave.prompts import load_prompts
from cleave.reasoning import reason
from cleave.roles import DecomposeRequest, Roles
from cleave.tasks.registry import get_task
from cleave.types import Completion, Finish, ModelInfo, Plan, Problem, Prompt, Sampling, SolutionStep, Trace, Usage
from pipelines.collect import _describe_role
from tests.puppet import Puppet

TEXT = load_prompts("reference-v1")
PROBLEM = Problem("p", "What is 3 + 4 + 1?", answer="8")
FIRST, SECOND = "1. What is 3 + 4?\n2. What is #1 + 1?", "1. What is 4 + 1?\n2. What is 3 + #1?"
SAID: list[tuple[str, Finish]] = [(FIRST, "stop"), (FIRST + "\n", "stop"), ("I would add.", "stop"), (SECOND, "stop"), ("1. Wh", "length")]
THREE = Sampling(n=3, temperature=0.5)


class Drafting3(Puppet):
    """A puppet that also drafts: always SAID, as far as k goes."""

    def __init__(self) -> None:
        super().__init__(
            lambda prompt, i: "1. 3 + 4 = 7\n2. 7 + 1 = 8\nThe answer is: 8\n" if "Plan:\n1." in (prompt.text or "") else FIRST
        )
        self.capabilities |= {"drafts"}
        self.draftings: list[tuple[int, Drafting]] = []

    async def drafts(self, prompts: Sequence[Prompt], drafting: Drafting) -> list[list[Draft]]:
        self.draftings.append((len(prompts), drafting))
        return [
            [
                Draft(text, (1,), (-1.0,), finish, Usage() if place else Usage(1, 10, 6))
                for place, (text, finish) in enumerate(SAID[: drafting.k])
            ]
            for _ in prompts
        ]


async def drafted(sampling: Sampling, k: int = 5) -> tuple[tuple[Plan | None, ...], list[str], Drafting3]:
    model = Drafting3()
    [reply] = await Decomposer(model, TEXT, drafts=Drafting(k=k))([DecomposeRequest(PROBLEM, sampling)])
    assert reply.usage == Usage(1, 10, 6)
    assert len(reply.texts) == len(reply.plans)
    return reply.plans, [failure.message for failure in reply.failures], model


async def test_the_best_different_plans_are_taken_and_what_is_no_plan_is_data() -> None:
    plans, failures, model = await drafted(Sampling(n=2, temperature=0.5, max_tokens=40))
    assert plans == (parse_plan(FIRST), None, parse_plan(SECOND))
    assert len(failures) == 1
    [(prompts, drafting)] = model.draftings
    assert (prompts, drafting.k, drafting.temperature, drafting.max_tokens) == (1, 5, 0.5, 40)
    assert model.calls == [], "nothing was sampled"
    plans, failures, _ = await drafted(THREE)
    assert plans == (parse_plan(FIRST), None, parse_plan(SECOND), None)
    assert "cut off" in failures[1]


async def test_one_plan_is_the_best_readable_draft() -> None:
    plans, failures, model = await drafted(Sampling())
    assert (plans, failures) == ((parse_plan(FIRST),), [])
    assert model.draftings[0][1].temperature == Drafting().temperature, "plan_temperature 0 leaves the paper's"


async def test_more_plans_than_drafts_raise_k() -> None:
    _, _, model = await drafted(THREE, k=1)
    assert model.draftings[0][1].k == 3


async def test_requests_share_a_pass_and_the_next_question_is_asked_for_as_ever() -> None:
    model = Drafting3()
    decomposer = Decomposer(model, load_prompts("reference-v2"), drafts=Drafting())
    asked = Plan(parse_plan(FIRST).steps[:1])
    following = DecomposeRequest(PROBLEM, mode="next", asked=asked, known=(SolutionStep(1, "3 + 4 = 7", "7"),))
    replies = await decomposer([DecomposeRequest(PROBLEM), following, DecomposeRequest(PROBLEM, seed=1)])
    assert [prompts for prompts, _ in model.draftings] == [2]
    assert [len(prompts) for prompts, _ in model.calls] == [1]
    assert [len(reply.plans) for reply in replies] == [1, 1, 1]


def roles_of(model: LanguageModel) -> Roles:
    return Roles(LocalHandle(Decomposer(model, TEXT, drafts=Drafting(k=5))), LocalHandle(Solver(model, TEXT)))


async def traced(model: LanguageModel) -> Trace:
    options = {"strategy": "static", "n": 4, "temperature": 0.7, "plans": 2, "plan_temperature": 0.06, "selection": "majority"}
    return await reason(PROBLEM, roles_of(model), ReasoningConfig.model_validate(options))


async def test_samples_vote_along_different_drafted_plans_and_a_recording_replays_them(tmp_path: Path) -> None:
    trace = await traced(Recorder(Drafting3(), tmp_path / "calls.jsonl"))
    assert trace.error is None
    assert trace.plans == (parse_plan(FIRST),) * 2 + (parse_plan(SECOND),) * 2
    assert (trace.answer, trace.usage["decomposer"].calls) == ("8", 1)
    replayed = await traced(RecordedModel(tmp_path / "calls.jsonl"))
    assert (replayed.plans, replayed.solutions, replayed.usage) == (trace.plans, trace.solutions, trace.usage)


async def test_without_a_readable_draft_the_trace_says_why() -> None:
    class Silent(Drafting3):
        async def drafts(self, prompts: Sequence[Prompt], drafting: Drafting) -> list[list[Draft]]:
            return [[Draft("Well.", (1,), (-1.0,), "stop", Usage(1, 10, 6))] for _ in prompts]

    trace = await traced(Silent())
    assert trace.error is not None
    assert (trace.error.type, trace.error.role, trace.usage["decomposer"].tokens) == ("ParseError", "decomposer", 16)


def test_options_in_a_config() -> None:
    roles = RolesConfig.model_validate({"decomposer": {"model": "reference:decomposer", "drafts": 4}})
    assert roles.decomposer.drafts is not None
    assert (roles.decomposer.drafts.k, roles.decomposer.drafts.alpha) == (4, Drafting().alpha)
    assert RolesConfig().decomposer.drafts is None
    assert RolesConfig.model_validate(roles.model_dump()) == roles
    long = RolesConfig.model_validate({"decomposer": {"model": "hf:x", "drafts": {"k": 2, "reset_every": 9}}})
    assert long.decomposer.drafts is not None
    assert long.decomposer.drafts.reset_every == 9
    for wrong in ({"drafts": 0}, {"drafts": True}, {"drafts": 2, "model": "openai:m@http://h/v1"}):
        with pytest.raises(ValidationError):
            RolesConfig.model_validate({"decomposer": {"model": "hf:x", **wrong}})
    with pytest.raises(ValidationError, match="drafts"):
        RolesConfig.model_validate({"solver": {"model": "hf:x", "drafts": 2}})


def test_drafts_are_part_of_what_a_collection_was_asked_with() -> None:
    sampled, drafted = (
        _describe_role(DecomposerConfig.model_validate({"model": "recorded:x", "prompts": "reference-v1", **options}), ModelInfo("x"))
        for options in ({}, {"drafts": 2})
    )
    assert "drafts" not in sampled, "collections from before there were drafts keep their address"
    assert drafted == sampled | {"drafts": {"k": 2, "alpha": Drafting().alpha, "reset_every": 0}, "ngrams": None}


def test_a_model_that_cannot_draft_is_refused() -> None:
    config = DecomposerConfig.model_validate({"model": "recorded:x", "prompts": "reference-v1", "drafts": 2})
    with pytest.raises(ConfigError, match="a decomposer with drafts needs drafts"):
        build_decomposer(config, Puppet(lambda prompt, i: Completion("")))


async def test_one_draft_is_the_greedy_plan() -> None:
    problems = get_task("arithmetic").problems("validation", 1)
    requests = [DecomposeRequest(problem) for problem in problems]
    sampled, one = (
        build_decomposer(DecomposerConfig.model_validate({"model": "reference:decomposer", "drafts": drafts})) for drafts in (None, 1)
    )
    assert [reply.plans for reply in await one(requests)] == [reply.plans for reply in await sampled(requests)]
    await one.aclose()
    await sampled.aclose()
