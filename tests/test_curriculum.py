"""Curricula in training: what a sampler is told, exact resumes, skills of a distill config, stages measured, mistakes with remedies."""

import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from cleave.callbacks import EvaluateEvery, EvaluateStages, progress_line
from cleave.curriculum.admission import LossGate
from cleave.curriculum.missing_skills import MissingSkills
from cleave.curriculum.mixed_sampler import MixedSampler
from cleave.curriculum.observer import Observer
from cleave.curriculum.sampler import Observation, ShuffledSource, StagedSampler
from cleave.errors import CleaveError, ConfigError, DataError
from cleave.examples import Example
from cleave.heldout import HeldOut, SkillAccuracy, look_at
from cleave.lm.checkpoint import load_checkpoint
from cleave.objectives import CrossEntropy
from cleave.stream import StepStream
from cleave.tasks.reference import reference_task
from cleave.training import RoleTrainer
from pipelines.assembly import build_data, build_sampler
from pipelines.distill import check, main
from pipelines.skills import Part, skills_of
from pipelines.sources import Shelf, Stream
from pipelines.start import load_tokenizer
from tests.test_distill import make_config
from tests.test_samplers import SKILLS, equal_shares
from tests.test_training import STEPS, VOCABULARY, StopAt, make_model, make_trainer, weights

# ---- what training tells


def real_examples(count: int = 90) -> list[Example]:
    """Of three skills; tokens are random, but skill `a` says the same each time and can be learned."""
    rng = random.Random(0)
    examples = []
    for k in range(count):
        skill, size = SKILLS[k % 3], rng.randint(4, 12)
        ids = tuple(5 if skill == "a" else rng.randrange(2, VOCABULARY) for _ in range(size))
        examples.append(Example(ids, tuple(j >= 2 for j in range(size)), problem_id=f"{skill}{k}", skill=skill, depth=k % 4))
    return examples


def listening_stream(tokens: int = 100, accumulation: int = 1, every: int = 2, **options: Any) -> StepStream:
    sources = {skill: ShuffledSource([e for e in real_examples() if e.skill == skill]) for skill in SKILLS}
    sampler = MixedSampler(sources, MissingSkills(equal_shares(), every=every), total_tokens=10_000, gates=[LossGate(0.01, None)])
    return StepStream(sampler, batch_tokens=tokens, accumulation=accumulation, max_length=64, **options)


def listening_trainer(folder: Path, stream: StepStream, accumulation: int = 1, callbacks: Sequence[TrainerCallback] = ()) -> RoleTrainer:
    trainer = make_trainer(folder, stream, accumulation)
    trainer.add_callback(Observer(stream, trainer.objective))  # type: ignore[arg-type]
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


class Heard:
    """A sampler that remembers what it is told."""

    def __init__(self, stream: StepStream) -> None:
        self.steps: list[list[Observation]] = []
        stream.sampler.observe = self.steps.append  # type: ignore[method-assign]


def test_observations_are_what_the_model_makes_of_each_example(tmp_path: Path) -> None:
    stream = listening_stream()
    heard = Heard(stream)
    model = make_model().eval()  # the weights before the first step
    listening_trainer(tmp_path, stream).fit()
    assert len(heard.steps) == STEPS
    first = {(one.problem_id, round(one.loss, 4), one.solved) for one in heard.steps[0]}
    examples = [example for example in real_examples() if example.problem_id in {name for name, _, _ in first}]
    assert first == {(one.example.problem_id, round(one.loss, 4), one.solved) for one in look_at(model, examples)}
    assert {one.skill for one in heard.steps[0]} == set(SKILLS)
    assert any(one.solved for one in heard.steps[-1]), "what is always the same is learned"
    assert all(one.skill == "a" for one in heard.steps[-1] if one.solved)


