"""The trainer: the same weights however a step is cut up, packed or padded, stopped and resumed; the best weights are kept."""

import json
import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM, TrainerCallback, TrainingArguments

from cleave.callbacks import EvaluateEvery, MetricsFile, StopOnSignal
from cleave.curriculum.sampler import ShuffledSource, StagedSampler
from cleave.errors import ConfigError
from cleave.examples import Example
from cleave.gates import NoGates
from cleave.heldout import HeldOut
from cleave.objectives import CrossEntropy
from cleave.stream import StepStream
from cleave.training import STATE_FILE, RoleTrainer, newest_checkpoint

VOCABULARY = 40
STEPS = 6


def make_examples() -> list[Example]:
    rng = random.Random(0)
    examples = []
    for index in range(120):
        size = rng.randint(4, 16)
        start = rng.randint(1, size - 1)
        ids = tuple(rng.randrange(2, VOCABULARY) for _ in range(size))
        examples.append(Example(ids, tuple(k >= start for k in range(size)), problem_id=str(index)))
    return examples


def make_model() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    config = Qwen3Config(vocab_size=VOCABULARY, num_hidden_layers=1, tie_word_embeddings=True, **shape)
    return Qwen3ForCausalLM(config)


def make_stream(tokens: int = 100, accumulation: int = 1, **options: Any) -> StepStream:
    sampler = StagedSampler({"all": ShuffledSource(make_examples())}, total_tokens=10_000)
    return StepStream(sampler, batch_tokens=tokens, accumulation=accumulation, max_length=64, **options)


def make_trainer(folder: Path, stream: StepStream | None = None, accumulation: int = 1, **options: Any) -> RoleTrainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=2,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        ignore_data_skip=True,
    )
    return RoleTrainer(make_model(), arguments, stream=stream or make_stream(), objective=CrossEntropy(), **options)


