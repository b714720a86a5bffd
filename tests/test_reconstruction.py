"""The screen for spurious traces: what a reconstructor learns, what it chooses, that it is asked once, and mistakes with remedies."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cleave.collection import Collection
from cleave.config.base import validate
from cleave.config.distill import DistillConfig
from cleave.config.screening import CollectionConfig, ReconstructionConfig
from cleave.errors import ConfigError, DataError, GenerationError, StorageError
from cleave.likelihoods import Likelihoods, key_of
from cleave.plans import parse_plan
from cleave.prompts import load_prompts
from cleave.runs import RunFolder
from cleave.screening import Counts, Ranking, Screen, rivals, screened
from cleave.solutions import render_solution
from cleave.tasks.reference import reference_task
from cleave.traces import ScoredTrace
from cleave.types import Completion, Problem, Prompt, Solution, SolutionStep, Trace
from pipelines import reconstruction
from pipelines.formats import write_pair
from pipelines.reconstruction import score_task, unranked
from pipelines.reconstructor import UNREADABLE, Reconstructor
from pipelines.screened import collected
from tests.puppet import Puppet, said

PLAN, OTHER = parse_plan("1. How many cats?\n2. What is #1 plus 4?"), parse_plan("1. What is 3 plus 4?")
PROBLEM = Problem("p", "How many pets?", "3 cats and 4 dogs.", answer="7", task="own", gold_plan=PLAN)


def solution(*answers: str) -> Solution:
    return Solution(tuple(SolutionStep(k, f"… = {answer}", answer) for k, answer in enumerate(answers, start=1)), answers[-1])


GOOD, LUCKY, WRONG = solution("3", "7"), solution("2", "7"), solution("3", "8")


def row(*solutions: Solution, problem: Problem = PROBLEM, plans: tuple[Any, ...] = (PLAN,), index: int = 0) -> ScoredTrace:
    return ScoredTrace("teacher", "own", index, Trace(problem, "static", plans=plans, solutions=solutions))


def equal(problem: Problem, answer: str | None) -> bool:
    return answer == problem.answer


def first_step_is(answer: str) -> Ranking:
    """Knows which trace is right."""
    return Ranking(lambda problem: -float(problem.gold_steps[0].answer != answer))


def chosen(trace: ScoredTrace, ranking: Ranking | None, counts: Counts | None = None, **rules: Any) -> list[Any]:
    return [problem.gold_steps for problem in screened([trace], Screen(**rules), equal, counts, ranking)]


class Oracle(Puppet):
    """Finds a question likely where the first step says 3. Counts what it is asked, and can die on the way."""

    def __init__(self, dies_after: int | None = None, value: float = -1.0) -> None:
        super().__init__(lambda prompt, i: "")
        self.asked: list[tuple[str, str]] = []
        self.dies_after, self.value = dies_after, value

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += [(said(prompt), text) for prompt, text in zip(prompts, continuations, strict=True)]
        values = [self.value if "1. … = 3" in said(prompt) else 2 * self.value for prompt in prompts]
        return [Completion(text, logprobs=(value, value)) for text, value in zip(continuations, values, strict=True)]


class OwnTask:
    """The scoring half of a task."""

    name = "own"
    score = staticmethod(equal)


def build(oracle: Oracle) -> Any:
    return lambda config: Reconstructor(config, oracle)


@pytest.fixture
def config(tmp_path: Path, tiny_model_dir: Path) -> CollectionConfig:
    """Six problems: in the first five the lucky trace comes first, the last has one right trace only."""
    there = Collection(RunFolder.open(str(tmp_path), "teacher"))
    problems = [replace(PROBLEM, id=f"p{i}", question=f"How many pets in house {i}?") for i in range(6)]
    rows = [row(*((LUCKY, WRONG, GOOD, LUCKY) if i < 5 else (LUCKY, WRONG)), problem=each, index=i) for i, each in enumerate(problems)]
    there.write(there.register({"teacher": "own"}), "rows", rows)
    reconstructor = {"model": f"hf:{tiny_model_dir}", "prompts": "reference-v3"}
    return CollectionConfig.model_validate({"path": str(tmp_path / "teacher"), "held_out": 0, "reconstruction": reconstructor})


def learned(config: CollectionConfig) -> list[str]:
    """First step's answers of what is learned, by problem."""
    shelf = collected(config, "own", OwnTask()).trained  # type: ignore[arg-type]
    return [problem.gold_steps[0].answer for problem in sorted(shelf.problems(0, random.Random(0)), key=lambda each: each.id)]


