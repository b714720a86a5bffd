"""Cascades on recorded samples: replayed as the strategy `adaptive` goes through them, searched exactly, written as a config that runs."""

import json
import random
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import cleave.__main__ as command_line
from cleave.cascade import GAIN, Cascade, Point, Rung, as_reasoning, choose, replay, survival, thinned
from cleave.cascade_search import search, thresholds
from cleave.config.base import dump, validate
from cleave.config.evaluate import EvaluateConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.errors import ConfigError
from cleave.reasoning import reason
from cleave.runs import CONFIG, RunFolder
from cleave.tasks.reference.task import reference_task
from cleave.traces import TRACES, ScoredTrace, write_traces
from cleave.types import Problem, Solution, Trace, Usage
from cleave.vote_records import VoteRecords, VoteTable, cost_of, is_searched, windows
from tests.answering import Answering

Answers = Sequence[str | None]
ANSWERS = ["7", "8", "8", "8.0", "9", None]


def sampled(strategy: str, n: int, **options: Any) -> ReasoningConfig:
    return validate(ReasoningConfig, {"strategy": strategy, "n": n, "temperature": 0.7, "selection": "majority", **options}, "the test")


VARIANTS = {"short": sampled("direct", 5), "long": sampled("static", 8, top_p=0.9, max_steps=6)}


async def recorded(variants: dict[str, ReasoningConfig], tables: Sequence[dict[str, Answers]]) -> VoteTable:
    """What an evaluation of these variants knows whose problem i gets the answers of table i; 8 is right."""
    records = VoteRecords(variants, "tokens")
    for i, table in enumerate(tables):
        for name, config in variants.items():
            trace = await reason(Problem(f"p{i}", "How many?", answer="8"), Answering(table).roles, config)
            records.add(ScoredTrace(name, "t", i, trace), lambda answer: float(answer) == 8)
    return records.table()


def drawn(seed: int, problems: int) -> list[dict[str, Answers]]:
    """Answers at random, of which `static` is right more often."""
    rng = random.Random(seed)
    return [{"direct": rng.choices(ANSWERS, k=16), "static": rng.choices([*ANSWERS, "8", "8"], k=16)} for _ in range(problems)]


# ---- replaying


def cascades() -> st.SearchStrategy[Cascade]:
    """Of up to three stages, each variant at most once or in draws that its samples allow."""
    short = st.sampled_from([Rung("short", n, votes) for n in (2, 3) for votes in thresholds(n)])
    long = st.sampled_from([Rung("long", n, votes) for n in (2, 3, 4) for votes in thresholds(n)])
    last = st.sampled_from([Rung("short", 1), Rung("short", 2), Rung("long", 1), Rung("long", 2)])
    return st.tuples(st.lists(st.one_of(short, long), max_size=2, unique_by=lambda rung: rung.variant), last).map(lambda p: (*p[0], p[1]))


@settings(max_examples=40)
@given(cascades(), st.integers(0, 50))
async def test_a_replay_ends_where_the_loop_does_with_the_same_answer(cascade: Cascade, seed: int) -> None:
    tables = drawn(seed, 6)
    found = replay(cascade, await recorded(VARIANTS, tables))
    config = validate(ReasoningConfig, as_reasoning(cascade, VARIANTS), "the test")
    ways = {"short": "direct", "long": "static"}
    for i, table in enumerate(tables):
        trace = await reason(Problem(f"p{i}", "How many?", answer="8"), Answering(table).roles, config)
        stages = trace.stages or (len(trace.solutions),)
        assert found.ended[i] == len(stages) - 1
        assert (trace.answer is None) == (found.chosen[i] < 0)
        if trace.answer is not None:
            rung = cascade[found.answered[i]]
            earlier = sum(each.n for each in cascade[: found.answered[i]] if each.variant == rung.variant)
            assert trace.answer == table[ways[rung.variant]][found.chosen[i]]
            assert earlier <= found.chosen[i] < earlier + rung.n, "a variant that is used again draws further samples"
            assert bool(found.right[i]) == (float(trace.answer) == 8)
        if len({rung.variant for rung in cascade}) == len(cascade):
            assert found.cost[i] == trace.total_usage.tokens


