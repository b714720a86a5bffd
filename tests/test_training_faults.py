"""What must not be saved, and what must survive: losses that are not finite, disks that are full."""

import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, TrainerCallback

import pipelines.ray_train
from cleave.callbacks import EvaluateEvery
from cleave.curriculum.sampler import StagedSampler
from cleave.errors import StorageError, TrainingError
from cleave.examples import Example
from cleave.stream import StepStream
from cleave.training import newest_checkpoint
from pipelines.distill import main
from tests.test_distill import make_config
from tests.test_training import STEPS, make_examples, make_trainer, weights

POISON = "poison"


class InOrder:
    """The examples as they are, again and again: a source whose poison comes when the test wants it."""

    def __init__(self, examples: list[Example]) -> None:
        self._examples = examples

    def chunk(self, index: int) -> list[Example]:
        return self._examples


def poisoned_stream(place: int, tokens: int = 60, accumulation: int = 1) -> StepStream:
    """A stream whose example number `place` has a weight that is not a number."""
    examples = make_examples()
    bad = examples[place]
    examples[place] = Example(bad.input_ids, bad.loss_mask, weight=float("nan"), problem_id=POISON)
    sampler = StagedSampler({"all": InOrder(examples)}, total_tokens=10_000)
    return StepStream(sampler, batch_tokens=tokens, accumulation=accumulation, max_length=64)


def saved_weights(folder: Path) -> list[dict[str, torch.Tensor]]:
    """What every folder below holds."""
    return [load_file(path) for path in sorted(folder.rglob("*.safetensors"))]


def all_finite(folder: Path) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for state in saved_weights(folder) for tensor in state.values())


def test_a_poisoned_batch_ends_the_training_at_the_last_good_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, poisoned_stream(30))
    with pytest.raises(TrainingError, match=r"step 5 is not finite .*poison.*the checkpoint of step 4 is the last.*another name\.$"):
        trainer.fit()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert len(saved_weights(tmp_path)) == 2
    assert all_finite(tmp_path)
    assert torch.isfinite(weights(trainer)).all()
    with pytest.raises(TrainingError, match=r"step 5 is not finite"):  # resumed: the same end, not a way around it
        make_trainer(tmp_path, poisoned_stream(30)).fit()


def test_the_error_names_the_batch_and_not_the_whole_step(tmp_path: Path) -> None:
    stream = poisoned_stream(2, tokens=30, accumulation=4)
    with pytest.raises(TrainingError) as caught:
        make_trainer(tmp_path, stream, 4).fit()
    (batch,) = [part for part in stream.problems if POISON in part]
    assert f"(its batch: {', '.join(batch[:5])}" in str(caught.value)
    assert "there is no checkpoint yet" in str(caught.value)


def test_a_learning_rate_that_blows_up_saves_nothing_that_is_not_finite(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.args.learning_rate = 1e30
    trainer.args.save_steps = 1
    with pytest.raises(TrainingError, match=r"lower train\.learning_rate"):
        trainer.fit()
    assert all_finite(tmp_path)


def test_weights_that_a_step_ruined_are_not_saved(tmp_path: Path) -> None:
    class Ruin(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                with torch.no_grad():
                    next(kwargs["model"].parameters())[0, 0] = torch.inf

    with pytest.raises(TrainingError, match=r"step 4 left weights that are not finite; the checkpoint of step 2"):
        make_trainer(tmp_path, callbacks=[Ruin()]).fit()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert len(saved_weights(tmp_path)) == 1


def test_a_held_out_loss_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    values = iter([2.0, float("nan")])

    def measure(model: PreTrainedModel) -> Mapping[str, float]:
        return {"loss": next(values), "exact_match": 0.0}

    trainer = make_trainer(tmp_path, measure=measure, best_metric="exact_match", callbacks=[EvaluateEvery(1)])
    with pytest.raises(TrainingError, match="held-out loss after step 2 is nan"):
        trainer.fit()
    assert (trainer.best_step, trainer.best_value) == (1, 0.0)


def test_a_run_that_blew_up_is_not_finished(tmp_path: Path) -> None:
    train = {"max_steps": 6, "per_device_train_batch_tokens": 300, "gradient_accumulation_steps": 1, "learning_rate": 1e30, "save_steps": 1}
    config = make_config(tmp_path, train=train, evaluation={"examples": 0})
    with pytest.raises(TrainingError) as caught:
        main(config)
    assert caught.value.exit_code == 2
    run = tmp_path / "tiny"
    assert not (run / "result.json").exists()
    assert not (run / "checkpoint").exists()
    assert all_finite(run)


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_ray_train_end_together_and_are_not_started_again(tmp_path: Path, ray_session: None) -> None:
    """Both workers see the bad step, also the one whose own batch was good. Unlimited restarts would meet it for ever."""
    train = {"max_steps": 6, "per_device_train_batch_tokens": 300, "gradient_accumulation_steps": 1, "learning_rate": 1e30, "save_steps": 1}
    options = {"backend": "ray", "num_workers": 2, "resources_per_worker": {"CPU": 0.5}, "max_failures": -1}
    with pytest.raises(TrainingError, match=r"step \d is not finite \(its batch: .*the checkpoint of step \d is the last"):
        main(make_config(tmp_path, train=train, evaluation={"examples": 0}, **options))
    assert not (tmp_path / "tiny" / "result.json").exists()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The operating system refuses larger files inside the body, as a full disk does in the middle of one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FullAfter(TrainerCallback):
    """The disk is full from a step on."""

    def __init__(self, step: int, size: int) -> None:
        self.step, self.size = step, size

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("size", [6_000, 20_000, 600], ids=["weights", "optimiser", "everything"])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, size: int) -> None:
    whole = make_trainer(tmp_path / "whole")
    whole.fit()
    run = tmp_path / "run"
    told = r"cannot write the checkpoint .*checkpoint-4 .*free space and run again to resume\.$"
    with pytest.raises(StorageError, match=told), files_of_at_most(10**9):
        make_trainer(run, callbacks=[FullAfter(3, size)]).fit()
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = make_trainer(run)
    assert resumed.fit()
    assert resumed.state.global_step == STEPS
    torch.testing.assert_close(weights(resumed), weights(whole), atol=1e-6, rtol=0)


def test_a_full_disk_leaves_the_best_weights(tmp_path: Path) -> None:
    values = iter([2.0, 1.0])

    def measure(model: PreTrainedModel) -> Mapping[str, float]:
        return {"loss": next(values)}

    trainer = make_trainer(tmp_path, measure=measure, callbacks=[EvaluateEvery(1), FullAfter(2, 600)])
    with pytest.raises(StorageError, match="free space"), files_of_at_most(10**9):
        trainer.fit()
    assert load_file(trainer.best_dir / "model.safetensors")
    assert not (tmp_path / "best.draft").exists()


def test_a_kill_between_two_best_weights_leaves_one_of_them(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.save_model(str(trainer.best_dir))
    trainer.best_dir.rename(tmp_path / "best.before")
    make_trainer(tmp_path).fit()
    assert load_file(trainer.best_dir / "model.safetensors")


def test_storage_that_is_full_is_named_on_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's own disk has room, the place that checkpoints are sent to has not."""

    class Context:
        def get_world_rank(self) -> int:
            return 0

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipelines.ray_train.ray.train, "get_context", Context)
    monkeypatch.setattr(pipelines.ray_train.ray.train, "report", full)
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(StorageError, match=r"No space left on device\); free space there"):
        pipelines.ray_train.report(tmp_path, {"step": 2}, tmp_path / "checkpoint-2")