def weights(trainer: RoleTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


class StopAt(TrainerCallback):
    """Leaves the loop after a step, like a kill: nothing is saved on the way out."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> RoleTrainer:
    trainer = make_trainer(tmp_path_factory.mktemp("whole"))
    assert trainer.fit()
    return trainer


def test_training_lowers_the_loss(uninterrupted: RoleTrainer) -> None:
    losses = [row["loss"] for row in uninterrupted.state.log_history if "loss" in row]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("stream", "accumulation"),
    [(lambda: make_stream(25, 4), 4), (lambda: make_stream(packing=True), 1), (lambda: make_stream(50, 2, packing=True), 2)],
    ids=["accumulated", "packed", "both"],
)
def test_weights_do_not_depend_on_how_a_step_is_cut(
    tmp_path: Path, uninterrupted: RoleTrainer, stream: Callable[[], StepStream], accumulation: int
) -> None:
    trainer = make_trainer(tmp_path, stream(), accumulation)
    trainer.fit()
    torch.testing.assert_close(weights(trainer), weights(uninterrupted), atol=2e-5, rtol=0)
    assert trainer.stream.tokens == uninterrupted.stream.tokens


@pytest.mark.parametrize("stop", [3, 4], ids=["between checkpoints", "at a checkpoint"])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, uninterrupted: RoleTrainer, stop: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, callbacks=[StopAt(stop)]).fit()
    resumed = make_trainer(tmp_path)
    assert resumed.fit()
    torch.testing.assert_close(weights(resumed), weights(uninterrupted), atol=1e-6, rtol=0)
    assert resumed.stream.tokens == uninterrupted.stream.tokens
    again = make_trainer(tmp_path)  # nothing is left to do: the last weights are loaded, no step is added
    assert again.fit()
    torch.testing.assert_close(weights(again), weights(uninterrupted), atol=1e-6, rtol=0)


def test_resuming_a_model_with_tied_weights_is_no_reason_to_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr("transformers.trainer.logger.warning", lambda text, *_: warned.append(text))
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, callbacks=[StopAt(4)]).fit()
    resumed = make_trainer(tmp_path)
    assert resumed.model.config.tie_word_embeddings
    assert resumed.fit()
    assert not [text for text in warned if "missing" in text]


def test_a_resumed_stream_gives_the_same_next_batches(tmp_path: Path) -> None:
    stream = make_stream(50, 2)
    batches = iter(stream)
    for _ in range(2 * 3):
        next(batches)
    state = json.loads(json.dumps(stream.state_dict()))
    expected = [next(batches)["input_ids"].tolist() for _ in range(6)]
    fresh = make_stream(50, 2)
    fresh.load_state_dict(state)
    restored = iter(fresh)
    assert [next(restored)["input_ids"].tolist() for _ in range(6)] == expected


def test_workers_share_each_step_without_overlap() -> None:
    whole = make_stream(100, 2)
    drawn = iter(whole)
    together = [next(drawn) for _ in range(2)]
    ranks = [iter(make_stream(50, 2, rank=rank, world_size=2)) for rank in (0, 1)]
    shares = [next(stream) for stream in ranks for _ in range(2)]
    assert _rows(shares) == _rows(together)


def _rows(batches: list[Any]) -> list[list[int]]:
    """The rows of all batches without padding (no example has a 0), sorted."""
    return sorted([token for token in row if token] for batch in batches for row in batch["input_ids"].tolist())


def test_incomplete_checkpoints_are_never_resumed_from(tmp_path: Path) -> None:
    for step, whole in ((2, True), (10, True), (12, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / STATE_FILE).write_text("{}")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-12").exists()
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_a_damaged_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    (folder / STATE_FILE).write_text("{")
    with pytest.raises(ConfigError, match="delete it to resume"):
        make_trainer(tmp_path).fit()


def test_the_best_weights_are_kept_across_a_resume(tmp_path: Path) -> None:
    values = iter([3.0, 1.0, 2.0])

    def measure(model: PreTrainedModel) -> Mapping[str, float]:
        assert not model.training
        return {"loss": next(values)}

    options: dict[str, Any] = {"measure": measure, "callbacks": [EvaluateEvery(1)]}
    first = make_trainer(tmp_path, **options)
    first.add_callback(StopAt(3))
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    values = iter([1.5, 1.2, 1.1])
    second = make_trainer(tmp_path, **options)
    assert second.fit()
    assert (second.best_step, second.best_value) == (2, 1.0)
    assert (second.best_dir / "model.safetensors").is_file()


def test_the_metrics_file_has_one_row_per_step_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "run", callbacks=[MetricsFile(path), StopAt(4)]).fit()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    make_trainer(tmp_path / "run", callbacks=[MetricsFile(path)]).fit()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, STEPS + 1))
    assert all(row["tokens_per_second"] > 0 and 0 <= row["accuracy"] <= 1 for row in rows if "loss" in row)


def test_a_signal_saves_and_stops(tmp_path: Path, uninterrupted: RoleTrainer) -> None:
    class Interrupt(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with StopOnSignal() as stop:
        assert not make_trainer(tmp_path, callbacks=[Interrupt(), stop]).fit()
    assert stop.stopped
    assert signal.getsignal(signal.SIGTERM) == before
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    resumed = make_trainer(tmp_path)
    assert resumed.fit()
    torch.testing.assert_close(weights(resumed), weights(uninterrupted), atol=1e-6, rtol=0)


class Constant(NoGates):
    """A gate penalty that shows in the loss and nowhere else."""

    attached = agreed = False

    def attach(self, model: PreTrainedModel) -> None:
        self.attached = True

    def penalty(self, step: int, inputs: int) -> float:
        return 25.0

    def consensus(self) -> None:
        self.agreed = True


def test_the_penalties_of_the_passes_of_a_step_add_up(tmp_path: Path, uninterrupted: RoleTrainer) -> None:
    gates = Constant()
    trainer = make_trainer(tmp_path, make_stream(25, 4), 4, gates=gates)
    trainer.fit()
    assert gates.attached
    assert gates.agreed
    plain = [row["loss"] for row in uninterrupted.state.log_history if "loss" in row]
    gated = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert gated == pytest.approx([loss + 100 for loss in plain], abs=1e-3)


def test_held_out_loss_and_exact_match(tiny_tokenizer: Any) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=258, num_hidden_layers=1, eos_token_id=1, pad_token_id=0, **shape)).eval()
    prompt = (10, 20, 30)
    reply = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)[0, 3:].tolist()
    right = Example((*prompt, *reply), (False,) * 3 + (True,) * len(reply))
    wrong = Example((*prompt, (reply[0] + 1) % 258, *reply[1:]), right.loss_mask)
    measured = HeldOut([right, wrong], CrossEntropy(), tiny_tokenizer, generate=2, max_new_tokens=6)(model)
    assert measured["exact_match"] == 0.5
    logits = model(torch.tensor([right.input_ids, wrong.input_ids])).logits[:, 2:-1]
    targets = torch.tensor([right.input_ids[3:], wrong.input_ids[3:]])
    assert measured["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item(), rel=1e-4)
    assert "exact_match" not in HeldOut([right], CrossEntropy(), tiny_tokenizer, generate=0)(model)