async def test_a_last_stage_without_an_answer_leaves_it_to_the_one_before() -> None:
    table = await recorded(VARIANTS, [{"direct": ["8", "8", "9", None, None], "static": [None] * 8}])
    found = replay((Rung("short", 3, 3), Rung("long", 2)), table)
    assert (found.ended[0], found.answered[0], found.chosen[0], found.right[0]) == (1, 0, 0, True)


# ---- what is recorded


async def test_a_draw_costs_its_plan_its_prompt_once_and_its_samples() -> None:
    table = await recorded(VARIANTS, drawn(0, 1))
    plan, prompt = 15, 20
    assert [table.draws("long", 0, n).cost[0] for n in (1, 2, 8)] == [plan + prompt + 1, plan + prompt + 3, plan + prompt + 36]
    assert table.draws("long", 3, 2).cost[0] == plan + prompt + 3, "samples drawn afresh have a prompt of their own"
    assert table.sizes("long") == [1, 2, 3, 4, 5, 8]
    assert table.sizes("long", start=5) == [1, 2, 3]


def test_what_no_solution_shows_is_shared_among_the_samples() -> None:
    """Repairs and failed calls are in the usage of the role, not of a solution; a self-asking decomposer is asked by every sample."""
    usage = {"decomposer": Usage(4, 80, 0), "solver": Usage(4, 100, 20)}
    solutions = tuple(Solution(answer="8", usage=Usage(1, 20, 5)) for _ in range(3))
    trace = Trace(Problem("p", "?"), "static", solutions=solutions, usage=usage)
    static, dynamic = sampled("static", 4), sampled("dynamic", 4)
    assert cost_of(trace, static, 4, "tokens") == 200
    assert cost_of(trace, static, 1, "tokens") == 80 + 25 + 45 / 4
    assert cost_of(trace, dynamic, 1, "tokens") == 20 + 25 + 45 / 4


def test_samples_of_several_plans_are_drawn_together() -> None:
    assert windows(sampled("static", 4, plans=2, plan_temperature=1.0)) == [(0, 4)]
    assert windows(ReasoningConfig(strategy="single")) == [(0, 1)]
    assert [n for start, n in windows(sampled("single", 16)) if start == 0] == [1, 2, 3, 4, 5, 8, 10, 16]


async def test_problems_that_some_variant_lacks_and_those_without_gold_are_left_out() -> None:
    records = VoteRecords(VARIANTS, "tokens")
    traces = {name: await reason(Problem("p", "?", answer="8"), Answering(drawn(0, 1)[0]).roles, way) for name, way in VARIANTS.items()}
    for i, names in enumerate((["short"], ["long", "short"], ["short", "long", "other"])):
        for name in names:
            records.add(ScoredTrace(name, "t", i, traces.get(name, traces["short"])), lambda answer: True)
    unlabelled = Trace(Problem("q", "?"), "single")
    records.add(ScoredTrace("short", "t", 9, unlabelled), lambda answer: True)
    assert records.table().problems == [("t", 1), ("t", 2)]


# ---- searching


def everything(table: VoteTable, stages: int = 3) -> Iterator[Cascade]:
    """Every cascade that its samples allow."""
    rungs = [Rung(name, n, votes) for name in table.by_window for n in table.sizes(name) for votes in [0, *thresholds(n)]]
    for length in range(1, stages + 1):
        for cascade in product(rungs, repeat=length):
            used = dict[str, int]()
            for rung in cascade:
                used[rung.variant] = used.get(rung.variant, 0) + rung.n
            fits = all(used[name] <= max(table.sizes(name)) for name in used)
            if fits and all(rung.votes for rung in cascade[:-1]) and not cascade[-1].votes:
                yield cascade