@pytest.mark.parametrize(("tokens", "accumulation", "packing"), [(25, 4, False), (50, 2, True)])
def test_observations_do_not_depend_on_how_a_step_is_cut(tmp_path: Path, tokens: int, accumulation: int, packing: bool) -> None:
    known = []
    for name, stream in (("whole", listening_stream()), ("cut", listening_stream(tokens, accumulation, packing=packing))):
        heard = Heard(stream)
        listening_trainer(tmp_path / name, stream, stream.passes).fit()
        known.append([sorted((one.problem_id, one.loss, one.solved) for one in step) for step in heard.steps])
    for whole, cut in zip(*known, strict=True):
        assert [name for name, _, _ in whole] == [name for name, _, _ in cut]
        assert [loss for _, loss, _ in whole] == pytest.approx([loss for _, loss, _ in cut], abs=1e-3)


def test_workers_hear_the_whole_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has zeros where it did not look, so that the sum over workers is what one worker alone would have heard."""
    model, objective = make_model(), CrossEntropy()
    shares: list[torch.Tensor] = []
    monkeypatch.setattr("cleave.curriculum.observer.reduce", lambda sums, reduction: shares.append(sums) or sum(shares[:2]))
    heard = []
    for rank in (0, 1, 0):  # the last has both shares to add
        stream = listening_stream(50, rank=rank, world_size=2)
        one = Heard(stream)
        observer = Observer(stream, objective)
        batch = next(iter(stream))
        observer.on_step_begin(None, None, None)
        objective.loss(model, batch, 0)
        observer.on_step_end(type("Arguments", (), {"world_size": 2})(), None, None)  # type: ignore[arg-type]
        heard.append(one.steps[0])
    alone = listening_stream(100)
    list(itertools.islice(alone, 1))
    assert [one.problem_id for one in heard[2]] == [example.problem_id for example in stream.step]
    assert sorted(one.problem_id for one in heard[2]) == sorted(example.problem_id for example in alone.step)
    assert len(heard[0]) < len(heard[2])


def test_held_out_examples_are_not_mistaken_for_training(tmp_path: Path, tiny_tokenizer: Any) -> None:
    stream = listening_stream()
    heard = Heard(stream)
    trainer = listening_trainer(tmp_path, stream, callbacks=[EvaluateEvery(1)])
    trainer.measure = HeldOut(real_examples(6), trainer.objective, tiny_tokenizer, generate=0)
    trainer.fit()
    assert all(len(step) == len({one.problem_id for one in step}) for step in heard.steps)
    assert sum(map(len, heard.steps)) < 6 * 20


@pytest.mark.parametrize("stop", [3, 4])
def test_a_killed_run_with_a_listening_sampler_resumes_to_the_same_weights(tmp_path: Path, stop: int) -> None:
    whole = listening_trainer(tmp_path / "whole", listening_stream())
    whole.fit()
    with pytest.raises(KeyboardInterrupt):
        listening_trainer(tmp_path / "killed", listening_stream(), callbacks=[StopAt(stop)]).fit()
    resumed = listening_trainer(tmp_path / "killed", listening_stream())
    assert resumed.fit()
    torch.testing.assert_close(weights(resumed), weights(whole), atol=1e-6, rtol=0)
    assert json.dumps(resumed.stream.state_dict()) == json.dumps(whole.stream.state_dict())


def test_reading_a_target_right_is_what_greedy_decoding_needs(tiny_model_dir: Path) -> None:
    """Solved without decoding, if and only if decoding gives the target."""
    loaded = load_checkpoint(str(tiny_model_dir))
    rng = random.Random(0)
    examples = []
    for k in range(8):
        prompt = [rng.randrange(2, 200) for _ in range(4)]
        reply = loaded.model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False)[0, 4:].tolist()
        if k % 2:
            reply[k % len(reply)] += 1
        examples.append(
            Example((*prompt, *reply), (False,) * 4 + (True,) * len(reply), problem_id=str(k), skill="even" if k % 2 == 0 else "odd")
        )
    by_decoding = HeldOut(examples, CrossEntropy(), loaded.tokenizer, generate=8, max_new_tokens=5)(loaded.model)["exact_match"]
    by_skill = {skill: [e for e in examples if e.skill == skill] for skill in ("even", "odd")}
    measured = SkillAccuracy(by_skill, pad_id=0, finished=lambda: 2)(loaded.model)
    assert measured == {"exact_match/even": 1.0, "exact_match/odd": 0.0, "stages": 2}
    assert by_decoding == 0.5


def test_stages_are_evaluated_when_they_end() -> None:
    progress = 0.0
    callback = EvaluateStages(lambda: progress, (0.25, 0.5, 1.0))
    asked = []
    for step in range(1, 11):
        progress = step / 10
        control: Any = type("Control", (), {"should_evaluate": False})()
        if step == 1:
            callback.on_train_begin(None, None, control)  # type: ignore[arg-type]
        callback.on_step_end(None, type("State", (), {"global_step": step, "max_steps": 10})(), control)  # type: ignore[arg-type]
        asked += [(step, callback.finished())] if control.should_evaluate else []
    assert asked == [(3, 1), (5, 2)]


def test_single_skills_are_for_the_file_not_for_the_progress_line() -> None:
    line = progress_line({"step": 3, "eval_loss": 1.5, "eval_exact_match/a": 0.5, "eval_stages": 1}, 9)
    assert line == "step 3 held out: loss 1.5  stages 1"


# ---- a distill config


def test_depths_are_made_to_order_or_picked_out() -> None:
    config = make_config(Path("."), tasks=["arithmetic", "reading"], curriculum={"skills": "depth"})
    made = {}
    for mix in config.tasks:
        task = reference_task(mix.task.name)
        made |= {skill.name: skill for skill in skills_of(config.curriculum, mix, Stream(task, "train"), Stream(task, "validation"))}
    assert list(made) == ["arithmetic/1", "arithmetic/2", "arithmetic/3", "arithmetic/4", "reading/2", "reading/3"]
    for name, skill in made.items():
        for supply in (skill.trained, skill.held_out):
            assert supply is not None
            problems = list(itertools.islice(supply.problems(0, random.Random(0)), 40))
            assert {problem.depth for problem in problems} == {int(name.partition("/")[2])}
    assert sum(skill.weight for name, skill in made.items() if name.startswith("reading")) == pytest.approx(1.0)
    assert made["arithmetic/1"].weight == pytest.approx(0.25, abs=0.04)


def test_a_finite_task_is_divided_without_rest() -> None:
    problems = list(reference_task("reading").problems("train", 300))
    config = make_config(Path("."), tasks=["reading"], curriculum={"skills": "skill"})
    skills = skills_of(config.curriculum, config.tasks[0], Shelf("shelf", problems), None)
    parts = [[problem.id for problem in skill.trained.problems(0, random.Random(0))] for skill in skills]
    assert sorted(name for part in parts for name in part) == sorted(problem.id for problem in problems)
    assert [skill.name for skill in skills] == sorted({f"reading/{problem.skills[0]}" for problem in problems})
    assert [skill.weight for skill in skills] == pytest.approx([len(part) / 300 for part in parts])


def test_examples_carry_the_name_of_their_skill(tmp_path: Path) -> None:
    config = make_config(tmp_path, curriculum={"skills": "depth"}, evaluation={"examples": 4, "skill_examples": 5})
    data = build_data(config, load_tokenizer(None))
    assert list(data.sources) == ["lookup/2", "lookup/3", "arithmetic/1"]
    for name, source in data.sources.items():
        examples = source.examples(5)
        assert {example.skill for example in examples} == {name}
        assert {len(some) for some in data.skills.values()} == {5}
        assert not {e.input_ids for e in examples} & {e.input_ids for e in data.skills[name]}


def test_without_a_curriculum_nothing_changes(tmp_path: Path) -> None:
    """The same sources, sampler and first examples as ever, but for a curriculum that only shuffles tasks, which draws alike."""
    tokenizer = load_tokenizer(None)
    plain, shuffled = make_config(tmp_path), make_config(tmp_path, curriculum={})
    samplers = [build_sampler(config, build_data(config, tokenizer), 1) for config in (plain, shuffled)]
    assert isinstance(samplers[0], StagedSampler)
    assert not samplers[0].listens
    first, second = (list(itertools.islice(sampler, 60)) for sampler in samplers)
    assert [example.input_ids for example in first] == [example.input_ids for example in second]


SMALL = {"examples": 4, "generate": 0, "eval_steps": 100, "skill_examples": 3}
TRAIN = {"max_steps": 6, "per_device_train_batch_tokens": 300, "gradient_accumulation_steps": 1, "save_steps": 3, "logging_steps": 1}


def measured(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "eval_stages" in row]


def test_a_staged_training_measures_every_skill_after_every_stage(tmp_path: Path) -> None:
    curriculum = {"skills": "depth", "mixture": "ordered", "order": ["arithmetic/1", "lookup/3", "lookup/2"]}
    assert main(make_config(tmp_path, curriculum=curriculum, evaluation=SMALL, train=TRAIN)) == 0
    rows = measured(tmp_path / "tiny")
    assert [(row["step"], row["eval_stages"]) for row in rows] == [(2, 1), (4, 2), (6, 3)]
    names = {name for row in rows for name in row if name.startswith("eval_exact_match/")}
    assert names == {f"eval_exact_match/{skill}" for skill in curriculum["order"]}
    result = json.loads((tmp_path / "tiny" / "result.json").read_text())
    assert {"average_accuracy", "forgetting", "f_score"} <= set(result)
    drawing = (tmp_path / "tiny" / "skills.svg").read_text()
    assert drawing.startswith("<svg")
    assert "lookup/3" in drawing


ADAPTIVE = {
    "mixture": "missing_skills",
    "profile": {"every": 2},
    "easy_to_hard": {"by": "length"},
    "gate": {"min_loss": 0.001, "max_depth": 3},
}


def test_everything_at_once_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"curriculum": ADAPTIVE, "evaluation": SMALL, "train": TRAIN, "forgetting": {"every": 2, "steps": 4}}
    assert main(make_config(tmp_path / "whole", **options)) == 0
    with monkeypatch.context() as patch:
        patch.setattr("cleave.callbacks.ProgressLines.on_log", StopAt(5).on_step_end)
        with pytest.raises(KeyboardInterrupt):
            main(make_config(tmp_path / "killed", **options))
    assert main(make_config(tmp_path / "killed", **options)) == 0
    one, other = (load_checkpoint(str(tmp_path / name / "tiny" / "checkpoint")).model.state_dict() for name in ("whole", "killed"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=0)
    assert "forgetting" not in json.loads((tmp_path / "whole" / "tiny" / "result.json").read_text()), "no skill came first"


def finite_task(folder: Path) -> dict[str, Any]:
    """Direct answers of a small file, of which some are longer than others."""
    rows = [{"id": f"p{k}", "question": f"What is {k} plus {k * k}?", "answer": str(k + k * k)} for k in range(40)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mix = {"task": f"jsonl:{folder / 'train.jsonl'}", "split": "all", "eval_split": None, "label": "plus"}
    return {"role": "solver", "formats": {"direct": 1.0}, "tasks": [mix], "evaluation": {"examples": 0}, "train": TRAIN}


def test_problems_are_ordered_by_the_loss_of_the_teacher(tmp_path: Path, tiny_model_dir: Path) -> None:
    section = {"easy_to_hard": {"by": "teacher_loss", "teacher": f"hf:{tiny_model_dir}", "pacing": {"start": 0.25}}}
    config = make_config(tmp_path, curriculum=section, **finite_task(tmp_path))
    assert "6 steps" in check(config), "a dry run asks no teacher"
    assert main(config) == 0
    losses = json.loads((tmp_path / "tiny" / "difficulty.json").read_text())
    assert len(losses) == 40
    sampler = build_sampler(config, build_data(config, load_tokenizer(None)), 1)
    first = {example.problem_id for example in itertools.islice(sampler, 12)}
    assert first <= set(sorted(losses, key=losses.__getitem__)[:16])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curriculum": {"order": ["lookup", "arithmetic"]}}, "of the mixtures ordered and cumulative, not of shuffled"),
        ({"curriculum": {"mixture": "ordered", "order": ["lookup", "lookup"]}}, "names a skill twice"),
        ({"curriculum": {"mixture": "ordered", "order": ["lookup", "sums"]}}, "'sums', which is no task of this run"),
        ({"curriculum": {"mixture": "ordered", "order": ["lookup"]}}, "misses the skill 'arithmetic'"),
        ({"curriculum": {"mixture": "ordered", "skills": "depth", "order": ["lookup/9"]}}, "'lookup/9', which is no skill of this run"),
        ({"curriculum": {"mixture": "ordered", "pacing": {"start": 0.5}}}, "starts at 0"),
        ({"curriculum": {"mixture": "cumulative", "pacing": {"shape": "geometric"}}}, "cannot begin at 0"),
        ({"curriculum": {"mixture": "scheduled"}}, "points in `schedule` belong together"),
        ({"curriculum": {"mixture": "scheduled", "schedule": [{"at": 0, "weights": {"lookup": 0}}]}}, "not all zero"),
        ({"curriculum": {"profile": {"every": 3}}}, "profile is of the mixture missing_skills"),
        ({"curriculum": {"gate": {"min_depth": 3, "max_depth": 2}}}, "min_depth is above max_depth"),
        ({"curriculum": {"easy_to_hard": {"by": "teacher_loss"}}}, "give both or neither"),
        ({"curriculum": {"easy_to_hard": {"by": "teacher_loss", "teacher": "reference:solver"}}}, "lookup never ends"),
        ({"curriculum": {}, "stages": [{"max_depth": 2}, {}]}, "keep one of them"),
        ({"curriculum": {"mixture": "ordred"}}, "ordered"),
        ({"curriculum": {"mixtures": "ordered"}}, "did you mean 'curriculum.mixture'"),
        ({"forgetting": {"every": 10, "steps": 5}}, "no reset comes within 5 steps"),
        ({"evaluation": {"examples": 0, "skill_examples": 4}}, "beside the held-out loss"),
    ],
)
def test_mistakes_are_one_sentence_with_a_remedy(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CleaveError, match=message):
        check(make_config(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": "verifier", "curriculum": {"mixture": "missing_skills"}}, "verifier's examples are ordered by task, depth and length"),
        ({"role": "verifier", "curriculum": {"skills": "depth"}}, "verifier's examples"),
        ({"role": "verifier", "evaluation": {"skill_examples": 4}}, "a verifier has none"),
        ({"curriculum": {"gate": {"min_loss": 1.0}}, "objective": {"teacher": "reference:solver", "lmbda": 1.0}}, "lower objective.lmbda"),
        ({"forgetting": {}, "lora": {}, "init": {"model": "reference:base"}}, "nothing to forget"),
        ({"forgetting": {}, "backend": "ray", "resources_per_worker": {"GPU": 1}, "train": {"fsdp": True}}, "FSDP shards them"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    judged = {"source": "collection", "collection": {"path": "runs/samples"}, "prompts": "reference-v4"} if "role" in changes else {}
    with pytest.raises(ConfigError, match=message):
        make_config(tmp_path, **judged, **changes)


def test_a_skill_that_does_not_occur_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.skills._RAREST", 1)
    impossible = Part(Stream(reference_task("reading"), "train"), lambda problem: problem.depth, 99)
    with pytest.raises(DataError, match=r"reading/train/99: no such problem in 1,024"):
        list(impossible.problems(0, random.Random(0)))


TWO_WORKERS = """
import json, os, sys
from pathlib import Path
from tests.test_curriculum import listening_stream, listening_trainer

rank = int(os.environ["RANK"])
folder = Path(sys.argv[1])
trainer = listening_trainer(folder / "run", listening_stream(50, rank=rank, world_size=2))
trainer.fit()
(folder / f"state-{rank}.json").write_text(json.dumps(trainer.stream.state_dict()))
"""


@pytest.mark.slow
def test_two_workers_know_the_same_and_what_one_would_know(tmp_path: Path, root: Path) -> None:
    """Real processes: their samplers are equal to the last bit, and equal to that of one worker up to rounding."""
    script = tmp_path / "worker.py"
    script.write_text(TWO_WORKERS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(tmp_path)]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = ((tmp_path / f"state-{rank}.json").read_text() for rank in (0, 1))
    assert first == second
    alone = listening_trainer(tmp_path / "alone", listening_stream(100))
    alone.fit()
    one, other = json.loads(first)["sampler"], alone.stream.state_dict()["sampler"]
    assert one["cursors"] == other["cursors"]
    assert one["mixture"] == other["mixture"]
    assert one["gates"][0]["known"] == pytest.approx(other["gates"][0]["known"], abs=1e-3)
