"""The strategy `adaptive`: which stages are entered, what their answers, failures and limits mean, and every door to it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.asking import activity
from cleave.config.base import dump, load, validate
from cleave.config.collect import CollectConfig
from cleave.config.evaluate import EvaluateConfig
from cleave.config.iterate import IterateConfig
from cleave.config.reasoning import BudgetConfig, ReasoningConfig, usual_agreement
from cleave.config.serve import ServeArgs
from cleave.errors import CleaveError, ConfigError, GenerationError
from cleave.events import Event, Failed, PlanMade, Selected, SolutionFound, StageEntered, VerdictsGiven
from cleave.plans import parse_plan
from cleave.reasoning import reason
from cleave.selection_table import SelectionTable
from cleave.trace_view import confidence_sentence
from cleave.traces import ScoredTrace
from cleave.types import ModelInfo, Plan, Problem, Trace, Usage, from_json, to_json
from pipelines.collect import describe_recipe
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.service import Service
from tests.answering import PLAN, PLAN_COST, PROMPT_TOKENS, Answering

PROBLEM = Problem("p1", "How many?", answer="8")
CHEAP = {"strategy": "direct", "n": 3}
MIDDLE = {"strategy": "single", "n": 5}
DEAR = {"strategy": "static", "n": 1, "temperature": 0.0}


def cascade(*stages: dict[str, Any], **around: Any) -> ReasoningConfig:
    data = {"strategy": "adaptive", "temperature": 0.7, "selection": "majority", "stages": stages, **around}
    return validate(ReasoningConfig, data, "the test")


async def run(cast: Answering, config: ReasoningConfig, budget: BudgetConfig | None = None) -> tuple[Trace, list[Event]]:
    events: list[Event] = []
    trace = await reason(PROBLEM, cast.roles, config, budget, on_event=events.append)
    assert from_json(Trace, to_json(trace)) == trace
    assert sum(trace.stages) == len(trace.solutions) or config.strategy != "adaptive"
    return trace, events


def kinds(events: Sequence[Event]) -> list[str]:
    return [event.event for event in events]


# ---- which stages are entered


async def test_samples_that_agree_end_it_in_the_first_stage() -> None:
    cast = Answering({"direct": ["8", "8.0", "8"]})
    trace, events = await run(cast, cascade(CHEAP, DEAR))
    assert (trace.strategy, trace.answer, trace.confidence, trace.error) == ("adaptive", "8", 1.0, None)
    assert (trace.stages, trace.plans, cast.planned) == ((3,), (), [])
    assert kinds(events) == ["stage", *["solution"] * 3, "selected"]
    assert events[0].to_dict() == {"event": "stage", "stage": 0, "of": 2, "strategy": "direct", "n": 3}


async def test_samples_that_differ_open_the_next_stage_and_everything_stays_in_the_trace() -> None:
    cast = Answering({"direct": ["7", "7", "9"], "static": ["8"]})
    trace, events = await run(cast, cascade(CHEAP, DEAR))
    assert (trace.answer, trace.chosen, trace.stages) == ("8", 3, (3, 1))
    assert [solution.answer for solution in trace.solutions] == ["7", "7", "9", "8"]
    assert trace.plans == (Plan(), Plan(), Plan(), parse_plan(PLAN)), "one plan per solution, an empty one where a stage made none"
    assert trace.plan_of(3) == parse_plan(PLAN)
    assert trace.usage == {"solver": Usage(2, 2 * PROMPT_TOKENS, 1 + 2 + 3 + 1), "decomposer": PLAN_COST}
    assert kinds(events) == ["stage", *["solution"] * 3, "stage", "plan", "solution", "selected"]
    assert [event.sample for event in events if isinstance(event, SolutionFound)] == [0, 1, 2, 3]
    assert [event.sample for event in events if isinstance(event, Selected)] == [3]
    assert [list(trace.stage_of(i)) for i in (1, 3)] == [[0, 1, 2], [3]]


@given(st.lists(st.sampled_from(["7", "8", None]), min_size=8, max_size=8), st.sampled_from([2, 3, 5, 8]), st.floats(0.01, 1))
async def test_the_threshold_is_the_share_of_the_samples_drawn(answers: list[str | None], n: int, share: float) -> None:
    if share * n <= 1:
        return
    cast = Answering({"single": answers, "direct": ["9"]})
    trace, _ = await run(cast, cascade({"strategy": "single", "n": n, "agreement": share}, {"strategy": "direct", "n": 1}))
    drawn = answers[:n]
    leading = max(drawn.count("7"), drawn.count("8"))
    assert (trace.answer == "9") == (leading / n < share)


@pytest.mark.parametrize(
    ("n", "votes", "enough"), [(2, 2, True), (3, 2, False), (3, 3, True), (5, 3, False), (5, 4, True), (10, 5, False), (10, 6, True)]
)
async def test_the_usual_thresholds_are_those_of_the_paper(n: int, votes: int, enough: bool) -> None:
    cast = Answering({"single": ["8"] * votes + [f"{i}00" for i in range(1, n - votes + 1)], "direct": ["9"]})
    trace, _ = await run(cast, cascade({"strategy": "single", "n": n}, {"strategy": "direct", "n": 1}))
    assert (trace.answer == "8") == enough
    assert (votes / n >= usual_agreement(n)) == enough


async def test_stages_reason_as_they_say_and_else_as_the_config_around_them() -> None:
    cast = Answering({"direct": ["7", "8", "9"], "single": ["1", "2", "3", "4", "5"], "static": ["8"]})
    around = {"top_p": 0.9, "max_steps": 4}
    await run(cast, cascade(CHEAP, MIDDLE | {"temperature": 0.3, "top_p": 0.8}, DEAR, **around))
    asked = [(request.sampling.n, request.sampling.temperature, request.sampling.top_p) for request in cast.solved]
    assert asked == [(3, 0.7, 0.9), (5, 0.3, 0.8), (1, 0.0, 0.9)]
    assert [request.max_steps for request in cast.planned] == [4]


async def test_rounds_within_a_stage() -> None:
    cast = Answering({"direct": ["8", "8", "8", "8", "9"], "static": ["7"]})
    trace, _ = await run(cast, cascade({"strategy": "direct", "n": 5, "stop_early": 0.85}, DEAR))
    assert [request.sampling.n for request in cast.solved] == [2], "two of two: likely enough, and all that were drawn agree"
    assert (trace.answer, trace.stages) == ("8", (2,))


# ---- confidence


async def test_a_confidence_is_the_verifiers_and_opens_the_next_stage() -> None:
    sure = {"strategy": "direct", "n": 1, "confidence": 0.9}
    cast = Answering({"direct": ["7"], "static": ["8"]}, scores={"7": 0.6, "8": 0.8})
    trace, events = await run(cast, cascade(sure, DEAR))
    assert (trace.answer, trace.confidence, trace.stages) == ("8", 0.8, (1, 1))
    assert [verdict and verdict.score for verdict in trace.verdicts] == [0.6, 0.8]
    assert [len(request.solutions) for request in cast.verified] == [1, 1], "each stage's own"
    given = [event.verdicts for event in events if isinstance(event, VerdictsGiven)]
    assert [[verdict and verdict.score for verdict in verdicts] for verdicts in given] == [[0.6], [None, 0.8]]
    confident = Answering({"direct": ["7"]}, scores={"7": 0.95})
    trace, _ = await run(confident, cascade(sure, DEAR))
    assert (trace.answer, trace.confidence, trace.stages) == ("7", 0.95, (1,))


async def test_only_the_answering_stage_is_verified_where_votes_decide() -> None:
    cast = Answering({"direct": ["7", "7", "9"], "static": ["8"]}, scores={"8": 0.8})
    trace, _ = await run(cast, cascade(CHEAP, DEAR))
    assert [len(request.solutions) for request in cast.verified] == [1]
    assert [verdict and verdict.score for verdict in trace.verdicts] == [None, None, None, 0.8]
    assert (trace.confidence, trace.usage["verifier"].calls) == (0.8, 1)


async def test_agreement_and_confidence_hold_together_where_both_are_asked_for() -> None:
    def stage(**conditions: float) -> dict[str, Any]:
        return {"strategy": "direct", "n": 3, **conditions}

    for conditions, stages in (({"confidence": 0.6}, 1), ({"confidence": 0.6, "agreement": 1.0}, 2), ({"confidence": 0.9}, 2)):
        cast = Answering({"direct": ["8", "8", "9"], "static": ["8"]}, scores={"8": 0.5})
        trace, _ = await run(cast, cascade(stage(**conditions), DEAR))
        assert len(trace.stages) == stages, conditions


async def test_scores_choose_before_it_is_decided() -> None:
    cast = Answering({"direct": ["7", "7", "8"], "static": ["8"]}, scores={"7": 0.1, "8": 0.9})
    trace, _ = await run(cast, cascade({**CHEAP, "selection": "weighted", "agreement": 0.5}, DEAR))
    assert len(trace.stages) == 2, "the heaviest answer has one vote of three"
    assert [verdict and verdict.score for verdict in trace.verdicts] == [0.1, 0.1, 0.9, 0.9]


async def test_an_unknown_confidence_is_none() -> None:
    trace, _ = await run(Answering({"direct": ["7"], "static": ["8"]}), cascade({**CHEAP, "n": 1, "confidence": 0.1}, DEAR))
    assert trace.answer == "8"


# ---- when no stage is sure


async def test_the_last_stage_always_answers() -> None:
    cast = Answering({"direct": ["7", "7", "9"], "single": ["1", "2", "3", "4", "4"]})
    trace, _ = await run(cast, cascade(CHEAP, MIDDLE))
    assert (trace.answer, trace.confidence, trace.error) == ("4", 0.4, None)


async def test_or_the_one_whose_samples_agree_most() -> None:
    cast = Answering({"direct": ["7", "7", "9"], "single": ["1", "2", "3", "4", "4"]}, scores={"7": 0.5})
    trace, _ = await run(cast, cascade(CHEAP, MIDDLE, otherwise="most_agreed"))
    assert (trace.answer, trace.chosen, trace.stages) == ("7", 0, (3, 5))
    assert trace.confidence == pytest.approx(2 / 3)
    assert [verdict is None for verdict in trace.verdicts] == [False] * 3 + [True] * 5, "whoever answers is verified"
    assert "share of 3 solutions" in confidence_sentence(trace)
    equal = Answering({"direct": ["7", "7", "9"], "single": ["4", "4", "3"]})
    assert (await run(equal, cascade(CHEAP, MIDDLE | {"n": 3}, otherwise="most_agreed")))[0].answer == "4", "of equal ones the later"
    reached = Answering({"direct": ["7", "7", "7", "7", "9"], "single": ["4"] * 5})
    config = cascade(CHEAP | {"n": 5, "agreement": 1.0}, MIDDLE | {"agreement": 0.6}, otherwise="most_agreed")
    assert (await run(reached, config))[0].answer == "4"


async def test_the_last_stages_own_condition_may_be_a_confidence() -> None:
    for confidence, answer in ((0.3, "4"), (0.5, "7")):
        cast = Answering({"direct": ["7", "7", "9"], "single": ["1", "2", "3", "4", "4"]}, scores={"4": 0.9})
        config = cascade(CHEAP, MIDDLE | {"confidence": confidence}, otherwise="most_agreed")
        trace, _ = await run(cast, config)
        assert trace.answer == answer
        assert all(verdict is not None for verdict in trace.verdicts[3:]), "it is verified before it is decided"


async def test_a_stage_without_an_answer_leaves_it_to_those_before() -> None:
    cast = Answering({"direct": ["7", "7", "9"], "static": [None]})
    trace, _ = await run(cast, cascade(CHEAP, DEAR))
    assert (trace.answer, trace.chosen, trace.stages, trace.error) == ("7", 0, (3, 1), None)
    nobody, _ = await run(Answering({"direct": [None] * 3, "static": [None]}), cascade(CHEAP, DEAR))
    assert nobody.error is not None
    assert "none of the 4 solutions" in nobody.error.message


# ---- seeds


async def test_a_stages_draws_depend_on_its_place_alone() -> None:
    def asked(*stages: dict[str, Any], first: Sequence[str] | CleaveError) -> Answering:
        return Answering({"direct": first, "single": ["1", "2", "3", "4", "5"], "static": ["8"]})

    config = cascade(CHEAP, MIDDLE, DEAR)
    differing, failing = asked(first=["7", "8", "9"]), asked(first=GenerationError("down."))
    await run(differing, config)
    await run(failing, config)
    assert len(set(differing.seeds())) == 4, "two stages never draw the same noise"
    assert [r.seed for r in differing.solved[1:]] == [r.seed for r in failing.solved[1:]]
    assert differing.planned == failing.planned


async def test_the_first_stage_draws_what_it_draws_alone() -> None:
    alone, first = Answering({"static": ["8"] * 3}), Answering({"static": ["8"] * 3})
    await run(alone, ReasoningConfig(strategy="static", n=3, temperature=0.7, selection="majority"))
    await run(first, cascade({"strategy": "static", "n": 3}, DEAR))
    assert (alone.planned, alone.solved) == (first.planned, first.solved)


# ---- failures


async def test_a_failing_stage_makes_room_for_the_next() -> None:
    trace, events = await run(Answering({"direct": GenerationError("the endpoint is down."), "static": ["8"]}), cascade(CHEAP, DEAR))
    assert (trace.answer, trace.error, trace.stages, trace.chosen) == ("8", None, (0, 1), 0)
    failures = [event for event in events if isinstance(event, Failed)]
    assert failures
    assert not any(event.final for event in failures)
    assert {event.failure.type for event in failures} == {"GenerationError"}
    assert kinds(events).index("failed") < [i for i, event in enumerate(events) if isinstance(event, StageEntered)][1]


async def test_so_does_one_whose_plan_fails() -> None:
    cast = Answering({"single": ["8"]}, plans=lambda i: "1. How many in #1?")
    trace, events = await run(cast, cascade({"strategy": "static", "n": 3}, {"strategy": "single", "n": 1}))
    assert (trace.answer, trace.error, trace.stages) == ("8", None, (0, 1))
    assert kinds(events) == ["stage", "failed", "stage", "solution", "selected"]


async def test_so_does_one_that_cannot_be_verified_before_it_is_decided() -> None:
    cast = Answering({"direct": ["7"], "static": ["8"]}, scores=GenerationError("the judge is out."))
    trace, events = await run(cast, cascade({"strategy": "direct", "n": 1, "confidence": 0.5}, DEAR))
    assert (trace.answer, trace.chosen, trace.verdicts, trace.stages) == ("8", 1, (), (1, 1))
    assert trace.error is not None
    assert trace.error.role == "verifier", "the last stage's verdict is missing too"
    assert kinds(events).count("failed") == 2
    agreed = Answering({"direct": ["7"] * 3}, scores=GenerationError("the judge is out."))
    trace, _ = await run(agreed, cascade(CHEAP, DEAR))
    assert (trace.answer, trace.stages) == ("7", (3,)), "a verifier that decides nothing loses no answer"


async def test_a_last_stage_that_fails_keeps_the_answer_of_those_before_and_says_so() -> None:
    trace, events = await run(Answering({"direct": ["7", "7", "9"], "static": GenerationError("down.")}), cascade(CHEAP, DEAR))
    assert (trace.answer, trace.chosen, trace.stages) == ("7", 0, (3, 0))
    assert trace.error is not None
    assert trace.error.type == "GenerationError"
    assert isinstance(events[-1], Failed)
    assert events[-1].final


# ---- budgets


async def test_calls_and_tokens_are_of_all_stages() -> None:
    table = {"direct": ["7", "8", "9"], "single": ["1", "2", "3", "4", "5"], "static": ["8"]}
    for budget in (BudgetConfig(max_calls=2), BudgetConfig(max_tokens=50)):
        cast = Answering(table)
        trace, events = await run(cast, cascade(CHEAP, MIDDLE, DEAR), budget)
        assert trace.error is not None
        assert trace.error.type == "BudgetExceeded"
        assert (trace.answer, trace.stages[:2]) == ("1", (3, 5))
        assert cast.planned == [], "nothing is asked after that"
        assert kinds(events)[-2:] == ["selected", "failed"]


@pytest.mark.parametrize(("limit", "stages", "answer"), [(2, (2,), "7"), (3, (3, 0), "7"), (5, (3, 2), "1"), (8, (3, 5, 0), "1")])
async def test_samples_are_counted_over_all_stages_and_never_pass_their_limit(limit: int, stages: tuple[int, ...], answer: str) -> None:
    cast = Answering({"direct": ["7", "8", "9"], "single": ["1", "2", "3", "4", "5"], "static": ["8"]})
    trace, _ = await run(cast, cascade(CHEAP, MIDDLE, DEAR), BudgetConfig(max_samples=limit))
    assert sum(request.sampling.n for request in cast.solved) == limit
    assert (trace.stages, trace.answer) == (stages, answer)
    assert trace.error is not None
    assert (trace.error.type, trace.error.role) == ("BudgetExceeded", "solver")
    assert trace.error.message.endswith("raise budget.max_samples.")
    assert cast.planned == [], "without room for a sample no plan is paid for"
    enough, _ = await run(Answering(cast.table), cascade(CHEAP, MIDDLE, DEAR), BudgetConfig(max_samples=9))
    assert (enough.answer, enough.error) == ("8", None)


async def test_samples_are_clipped_in_every_strategy_and_round() -> None:
    limit = BudgetConfig(max_samples=3)
    plain = {"strategy": "single", "n": 8, "temperature": 1.0, "selection": "majority"}
    for options in ({}, {"stop_early": 0.99}, {"strategy": "static", "plans": 4, "plan_temperature": 1.0}):
        answers = ["7", "8", "8", *["9"] * 5]
        cast = Answering({"single": answers, "static": answers}, plans=lambda i: f"1. Plan {i}?")
        trace = await reason(PROBLEM, cast.roles, ReasoningConfig.model_validate(plain | options), limit)
        assert sum(request.sampling.n for request in cast.solved) == len(trace.solutions) == 3
        assert all(request.sampling.n for request in cast.solved), "no plan is asked for no solution"
        assert (trace.answer, trace.confidence) == ("8", pytest.approx(2 / 3))
        assert trace.error is not None
        assert trace.error.type == "BudgetExceeded"
    free = await reason(PROBLEM, Answering({"single": ["8"] * 3}).roles, ReasoningConfig.model_validate(plain | {"n": 3}), limit)
    assert free.error is None


# ---- configs


@pytest.mark.parametrize(
    ("stages", "complaint"),
    [
        ([], "list them under stages"),
        ([{"strategy": "direct", "n": 1}, DEAR], "stages.0: one sample always agrees with itself, so that stages.1 is never reached"),
        ([{"strategy": "direct", "n": 3, "agreement": 0.3}, DEAR], "stages.0: 3 samples always agree as much as that"),
        ([CHEAP | {"selection": "first"}, DEAR], "stages.0: the first of 3 samples is no vote; set selection: majority"),
        ([CHEAP, MIDDLE | {"temperature": 0.0}], "stages.1: several solutions of one plan at temperature 0"),
        ([CHEAP, MIDDLE | {"plans": 2}], "stages.1: the strategy single makes no plan"),
        ([CHEAP, MIDDLE | {"n": 0}], "stages.1.n: Input should be greater"),
        ([CHEAP, {"strategy": "adaptive"}], "stages.1.strategy"),
        ([CHEAP, DEAR | {"temprature": 1}], "did you mean 'stages.1.temperature'"),
        ([CHEAP | {"agreement": 1.5}, DEAR], "stages.0.agreement"),
    ],
)
def test_stages_without_sense_are_one_sentence(stages: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        cascade(*stages)
    assert complaint in str(refused.value)
    assert str(refused.value).count("\n") == 0


def test_a_stage_of_one_sample_may_end_it_by_confidence_or_stand_last() -> None:
    cascade({"strategy": "direct", "n": 1, "confidence": 0.9}, DEAR)
    cascade(DEAR)


def test_configs_survive_being_written(tmp_path: Path) -> None:
    config = cascade(CHEAP, MIDDLE | {"confidence": 0.9}, DEAR, otherwise="most_agreed", budget={"max_samples": 7})
    (tmp_path / "a.yaml").write_text(dump(config), encoding="utf-8")
    assert load(ReasoningConfig, tmp_path / "a.yaml") == config
    assert (config.most_samples, config.is_random) == (9, True)
    changed = load(ReasoningConfig, tmp_path / "a.yaml", ["stages.1.n=7"])
    assert changed.in_stages()[1].reasoning.n == 7


def test_stages_wait_beside_other_strategies() -> None:
    data = {"name": "x", "tasks": "arithmetic", "reasoning": {"temperature": 0.7, "selection": "majority", "stages": [CHEAP, DEAR]}}
    config = validate(EvaluateConfig, data | {"variants": {"adaptive": None, "static": {"temperature": 0.0}}}, "the test")
    strategies = config.strategies()
    assert [strategies[name].strategy for name in ("adaptive", "static")] == ["adaptive", "static"]
    assert [len(each.in_stages()) for each in strategies.values()] == [2, 1]
    with pytest.raises(ConfigError, match=r"variants\.adaptive: adaptive goes through stages"):
        validate(EvaluateConfig, {"name": "x", "tasks": "arithmetic", "variants": {"adaptive": None}}, "the test")


def test_a_collections_address_is_what_decides_its_samples() -> None:
    def recipe(**reasoning: Any) -> Any:
        config = validate(CollectConfig, {"name": "x", "tasks": "arithmetic", "reasoning": reasoning}, "the test")
        info = ModelInfo("m", "1")
        return describe_recipe(config, {"decomposer": info, "solver": info})["reasoning"]

    plain = recipe(strategy="single")
    assert not {"stages", "otherwise", "selection"} & set(plain), "no older collection moves"
    two = {"strategy": "adaptive", "temperature": 0.7, "selection": "majority", "stages": [CHEAP, DEAR]}
    assert recipe(**two) == recipe(**two, otherwise="most_agreed", budget={"max_samples": 4})
    assert recipe(**two) != recipe(**two | {"stages": [CHEAP | {"agreement": 0.6}, DEAR]})
    assert recipe(**two) != recipe(**two | {"selection": "weighted"})


def test_an_iteration_names_its_stages_one_by_one(root: Path) -> None:
    shipped = load(IterateConfig, root / "configs/iterate/solver.yaml").model_dump(mode="json")
    stages = {"strategy": "adaptive", "temperature": 0.7, "selection": "majority", "stages": [CHEAP, DEAR]}
    with pytest.raises(ConfigError, match=r"strategies\.both: the stages of adaptive"):
        validate(IterateConfig, shipped | {"strategies": {"both": stages}, "deciding": None}, "the test")


# ---- what others make of such traces


async def test_stages_are_not_samples_of_one_kind() -> None:
    trace, _ = await run(Answering({"direct": ["7", "7", "9"], "static": ["8"]}), cascade(CHEAP, DEAR))
    table = SelectionTable()
    table.add(ScoredTrace("v", "t", 0, trace, correct=True), lambda answer: answer == "8", asked=4)
    assert table.variants == []


def test_the_spinner_names_the_stage() -> None:
    assert activity(StageEntered(1, 3, "static", 5)) == "stage 2 of 3: static, n = 5"
    assert activity(PlanMade(parse_plan(PLAN))) == "solving 1 steps"


# ---- over HTTP


def client(cast: Answering, **args: Any) -> httpx.AsyncClient:
    config = ServeArgs.model_validate(args)
    app = create_app(Service(cast.roles, config.limits), Catalogue.of(config))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cleave/v1")


STAGED = {"temperature": 0.7, "selection": "majority", "stages": [CHEAP, DEAR]}


async def test_a_server_with_stages_is_asked_for_them() -> None:
    cast = Answering({"direct": ["7", "8", "9"], "static": ["8"]})
    async with client(cast, reasoning=STAGED) as http:
        listed = {model["id"]: model["cleave"] for model in (await http.get("/models")).json()["data"]}
        assert listed["cleave-adaptive"] == {"kind": "pipeline", "strategy": "adaptive", "samples": 4}
        reply = await http.post("/solve", json={"question": "How many?", "strategy": "adaptive", "budget": {"max_samples": 3}})
    trace = from_json(Trace, reply.text)
    assert (reply.status_code, trace.strategy, trace.answer, trace.stages) == (200, "adaptive", "7", (3, 0))
    assert trace.error is not None
    assert trace.error.type == "BudgetExceeded"
    assert trace.seed, "stages that sample draw a fresh seed"


async def test_a_request_names_no_stages_of_its_own() -> None:
    cast = Answering({})
    question = {"question": "How many?", "strategy": "adaptive"}
    async with client(cast) as http:
        refused = (await http.post("/solve", json=question)).json()["error"]
        assert refused["param"] == "strategy"
        assert "start it with reasoning.stages" in refused["message"]
        assert "cleave-adaptive" not in [model["id"] for model in (await http.get("/models")).json()["data"]]
    async with client(cast, reasoning=STAGED | {"strategy": "adaptive"}) as http:
        for name, value in (("temperature", 0.5), ("plans", 2), ("n", 4), ("selection", "first"), ("stop_early", 0.9)):
            reply = await http.post("/solve", json={"question": "How many?", name: value})
            error = reply.json()["error"]
            assert (reply.status_code, error["param"]) == (400, name)
            assert "each stage of adaptive has its own" in error["message"]
        chat = {"model": "cleave", "messages": [{"role": "user", "content": "How many?"}], "samples": 2}
        assert (await http.post("/chat/completions", json=chat)).json()["error"]["param"] == "samples"
        many = await http.post("/chat/completions", json={**chat, "samples": None, "n": 17})
        assert (many.status_code, many.json()["error"]["param"]) == (400, "n"), "17 choices of up to 4 solutions"
    assert cast.solved == []


async def test_limits_are_over_all_stages() -> None:
    with pytest.raises(ConfigError, match=r"samples 4 solutions; raise limits\.max_n"):
        validate(ServeArgs, {"reasoning": STAGED | {"strategy": "adaptive"}, "limits": {"max_n": 3}}, "the test")


def test_a_trace_from_before_there_were_stages_is_read() -> None:
    data = json.loads(to_json(Trace(PROBLEM, "single")))
    del data["stages"]
    assert from_json(Trace, json.dumps(data)) == replace(Trace(PROBLEM, "single"), stages=())