def front_of(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that none beats, by cost."""
    kept: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((cost, accuracy))
    return kept


async def test_the_front_is_that_of_all_cascades() -> None:
    variants = {"short": sampled("direct", 4), "long": sampled("static", 5)}
    table = await recorded(variants, drawn(3, 25))
    outcomes = [replay(cascade, table) for cascade in everything(table)]
    points = [(float(outcome.cost.mean()), float(outcome.right.mean())) for outcome in outcomes]
    (front,) = search(table)
    assert len(outcomes) > 300
    assert [(point.cost, point.accuracy) for point in front] == front_of(points)
    assert any(len(point.cascade) > 1 for point in front)
    for point in front:
        outcome = replay(point.cascade, table)
        assert (float(outcome.cost.mean()), float(outcome.right.mean())) == (point.cost, point.accuracy)


async def test_resamples_are_fronts_of_problems_drawn_again() -> None:
    table = await recorded({"short": sampled("direct", 3), "long": sampled("static", 4)}, drawn(4, 20))
    fronts = search(table, resamples=3, seed=1)
    assert fronts[0] == search(table)[0]
    assert fronts == search(table, resamples=3, seed=1)
    weights = np.random.default_rng(1).multinomial(20, np.full(20, 1 / 20), size=3)
    for front, weight in zip(fronts[1:], weights, strict=True):
        again = VoteTable([], np.repeat(table.searched, weight), {})
        assert len(again.searched) == 20
        for point in front:
            outcome = replay(point.cascade, table)
            assert point.cost == pytest.approx(float(np.repeat(outcome.cost, weight).mean()))
            assert point.accuracy == pytest.approx(float(np.repeat(outcome.right, weight).mean()))


FRONT = [Point((Rung("a", 1),), 10, 0.5), Point((Rung("a", 3),), 20, 0.7), Point((Rung("b", 3),), 30, 0.7015), Point((), 40, 0.9)]


def test_a_point_is_chosen_by_cost_accuracy_or_what_is_worth_it() -> None:
    assert choose(FRONT).cost == 40
    assert choose(FRONT, max_cost=35).cost == 20, f"less than {GAIN} is not worth a dearer one"
    assert choose(FRONT, min_accuracy=0.701).cost == 30
    assert choose(FRONT, max_cost=10, min_accuracy=0.5).cost == 10
    assert [point.cost for point in thinned(FRONT)] == [10, 20, 40]
    with pytest.raises(ConfigError, match="the cheapest costs 10, allow that"):
        choose(FRONT, max_cost=9)
    with pytest.raises(ConfigError, match=r"the best one solves 0\.7000, ask for that"):
        choose(FRONT, max_cost=20, min_accuracy=0.8)


def test_a_stage_survives_with_another_threshold() -> None:
    chosen = (Rung("a", 3, 3), Rung("b", 8))
    others: list[Cascade] = [(Rung("a", 3, 2), Rung("b", 8)), (Rung("a", 5, 3), Rung("b", 8)), (Rung("b", 4),)]
    assert survival(chosen, others) == [1, 2]


# ---- writing


def test_a_cascade_is_a_config_with_its_variants_fields() -> None:
    written = as_reasoning((Rung("short", 3, 2), Rung("long", 5)), VARIANTS)
    assert written == {
        "strategy": "adaptive",
        "stages": [
            {"strategy": "direct", "n": 3, "temperature": 0.7, "selection": "majority", "agreement": 2 / 3},
            {"strategy": "static", "n": 5, "temperature": 0.7, "top_p": 0.9, "max_steps": 6, "selection": "majority"},
        ],
    }
    first, last = validate(ReasoningConfig, yaml.safe_load(yaml.safe_dump(written)), "the test").in_stages()
    assert first.takes(2 / 3, None)
    assert not first.takes(1 / 3, None)
    assert last.reasoning == VARIANTS["long"].model_copy(update={"n": 5})
    assert as_reasoning((Rung("short", 1),), VARIANTS) == {"strategy": "direct", "n": 1, "temperature": 0.7}


# ---- the command


@pytest.fixture
async def run(tmp_path: Path) -> Path:
    """A finished evaluation of two variants on 60 problems, of which the dear one solves more."""
    data = {
        "name": "votes",
        "storage_path": str(tmp_path),
        "tasks": [{"task": "arithmetic", "problems": 60}],
        "reasoning": {"temperature": 0.7, "selection": "majority"},
        "variants": {"short": {"strategy": "direct", "n": 5}, "long": {"strategy": "static", "n": 8}, "gold": {"gold_plan": True}},
        "bootstrap": {"resamples": 200},
    }
    config, rng = validate(EvaluateConfig, data, "the test"), random.Random(0)
    folder = RunFolder.open(str(tmp_path), "votes")
    rows = []
    for i, problem in enumerate(reference_task("arithmetic").problems("test", limit=60)):
        right, easy = str(problem.answer), rng.random() < 0.5
        table = {
            "direct": rng.choices([right, "-1", "-2"], [9, 1, 1] if easy else [1, 3, 3], k=5),
            "static": rng.choices([right, "-1"], [8, 2], k=8),
        }
        for name, way in config.strategies().items():
            if name != "gold":
                rows.append(ScoredTrace(name, "arithmetic", i, await reason(problem, Answering(table).roles, way)))
    write_traces(folder, TRACES, rows)
    folder.write_text(CONFIG, dump(config))
    return tmp_path / "votes"


def test_the_printed_section_is_a_config_of_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["cascade", str(run)]) == 0
    written = capsys.readouterr()
    assert "gold is left out" in written.err
    assert "problems that were searched" in written.out
    section = yaml.safe_load(written.out[written.out.index("reasoning:") :])
    config = validate(EvaluateConfig, {"name": "next", "tasks": "arithmetic", **section}, "the test")
    assert config.reasoning.strategy == "adaptive"
    assert {stage.strategy for stage in config.reasoning.stages} <= {"direct", "static"}


def test_json_has_the_front_the_choice_and_its_rivals(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["cascade", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["searched"] + found["held_out"] == 60
    costs, accuracies = ([point[key] for point in found["front"]] for key in ("cost", "accuracy"))
    assert costs == sorted(costs)
    assert accuracies == sorted(accuracies)
    assert found["best"]["accuracy"] >= accuracies[-1] - GAIN
    assert all(0 <= kept <= 10 for kept in found["best"]["kept"])
    assert len(found["best"]["kept"]) == len(found["best"]["stages"]) == len(found["reasoning"]["stages"])
    assert found["measured"]["ahead"]["value"] == 0
    rivals = [each for each in found["alone"] if each["stages"][0]["variant"] == "long"]
    assert [each["stages"][0]["n"] for each in rivals][-1] == 8
    assert all(each["solved"]["low"] <= each["solved"]["value"] <= each["solved"]["high"] for each in found["alone"])


def test_limits_choose_on_the_front(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main(["cascade", str(run), "--json", "--max-cost", "40"])
    assert json.loads(capsys.readouterr().out)["best"]["cost"] <= 40
    command_line.main(["cascade", str(run), "--json", "--min-accuracy", "0.6"])
    found = json.loads(capsys.readouterr().out)
    assert found["best"]["accuracy"] >= 0.6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cost", "price"], "report no price; choose another --cost"),
        (["--cost", "seconds"], "none of tokens, flops, price"),
        (["--max-cost", "1"], "the cheapest costs"),
        (["--min-accuracy", "1.1"], "ask for that"),
    ],
)
def test_what_cannot_be_found_is_one_sentence(run: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["cascade", str(run), *arguments]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert says in written.err


def test_a_run_without_votes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder.open(str(tmp_path), "single")
    write_traces(folder, TRACES, [])
    data = {"name": "single", "tasks": "arithmetic", "variants": {"single": None, "early": {"n": 4, "temperature": 1, "stop_early": 0.9}}}
    folder.write_text(CONFIG, dump(validate(EvaluateConfig, data, "the test")))
    assert command_line.main(["cascade", str(tmp_path / "single")]) == 2
    said = capsys.readouterr().err
    assert "early is left out" in said
    assert "no variant has several samples" in said
    assert command_line.main(["cascade", str(tmp_path / "none")]) == 2


def test_halves_are_by_the_id_alone() -> None:
    halves = [is_searched(f"arithmetic-{i}") for i in range(1000)]
    assert 400 < sum(halves) < 600