def test_the_likelier_of_two_right_traces_is_kept() -> None:
    trace = row(LUCKY, WRONG, GOOD)
    assert chosen(trace, None) == [LUCKY.steps]
    assert chosen(trace, first_step_is("3")) == [GOOD.steps]
    assert chosen(trace, first_step_is("2")) == [LUCKY.steps]
    assert chosen(trace, Ranking(first_step_is("3").likelihood, keep=2)) == [LUCKY.steps, GOOD.steps]


def test_traces_compete_across_plans_and_wrong_answers_do_not_compete() -> None:
    trace = row(LUCKY, WRONG, GOOD, plans=(PLAN, OTHER, OTHER))
    assert chosen(trace, None) == [LUCKY.steps, GOOD.steps]
    counts = Counts()
    assert chosen(trace, first_step_is("3"), counts) == [GOOD.steps]
    assert (counts.plans, counts.kept, dict(counts.rejected)) == (2, 1, {"less likely reason": 1})
    assert chosen(row(WRONG, LUCKY, plans=(PLAN, OTHER)), first_step_is("3")) == [LUCKY.steps]


def test_without_a_second_chance_only_first_solutions_compete() -> None:
    assert chosen(row(LUCKY, GOOD), first_step_is("3"), second_chance=False) == [LUCKY.steps]
    assert chosen(row(WRONG, GOOD), first_step_is("3"), second_chance=False) == []


def test_equally_likely_traces_keep_the_first_and_a_single_one_is_never_ranked() -> None:
    assert chosen(row(LUCKY, GOOD), Ranking(lambda problem: -1.0)) == [LUCKY.steps]

    def nobody(problem: Problem) -> float:
        raise AssertionError

    assert chosen(row(WRONG, LUCKY, LUCKY), Ranking(nobody)) == [LUCKY.steps]
    assert chosen(row(LUCKY, GOOD), Ranking(nobody, keep=2)) == [LUCKY.steps, GOOD.steps]


def test_rivals_are_what_a_ranking_will_ask_for() -> None:
    asked: list[Problem] = []

    def likelihood(problem: Problem) -> float:
        asked.append(problem)
        return 0.0

    rows = [row(LUCKY, WRONG, GOOD, LUCKY), row(GOOD), row(WRONG, WRONG), row(LUCKY, GOOD, plans=(PLAN, OTHER))]
    list(screened(rows, Screen(), equal, None, Ranking(likelihood)))
    assert list(rivals(rows, Screen(), equal, 1)) == asked
    assert len(asked) == 4


def test_a_reconstructor_reads_the_trace_and_learns_the_question_with_its_context() -> None:
    prompts = load_prompts("reference-v3")
    for problem in reference_task("reading").problems("train", 5):
        pair = write_pair(prompts, {"reconstruct": 1.0}, problem, random.Random(0))
        assert pair is not None
        assert problem.gold_plan is not None
        solved = render_solution(problem.gold_steps, problem.answer or "")
        assert pair.prompt.text == f"Plan:\n{problem.gold_plan.text}\nSolution:\n{solved}\nQuestion:\n"
        assert pair.target == f"{problem.context}\n{problem.question}\n"
        assert not pair.learn_prompt
    assert write_pair(prompts, {"reconstruct": 1.0}, replace(problem, gold_steps=()), random.Random(0)) is None


