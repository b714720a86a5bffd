"""Temporary forgetting: embeddings are lost when they should be, the same after a resume, and what is noisy is put back."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from cleave.forgetting import NoisyEmbeddings, ResetEmbeddings
from cleave.training import RoleTrainer
from tests.test_training import StopAt, make_trainer, weights

# ---- forgetting


class Embeddings(TrainerCallback):
    """The embedding after each step."""

    def __init__(self) -> None:
        self.after: list[torch.Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any = None, **kwargs: Any) -> None:
        self.after.append(model.get_input_embeddings().weight.detach().clone())


def test_embeddings_are_reset_every_few_steps_at_first(tmp_path: Path) -> None:
    seen = Embeddings()
    trainer = make_trainer(tmp_path, callbacks=[ResetEmbeddings(every=2, steps=4, seed=3), seen])
    trainer.fit()
    changes = [float((later - earlier).abs().max()) for earlier, later in itertools.pairwise(seen.after)]
    assert min(changes[0], changes[2]) > 0.03 > max(changes[1], changes[3], changes[4])
    assert float(seen.after[1].std()) == pytest.approx(0.02, rel=0.15)
    assert not torch.equal(seen.after[1], seen.after[3])


def test_a_resumed_run_forgets_the_same(tmp_path: Path) -> None:
    """Stopped between checkpoints: the reset of the checkpoint's own step is in it, that of the next comes again."""

    def forgetful(folder: Path, *more: TrainerCallback) -> RoleTrainer:
        return make_trainer(folder, callbacks=[ResetEmbeddings(every=2, steps=None, seed=3), *more])

    whole = forgetful(tmp_path / "whole")
    whole.fit()
    with pytest.raises(KeyboardInterrupt):
        forgetful(tmp_path / "killed", StopAt(3)).fit()
    resumed = forgetful(tmp_path / "killed")
    resumed.fit()
    torch.testing.assert_close(weights(resumed), weights(whole), atol=1e-6, rtol=0)


class Watch(TrainerCallback):
    """Which rows of the embedding are others than before while a step is in progress."""

    def __init__(self, known: torch.Tensor) -> None:
        self.known, self.changed = known, list[int]()

    def on_step_begin(self, args: Any, state: Any, control: Any, *, model: Any = None, **kwargs: Any) -> None:
        self.changed.append(int((model.get_input_embeddings().weight != self.known).any(1).sum()))


def test_noisy_embeddings_are_put_back_and_not_learned(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    before = weights(trainer)
    embedding = trainer.model.get_input_embeddings().weight.detach().clone()
    watch, seen = Watch(embedding), Embeddings()
    for callback in (NoisyEmbeddings(trainer.stream, share=0.25, steps=4, seed=1), watch, seen):
        trainer.add_callback(callback)
    trainer.fit()
    assert all(torch.equal(after, embedding) for after in seen.after[:4])
    assert all(6 <= count <= 10 for count in watch.changed[:4]), "a quarter of the tokens that occur, of 38"
    assert not torch.equal(seen.after[4], embedding), "after that all is trained"
    assert not torch.equal(weights(trainer), before)


def test_the_rest_of_the_model_learns_meanwhile(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.add_callback(NoisyEmbeddings(trainer.stream, share=0.25, steps=None, seed=1))
    trainer.fit()
    changed = {name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(before) - {"model.embed_tokens.weight"}
