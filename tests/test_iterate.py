"""`cleave iterate`: mixing a student's right samples with its teacher's, the stopping rule, and one whole iteration of two rounds."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cleave.collection import Collection
from cleave.config.base import dump, load, validate
from cleave.config.distill import DistillConfig
from cleave.config.formats import Format
from cleave.config.iterate import IterateConfig
from cleave.config.reasoning import ReasoningConfig
from cleave.config.screening import CollectionConfig
from cleave.errors import ConfigError, DataError
from cleave.runs import RunFolder
from cleave.screening import Counts
from cleave.tasks.reference.task import reference_task
from cleave.traces import ScoredTrace
from cleave.types import Plan, Problem, Solution, Trace
from pipelines.iterate import Part, Round, as_figures, best, claim, end, main, mixture, students
from pipelines.screened import collected, mixed
from tests.scripted import record

LOOKUP = reference_task("lookup")
PROBLEMS = list(LOOKUP.problems("train", limit=12))
SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "rounds",
        "storage_path": str(folder),
        "strategies": {"single": None, "direct": None},
        "collect": {"tasks": [{"task": "lookup", "problems": 12}], "backend": "inline", "leakage": {"problems": 20}},
        "distill": {
            "init": {"fresh": SHAPE},
            "train": {"max_steps": 2, "per_device_train_batch_tokens": 100, "gradient_accumulation_steps": 1},
            "evaluation": {"examples": 0},
            "collection": {"held_out": 0.0},
        },
        "evaluate": {"tasks": [{"task": "lookup", "problems": 4}], "backend": "inline", "report": False},
    } | changes


def config_of(folder: Path, **changes: Any) -> IterateConfig:
    return validate(IterateConfig, settings(folder, **changes), "the test")


def attempt(problem: Problem, right: bool = True, plan: Plan | None = None) -> Trace:
    """A trace without a plan that solves the problem or does not."""
    solution = Solution(problem.gold_steps, problem.answer if right else "nobody", "text")
    return Trace(problem, "single", plans=() if plan is None else (plan,), solutions=(solution,))


def write(folder: Path, label: str, *traces: Trace) -> str:
    """A collection of some traces; returns its folder."""
    collection = Collection(RunFolder.open(str(folder.parent), folder.name))
    recipe = collection.register({"who": folder.as_posix()})
    collection.write(recipe, "rows", [ScoredTrace("teacher", label, i, trace) for i, trace in enumerate(traces)])
    return str(folder)


def ids(parts: dict[str, list[Problem]]) -> list[list[str]]:
    return [[problem.id for problem in part] for part in parts.values()]


# ---- two collections at once


@pytest.fixture
def both(tmp_path: Path) -> Callable[..., CollectionConfig]:
    """The student solved problem 0 of 0 to 2, the teacher 0, 1 and 3."""
    student = write(tmp_path / "student", "lookup", *(attempt(PROBLEMS[k], k == 0) for k in range(3)))
    teacher = write(tmp_path / "teacher", "lookup", *(attempt(PROBLEMS[k]) for k in (0, 1, 3)))

    def config(**changes: Any) -> CollectionConfig:
        return CollectionConfig.model_validate({"path": student, "also": [teacher], "held_out": 0.0} | changes)

    return config


def test_all_is_the_union_and_adaptive_fills_what_the_student_lacks(both: Callable[..., CollectionConfig]) -> None:
    own, teachers = PROBLEMS[0].id, [PROBLEMS[k].id for k in (0, 1, 3)]
    assert ids(mixed(both(), "lookup", LOOKUP)) == [[own], teachers]
    counts = Counts()
    assert ids(mixed(both(mixture="adaptive"), "lookup", LOOKUP, counts=counts)) == [[own], teachers[1:]]
    assert (counts.traces, counts.plans, counts.kept) == (6, 6, 3)
    assert dict(counts.rejected) == {"wrong answer": 2, "solved by another teacher": 1}
    assert collected(both(), "lookup", LOOKUP).counts.kept == 4


def test_what_no_format_can_use_does_not_count_as_solved(both: Callable[..., CollectionConfig]) -> None:
    """The student's solution without a plan teaches nothing about solving along one, so the teacher's stays."""
    plan: list[Format] = ["steps_with_plan"]
    assert len(mixed(both(mixture="adaptive"), "lookup", LOOKUP, plan)[both().also[0]]) == 3
    assert len(mixed(both(mixture="adaptive"), "lookup", LOOKUP, ["single"])[both().also[0]]) == 2


def test_all_samples_of_one_problem_are_kept_together(tmp_path: Path) -> None:
    """Two right plans of the student for one problem do not displace each other."""
    gold = PROBLEMS[0].gold_plan
    assert gold is not None
    other = Plan(gold.steps[:1])
    answer = Solution(PROBLEMS[0].gold_steps, PROBLEMS[0].answer, "text")
    two = Trace(PROBLEMS[0], "static", plans=(gold, other), solutions=(answer, answer))
    path = write(tmp_path / "student", "lookup", two)
    config = CollectionConfig(path=path, also=(write(tmp_path / "teacher", "lookup", two),), mixture="adaptive")
    assert [len(part) for part in mixed(config, "lookup", LOOKUP).values()] == [2, 0]


def test_a_task_may_have_traces_of_its_own(tmp_path: Path, both: Callable[..., CollectionConfig]) -> None:
    def distill(**changes: Any) -> DistillConfig:
        base = {"name": "x", "role": "solver", "source": "collection", "init": {"fresh": SHAPE}}
        return validate(DistillConfig, base | changes, "the test")

    own = {"task": "lookup", "collection": both().model_dump()}
    assert distill(tasks=[own]).tasks[0].collection == both()
    assert distill(tasks=[own, "reading"], collection={"path": "runs/teacher"}).collection == CollectionConfig(path="runs/teacher")
    for wrong in ({"tasks": [own, "reading"]}, {"tasks": [own], "source": "gold"}, {"tasks": ["lookup"]}):
        with pytest.raises(ConfigError, match="belong together"):
            distill(**wrong)


# ---- the config


def test_rounds_are_runs_of_the_programs_that_stand_alone(tmp_path: Path) -> None:
    config = config_of(tmp_path, strategies={"single": None, "plan": {"strategy": "static", "max_steps": 4}}, student={"max_tokens": 99})
    place = f"{tmp_path}/rounds"
    first, later = config.collection(0, "plan"), config.collection(2, "plan", "/checkpoint")
    assert (first.storage_path, first.name) == (f"{place}/round-0", "samples-plan")
    assert (first.reasoning.strategy, first.reasoning.max_steps, first.reasoning.seed) == ("static", 4, 0)
    assert [task.title for task in first.tasks] == ["lookup-plan"]
    assert first.roles == config.teacher
    assert (later.reasoning.seed, later.roles.decomposer) == (2, config.teacher.decomposer)
    assert (later.roles.solver.model.short, later.roles.solver.max_tokens) == ("hf:/checkpoint", 99)
    training = config.training(2, {("lookup", "single"): 30, ("lookup", "plan"): 10}, "/before")
    assert [(mix.title, mix.weight, mix.formats) for mix in training.tasks] == [
        ("lookup-single", 30, {"single": 1.0}),
        ("lookup-plan", 10, {"steps_with_plan": 1.0}),
    ]
    traces = training.tasks[1].collection
    assert traces is not None
    assert (traces.path, traces.also) == (f"{place}/round-2/samples-plan", (f"{place}/round-0/samples-plan",))
    assert (traces.keep, traces.mixture, traces.held_out) == ("answered", "adaptive", 0.0)
    assert training.init.model is not None
    assert (training.init.model.short, training.seed, training.role) == ("hf:/before", 2, "solver")
    evaluation = config.evaluation(2, "/checkpoint")
    assert [(task.task.name, task.split, task.problems) for task in evaluation.tasks] == [("lookup", "validation", 4)]
    assert {name: way.strategy for name, way in evaluation.strategies().items()} == {"single": "single", "plan": "static"}


def test_the_first_round_and_the_control_learn_from_the_teacher_alone(tmp_path: Path) -> None:
    shares = {("lookup", "single"): 3, ("lookup", "direct"): 0}
    for config, number in ((config_of(tmp_path), 0), (config_of(tmp_path, mixture="teacher"), 2)):
        (only,) = config.training(number, shares, "/before" if number else None).tasks
        assert only.collection is not None
        assert (only.collection.path, only.collection.also) == (f"{tmp_path}/rounds/round-0/samples-single", ())
    assert config_of(tmp_path).training(0, shares).init.fresh is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate": {"tasks": [{"task": "lookup", "split": "test"}]}}, "take a validation split, never test"),
        ({"evaluate": {"tasks": [{"task": "lookup", "split": "train"}]}}, "lookup/train is trained on"),
        ({"collect": {"tasks": ["lookup"], "roles": {}}}, r"collect\.roles is filled in by the rounds"),
        ({"student": {"model": "hf:x"}}, r"student\.model is filled in"),
        ({"distill": {"init": {"fresh": SHAPE}, "collection": {"keep": "all"}}}, r"distill\.collection\.keep is filled in"),
        ({"distill": {"init": {"fresh": SHAPE}, "train": {"speed": 1}}}, r"distill\.train\.speed"),
        ({"deciding": "dynamic"}, "'dynamic' is none of the strategies: single, direct"),
        ({"strategies": {"a/b": {"strategy": "single"}}}, "cannot name a strategy"),
        ({"strategies": {"guess": None}}, r"strategies\.guess\.reasoning\.strategy"),
        ({"strategies": {}}, "strategies"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, **changes)


# ---- the rounds


def round_(number: int, right: int, own: int = 0, teacher: int = 10) -> Round:
    parts = (Part("lookup", "single", 3, own, teacher), Part("lookup", "direct", 1, 0, 0))
    return Round(number, f"/round-{number}", parts, {"single": right, "direct": 0}, {"single": 200, "direct": 200})


@pytest.mark.parametrize(
    ("solved", "ended", "winner"),
    [
        ((100,), "", 0),
        ((100, 120), "", 1),
        ((100, 100), "round 1 gained 0.0 points, less than min_gain=0.01", 0),
        ((100, 120, 121), "round 2 gained 0.5 points, less than min_gain=0.01", 2),
        ((100, 120, 90), "round 2 lost 15.0 points, less than min_gain=0.01", 1),
        ((100, 110, 120, 130), "rounds=3", 3),
    ],
)
def test_it_ends_on_a_marginal_gain_or_a_loss(tmp_path: Path, solved: tuple[int, ...], ended: str, winner: int) -> None:
    config = config_of(tmp_path, min_gain=0.01, rounds=3)
    rounds = [round_(number, right) for number, right in enumerate(solved)]
    assert end(config, rounds) == ended
    assert best(config, rounds).number == winner


def test_who_samples_and_where_a_round_starts(tmp_path: Path) -> None:
    rounds = [round_(0, 1), round_(1, 2)]
    assert students(config_of(tmp_path), []) == (None, None)
    assert students(config_of(tmp_path), rounds) == ("/round-1", "/round-1")
    assert students(config_of(tmp_path, start_from="first"), rounds) == ("/round-1", "/round-0")


def test_the_share_of_the_teacher_and_the_histograms(tmp_path: Path) -> None:
    one = round_(1, 100, own=30)
    assert one.alpha == 0.25
    assert one.histogram("right") == {"single": 0.75, "direct": 0.25}
    assert one.histogram("mixture") == {"single": 1.0, "direct": 0.0}
    figures = as_figures(config_of(tmp_path), one)
    assert (figures["alpha"], figures["accuracy"]["single"]["value"]) == (0.25, 0.5)
    assert figures["accuracy"]["single"]["low"] < 0.5 < figures["accuracy"]["single"]["high"]


def test_the_mixture_of_a_round_is_counted(tmp_path: Path) -> None:
    """The student solves 0 and 1 step by step and nothing at once; the teacher 0 to 3, and 4 at once."""
    place = tmp_path / "rounds"
    write(place / "round-1" / "samples-single", "lookup-single", *(attempt(PROBLEMS[k], k < 2) for k in range(5)))
    write(place / "round-1" / "samples-direct", "lookup-direct", *(attempt(PROBLEMS[k], False) for k in range(5)))
    write(place / "round-0" / "samples-single", "lookup-single", *(attempt(PROBLEMS[k], k < 4) for k in range(5)))
    write(place / "round-0" / "samples-direct", "lookup-direct", *(attempt(PROBLEMS[k], k == 4) for k in range(5)))

    def parts(number: int, **changes: Any) -> list[tuple[str, int, int, int]]:
        return [(part.strategy, part.right, part.own, part.teacher) for part in mixture(config_of(tmp_path, **changes), number)]

    assert parts(0) == parts(1, mixture="teacher") == [("single", 4, 0, 4), ("direct", 1, 0, 1)]
    assert parts(1) == [("single", 2, 2, 2), ("direct", 0, 0, 1)]
    assert parts(1, mixture="all") == [("single", 2, 2, 4), ("direct", 0, 0, 1)]
    shutil.rmtree(place)
    for name in ("single", "direct"):
        write(place / "round-0" / f"samples-{name}", f"lookup-{name}", attempt(PROBLEMS[0], False))
    with pytest.raises(DataError, match="so there is nothing to learn"):
        parts(0)


def test_an_iteration_that_was_begun_otherwise_is_refused(tmp_path: Path) -> None:
    folder = claim(config_of(tmp_path))
    assert load(IterateConfig, tmp_path / "rounds" / "config.yaml") == config_of(tmp_path)
    claim(config_of(tmp_path, rounds=9, min_gain=0.1))
    assert "rounds: 9" in folder.read_text("config.yaml")
    with pytest.raises(ConfigError, match="was begun with another mixture"):
        claim(config_of(tmp_path, mixture="all"))


def test_the_shipped_config_dry_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(IterateConfig, root / "configs/iterate/solver.yaml")
    assert main(config, dry_run=True) == 0
    shown = capsys.readouterr()
    assert shown.out == dump(config)
    assert "sample 12 times and train 4 times on 12,000,000 tokens" in shown.err
    control = config.model_copy(update={"mixture": "teacher"})
    assert main(control, dry_run=True, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["samplings"] == 3


@pytest.mark.slow
def test_a_whole_iteration_and_its_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The student is the shipped solver, trained for a step at a rate of nearly 0: it solves step by step and not at once, so round 1
    keeps its own steps, and the teacher's direct answers."""
    record(tmp_path / "calls.jsonl", PROBLEMS, [ReasoningConfig(strategy="single"), ReasoningConfig(strategy="direct")])
    scripted = {"model": f"recorded:{tmp_path / 'calls.jsonl'}", "prompts": "reference-v1"}
    changes = settings(tmp_path, teacher={"decomposer": scripted, "solver": scripted}, rounds=2, min_gain=0.0, student={"max_tokens": 80})
    changes["distill"] |= {"init": {"model": "reference:solver"}}
    changes["distill"]["train"] |= {"max_steps": 1, "learning_rate": 1e-9}
    config = validate(IterateConfig, changes, "the test")
    assert main(config, as_json=True) == 0
    out = capsys.readouterr().out
    result = json.loads(out)
    zero, one = result["rounds"][:2]
    assert [zero["alpha"], zero["number"], one["number"]] == [1.0, 0, 1]
    (single, direct) = one["parts"]
    assert (single["right"], direct["right"]) == (12, 0)
    assert (single["own"], single["teacher"], direct["own"]) == (12, 0, 0)
    assert direct["teacher"] == zero["parts"][1]["teacher"] > 0
    assert one["alpha"] == pytest.approx(direct["teacher"] / (12 + direct["teacher"]))
    assert one["accuracy"]["single"]["value"] == 1.0
    assert Path(result["checkpoint"], "cleave.json").is_file()

    place = tmp_path / "rounds" / "round-1"
    times = {path: path.stat().st_mtime_ns for path in place.rglob("*.safetensors")}
    assert main(config, as_json=True) == 0
    assert capsys.readouterr().out == out
    (place / "result.json").unlink()  # stopped while it was measured
    shutil.rmtree(place / "evaluation")
    assert main(config, as_json=True) == 0
    assert capsys.readouterr().out == out
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*.safetensors")} == times != {}


def test_traces_of_other_labels_are_not_mixed_in(tmp_path: Path) -> None:
    path = write(tmp_path / "teacher", "lookup-single", attempt(replace(PROBLEMS[0])))
    assert ids(mixed(CollectionConfig(path=path), "lookup-direct", LOOKUP)) == [[]]