@pytest.mark.parametrize("name", ["reference", "instruct"])
def test_the_third_version_of_the_prompts_only_adds(name: str) -> None:
    old, new = load_prompts(f"{name}-v2").templates.model_dump(), load_prompts(f"{name}-v3").templates.model_dump()
    assert {key for key in new if old[key] != new[key]} == {"name", "reconstruct"}
    asked = said(load_prompts(f"{name}-v3").reconstruct(PLAN, GOOD.steps, "7"))
    assert PLAN.text in asked
    assert render_solution(GOOD.steps, "7") in asked
    assert PROBLEM.question not in asked


def test_other_prompts_cannot_ask_for_a_question() -> None:
    with pytest.raises(ConfigError, match=r"reference-v1 cannot ask .*; use reference-v3 or instruct-v3"):
        load_prompts("reference-v1").reconstruct(PLAN, GOOD.steps, "7")


def test_screening_without_it_is_unchanged(config: CollectionConfig) -> None:
    assert learned(config.model_copy(update={"reconstruction": None})) == ["2"] * 6


def test_the_right_trace_is_learned_and_the_model_is_asked_once(config: CollectionConfig) -> None:
    oracle = Oracle()
    score_task(config, "own", OwnTask(), build(oracle))  # type: ignore[arg-type]
    assert len(oracle.asked) == 10, "two different right traces of each of five problems; the sixth has no rival"
    assert oracle.asked[0][1] == "3 cats and 4 dogs.\nHow many pets in house 0?\n"
    assert oracle.closed == 1
    assert learned(config) == ["3"] * 5 + ["2"]
    shelves = collected(config, "own", OwnTask())  # type: ignore[arg-type]
    assert dict(shelves.counts.rejected) == {"less likely reason": 5}

    def nobody(config: ReconstructionConfig) -> Reconstructor:
        raise AssertionError("everything is stored")

    score_task(config, "own", OwnTask(), nobody)  # type: ignore[arg-type]


def test_a_scoring_that_was_killed_goes_on(config: CollectionConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "GROUP", 3)
    first, second = Oracle(dies_after=6), Oracle()
    with pytest.raises(KeyboardInterrupt):
        score_task(config, "own", OwnTask(), build(first))  # type: ignore[arg-type]
    score_task(config, "own", OwnTask(), build(second))  # type: ignore[arg-type]
    assert (len(first.asked), len(second.asked)) == (6, 4)
    assert not set(first.asked) & set(second.asked)
    assert learned(config) == ["3"] * 5 + ["2"]


def test_a_collection_that_grew_is_scored_again_and_said_otherwise(config: CollectionConfig) -> None:
    score_task(config, "own", OwnTask(), build(Oracle()))  # type: ignore[arg-type]
    there = Collection(RunFolder.at(config.path))
    there.write(there.only_recipe(), "more", [row(LUCKY, GOOD, problem=replace(PROBLEM, id="p9", question="And house 9?"))])
    with pytest.raises(DataError, match=r"a trace of problem 'p9' .* run the same command again"):
        learned(config)
    oracle = Oracle()
    score_task(config, "own", OwnTask(), build(oracle))  # type: ignore[arg-type]
    assert len(oracle.asked) == 2
    assert learned(config)[-1] == "3"


def test_another_reconstructor_has_its_own_place(config: CollectionConfig, tmp_path: Path, tiny_model_dir: Path) -> None:
    import shutil

    from pipelines.screened import likelihoods_of

    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)

    def place(**changes: str) -> str:
        assert config.reconstruction is not None
        data = config.reconstruction.model_dump() | changes
        section = ReconstructionConfig.model_validate(data)
        return likelihoods_of(config.model_copy(update={"reconstruction": section}), config.path).place

    assert place(model=f"hf:{other}") == place(), "the same weights elsewhere"
    (other / "generation_config.json").write_text('{"max_new_tokens": 5}')
    assert place(model=f"hf:{other}") != place()
    assert place(prompts="instruct-v3") != place()


