"""Screening: which plans and solutions of a teacher are learned from, and that a collection trains a student end to end."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cleave.collection import Collection
from cleave.config.base import validate
from cleave.config.collect import CollectConfig
from cleave.config.distill import DistillConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.config.screening import CollectionConfig
from cleave.errors import ConfigError, DataError
from cleave.runs import RunFolder
from cleave.screening import Counts, Screen, attempts, screened
from cleave.tasks.reference.task import reference_task
from cleave.traces import ScoredTrace
from cleave.types import Plan, Problem, Solution, SolutionStep, Step, Trace
from pipelines.collect import main as collect
from pipelines.screened import collected
from tests.scripted import record

GOOD, BAD = Plan((Step(1, "What is two and two?"),)), Plan((Step(1, "What is three and three?"),))
PROBLEM = Problem("p", "What is 2 + 2?", answer="4", task="own", gold_plan=BAD)


def solution(answer: str | None) -> Solution:
    return Solution((SolutionStep(1, f"2 + 2 = {answer}", str(answer)),), answer, f"1. 2 + 2 = {answer}")


def row(plans: tuple[Plan, ...], *answers: str | None, problem: Problem = PROBLEM) -> ScoredTrace:
    return ScoredTrace("teacher", "own", 0, Trace(problem, "static", plans=plans, solutions=tuple(map(solution, answers))))


def equal(problem: Problem, answer: str) -> bool:
    return answer == problem.answer


def kept(trace: ScoredTrace, **rules: Any) -> list[tuple[Plan | None, str | None]]:
    return [(problem.gold_plan, problem.answer) for problem in screened([trace], Screen(**rules), equal)]


def test_all_keeps_every_plan_with_its_first_solution() -> None:
    assert kept(row((GOOD, BAD), "5", "4"), keep="all") == [(GOOD, "5"), (BAD, "4")]
    assert kept(row((GOOD,)), keep="all") == [(GOOD, None)]


def test_answered_keeps_plans_that_led_to_the_answer_and_the_solution_that_did() -> None:
    assert kept(row((GOOD, BAD), "5", "4")) == [(BAD, "4")]
    assert kept(row((GOOD,), "5", "6")) == []


def test_a_second_chance_is_a_later_solution_of_the_same_plan() -> None:
    assert kept(row((GOOD,), "5", "4")) == [(GOOD, "4")]
    assert kept(row((GOOD,), "5", "4"), second_chance=False) == []
    assert kept(row((GOOD,), "4", "5"), second_chance=False) == [(GOOD, "4")]


def test_the_solution_that_was_sampled_most_often_may_stand_for_its_plan() -> None:
    once, often = (Solution((SolutionStep(1, text, "4"),), "4", text) for text in ("2 x 2 = 4", "2 + 2 = 4"))
    wrong = solution("5")
    rare, tie, alone = ((once, wrong, often, wrong, wrong, often), (once, often), (wrong, once))
    for solutions, chosen in ((rare, often), (tie, once), (alone, once)):
        trace = ScoredTrace("teacher", "own", 0, Trace(PROBLEM, "static", plans=(GOOD,), solutions=solutions))
        (problem,) = screened([trace], Screen(prefer="most_often"), equal)
        assert problem.gold_steps == chosen.steps
        (problem,) = screened([trace], Screen(), equal)
        assert problem.gold_steps == once.steps
    assert kept(row((GOOD,), "5", "5"), prefer="most_often") == []


@pytest.mark.parametrize("other", [{"keep": "all"}, {"second_chance": False}, {"reconstruction": {"model": "reference:base"}}])
def test_a_preference_needs_right_solutions_to_choose_among(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="prefer"):
        validate(CollectionConfig, {"path": "runs/teacher", "prefer": "most_often", **other}, "test")


def test_gold_answers_replace_the_conclusion_and_keep_the_steps() -> None:
    (problem,) = screened([row((GOOD,), "5")], Screen("all", "gold"), equal)
    assert (problem.answer, problem.gold_steps) == ("4", solution("5").steps)


def test_equal_plans_are_one_attempt_with_all_their_solutions() -> None:
    trace = row((GOOD, BAD, GOOD), "1", "2", "3").trace
    assert [(plan, [each.answer for each in solutions]) for plan, solutions in attempts(trace)] == [(GOOD, ["1", "3"]), (BAD, ["2"])]


def test_strategies_without_plans_are_screened_by_their_solutions() -> None:
    assert kept(row((), "5", "4")) == [(None, "4")]


def test_counts_say_why_attempts_were_left_out() -> None:
    counts = Counts()
    unlabelled = replace(PROBLEM, answer=None)
    rows = [row((GOOD,), "4"), row((GOOD,), "5"), row((GOOD,), None), row((GOOD,), "4", problem=unlabelled), row((), problem=PROBLEM)]
    assert len(list(screened(rows, Screen(), equal, counts))) == 1
    assert (counts.traces, counts.plans, counts.kept) == (5, 5, 1)
    assert dict(counts.rejected) == {"wrong answer": 1, "no answer": 2, "no gold answer": 1}
    assert counts.share == 0.2


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 traces of a scripted teacher that is wrong every third time."""
    folder = tmp_path_factory.mktemp("collections")
    problems = list(reference_task("lookup").problems("train", limit=40))
    record(folder / "calls.jsonl", problems, [ReasoningConfig()])
    role = {"model": f"recorded:{folder / 'calls.jsonl'}", "prompts": "reference-v1"}
    data = {
        "name": "teacher",
        "storage_path": str(folder),
        "backend": "inline",
        "tasks": [{"task": "lookup", "problems": 40}],
        "roles": {"decomposer": role, "solver": role},
        "leakage": {"problems": 50},
    }
    assert collect(validate(CollectConfig, data, "test")) == 0
    return folder / "teacher"