def test_traces_that_are_too_long_to_be_read_are_chosen_last(tiny_model_dir: Path) -> None:
    section = ReconstructionConfig.model_validate(
        {"model": {"short": f"hf:{tiny_model_dir}", "max_model_len": 150}, "prompts": "reference-v3"}
    )
    short = replace(PROBLEM, gold_steps=GOOD.steps)
    long = replace(short, gold_steps=(*GOOD.steps, SolutionStep(3, "x" * 200, "7")))
    reconstructor = Reconstructor(section)
    one, two, three = reconstructor.likelihoods([short, long, short])
    reconstructor.close()
    assert two == UNREADABLE < one == pytest.approx(three)
    assert -10 < one < 0, "a random model over 258 tokens"


def test_a_probability_that_is_not_finite_is_an_error() -> None:
    section = ReconstructionConfig.model_validate({"model": "hf:nowhere", "prompts": "reference-v3"})
    with pytest.raises(GenerationError, match="not finite; train it again"):
        Reconstructor(section, Oracle(value=float("nan"))).likelihoods([replace(PROBLEM, gold_steps=GOOD.steps)])


def test_stored_likelihoods_come_back_and_a_broken_file_is_named(tmp_path: Path) -> None:
    store = Likelihoods(RunFolder.open(str(tmp_path), "c"), {"model": "abc"})
    a, b = (key_of(replace(PROBLEM, gold_steps=each.steps)) for each in (GOOD, LUCKY))
    store.write({a: -0.25})
    store.write({b: UNREADABLE})
    assert store.load() == {a: -0.25, b: UNREADABLE}
    assert json.loads((tmp_path / "c" / store.place / "made_with.json").read_text()) == {"model": "abc"}
    (tmp_path / "c" / store.place / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=r"broken\.parquet .* delete it and run again"):
        store.load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": "all"}, "set keep: answered, or remove reconstruction"),
        ({"reconstruction": {"model": "openai:gpt@http://localhost/v1"}}, "gives no probability of a given text"),
        ({"reconstruction": {"model": "hf:x", "keep": 0}}, "greater than 0"),
    ],
)
def test_what_cannot_rank_is_refused(changes: dict[str, Any], message: str) -> None:
    data = {
        "name": "x",
        "role": "solver",
        "source": "collection",
        "tasks": ["lookup"],
        "init": {"fresh": {}},
        "collection": {"path": "runs/teacher", "reconstruction": {"model": "hf:x"}} | changes,
    }
    with pytest.raises(ConfigError, match=message):
        validate(DistillConfig, data, "test")


def test_a_student_learns_from_what_a_reconstructor_chose(config: CollectionConfig, tmp_path: Path, tiny_model_dir: Path) -> None:
    """End to end: a reconstructor is trained on the collection, asked before the student's training, and not at a dry run."""
    from pipelines.distill import check, main

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    data = {
        "name": "reconstructor",
        "role": "general",
        "source": "collection",
        "collection": {"path": config.path, "held_out": 0},
        "prompts": "reference-v3",
        "formats": {"reconstruct": 1.0},
        "tasks": [{"task": {"name": "arithmetic"}, "label": "own"}],
        "init": {"fresh": shape},
        "train": {"max_steps": 2, "per_device_train_batch_tokens": 300, "gradient_accumulation_steps": 1, "report_to": []},
        "evaluation": {"examples": 0},
        "storage_path": str(tmp_path),
    }
    assert main(validate(DistillConfig, data, "test")) == 0
    section = {"model": f"hf:{tmp_path}/reconstructor/checkpoint"}  # its prompts are those it was trained with
    student = data | {"name": "student", "role": "solver", "prompts": "reference-v1", "formats": {"single": 1.0}}
    student["collection"] = {"path": config.path, "held_out": 0, "reconstruction": section}
    ranked = validate(DistillConfig, student, "test")
    assert unranked(ranked).collection == validate(DistillConfig, data, "test").collection
    assert check(ranked)
    assert not (tmp_path / "teacher" / "reconstruction").exists(), "a look at the data asks no model"
    assert main(ranked) == 0
    assert len(list((tmp_path / "teacher" / "reconstruction").glob("*/*.parquet"))) == 1
    manifest = json.loads((tmp_path / "student" / "manifest.json").read_text())
    assert manifest["screening"]["own"]["rejected"] == {"less likely reason": 5}