def test_a_share_of_the_problems_is_held_out_and_never_trained_on(collection: Path) -> None:
    task = reference_task("lookup")
    shelves = collected(CollectionConfig(path=str(collection), keep="all", held_out=0.4), "lookup", task)
    assert shelves.held_out is not None
    trained, held = ({p.id for p in shelf.problems(0, random.Random(0))} for shelf in (shelves.trained, shelves.held_out))
    assert not trained & held
    assert len(trained | held) == 40
    assert 8 <= len(held) <= 24
    answered = collected(CollectionConfig(path=str(collection), held_out=0.4), "lookup", task)
    assert {p.id for p in answered.trained.problems(0, random.Random(0))} < trained


@pytest.mark.parametrize(
    ("changes", "label", "message"),
    [
        ({"recipe": "nobody"}, "lookup", "has no recipe nobody; there are "),
        ({}, "chess", "has no traces of chess"),
        ({"path": "nowhere"}, "lookup", "there is no run folder at nowhere"),
    ],
)
def test_what_is_not_there_is_said(collection: Path, changes: dict[str, Any], label: str, message: str) -> None:
    config = CollectionConfig.model_validate({"path": str(collection)} | changes)
    with pytest.raises((ConfigError, DataError), match=message):
        collected(config, label, reference_task("lookup"))


def test_a_collection_that_is_rejected_whole_says_why(tmp_path: Path) -> None:
    there = Collection(RunFolder.open(str(tmp_path), "bad"))
    recipe = there.register({"teacher": "bad"})
    there.write(recipe, "rows", [row((GOOD,), "5"), row((GOOD,), None)])
    with pytest.raises(DataError, match=r"none of 2 attempts at own were kept \(1 wrong answer, 1 no answer\)"):
        collected(CollectionConfig(path=str(tmp_path / "bad")), "own", reference_task("lookup"))


@pytest.mark.parametrize("max_in_memory", [200_000, 5])
def test_a_student_learns_from_a_collection(max_in_memory: int, collection: Path, tmp_path: Path) -> None:
    from pipelines.distill import main

    data = {
        "name": "student",
        "role": "decomposer",
        "source": "collection",
        "collection": {"path": str(collection), "held_out": 0.2, "max_in_memory": max_in_memory},
        "tasks": ["lookup"],
        "init": {
            "fresh": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
            }
        },
        "train": {"max_steps": 3, "per_device_train_batch_tokens": 300, "gradient_accumulation_steps": 1, "logging_steps": 1},
        "evaluation": {"eval_steps": 2, "examples": 4, "generate": 1, "max_new_tokens": 4},
        "storage_path": str(tmp_path),
    }
    assert main(validate(DistillConfig, data, "test")) == 0
    manifest = json.loads((tmp_path / "student" / "manifest.json").read_text())
    assert manifest["screening"]["lookup"]["traces"] == 40
    assert 0 < manifest["screening"]["lookup"]["kept"] < 40
    card = (tmp_path / "student" / "checkpoint" / "README.md").read_text()
    assert str(collection) in card


def test_source_and_section_belong_together() -> None:
    fresh = {"name": "x", "role": "solver", "tasks": ["lookup"], "init": {"fresh": {}}}
    for wrong in ({"source": "collection"}, {"collection": {"path": "runs/teacher"}}):
        with pytest.raises(ConfigError, match="belong together"):
            validate(DistillConfig, fresh | wrong, "test")
