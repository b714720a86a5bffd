"""On-policy steps: which they are, that replies are the student's own and always the same, that a killed run resumes to equal weights."""

import json
import random
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM, TrainingArguments

from cleave.curriculum.sampler import ShuffledSource, StagedSampler
from cleave.distribution_matching import DistributionMatching, LiveTeachers
from cleave.examples import Example
from cleave.on_policy import OwnReplies
from cleave.stream import StepStream
from cleave.training import STATE_FILE, RoleTrainer
from tests.test_training import StopAt, weights

END = 1
STEPS = 6


class Tokens:
    """As much of a tokenizer as sampling needs."""

    eos_token_id = END
    pad_token_id = 0

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(map(str, ids))


TOKENIZER: Any = Tokens()


def make_model(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=12, num_hidden_layers=1, initializer_range=0.3, **shape))


def make_examples(count: int = 40) -> list[Example]:
    rng = random.Random(0)
    examples = []
    for index in range(count):
        size, start = rng.randint(5, 14), rng.randint(2, 4)
        ids = tuple(rng.randrange(2, 12) for _ in range(size))
        examples.append(Example(ids, tuple(k >= start for k in range(size)), problem_id=str(index), teacher=index % 2))
    return examples


def make_replies(model: PreTrainedModel, **options: Any) -> OwnReplies:
    return OwnReplies(model, TOKENIZER, **{"share": 0.5, "max_new_tokens": 8, "max_length": 20, **options})


def make_stream(model: PreTrainedModel, accumulation: int = 2, **options: Any) -> StepStream:
    sampler = StagedSampler({"all": ShuffledSource(make_examples())}, total_tokens=10_000)
    stream = StepStream(sampler, batch_tokens=60, accumulation=accumulation, max_length=20, **options)
    stream.own_replies = make_replies(model)
    return stream


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 5), (0.5, 10), (0.3, 6), (1.0, 20)])
def test_the_share_of_steps_is_kept_and_evenly_spread(share: float, expected: int) -> None:
    replaced = [step for step in range(20) if make_replies(make_model(), share=share).replace(step)]
    assert len(replaced) == expected
    gaps = {later - step for step, later in pairwise(replaced)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_replies_are_what_the_student_says_to_the_same_prompt() -> None:
    model, examples = make_model().train(), make_examples(9)
    replied = make_replies(model, temperature=0.0)(examples, 3, range(9))
    assert model.training
    for before, after in zip(examples, replied, strict=True):
        start = before.loss_mask.index(True)
        assert after.input_ids[:start] == before.input_ids[:start]
        assert after.loss_mask == tuple(k >= start for k in range(len(after)))
        assert (after.problem_id, after.weight, after.teacher) == (before.problem_id, before.weight, before.teacher)
        greedy = model.generate(
            torch.tensor([before.input_ids[:start]]), max_new_tokens=8, do_sample=False, eos_token_id=END, pad_token_id=0
        )
        assert list(after.input_ids) == greedy[0].tolist()


def test_adapters_take_part_in_the_replies() -> None:
    from peft import LoraConfig, get_peft_model

    adapted: Any = get_peft_model(
        make_model(), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    )
    examples = make_examples(5)
    adapted.train()
    replied = make_replies(adapted, temperature=0.0)(examples, 0, range(5))
    assert adapted.training
    assert replied != make_replies(make_model(), temperature=0.0)(examples, 0, range(5))
    merged = adapted.merge_and_unload()
    assert replied == make_replies(merged, temperature=0.0)(examples, 0, range(5))


def test_a_reply_depends_on_seed_step_and_place_alone() -> None:
    model, examples = make_model(), make_examples(12)
    replies = make_replies(model)
    state = torch.get_rng_state()
    whole = replies(examples, 4, range(12))
    torch.testing.assert_close(torch.get_rng_state(), state)
    assert replies(examples, 4, range(12)) == whole
    assert replies(examples[5:9], 4, range(5, 9)) == whole[5:9]
    for other in (replies(examples, 5, range(12)), replies(examples, 4, range(1, 13)), make_replies(model, seed=1)(examples, 4, range(12))):
        assert other != whole


def test_replies_fit_and_examples_without_a_prompt_keep_their_target() -> None:
    learned_whole = Example((3, 4, 5), (False, True, True))
    replied = make_replies(make_model(), max_new_tokens=100, max_length=16)([*make_examples(6), learned_whole], 0, range(7))
    assert replied[-1] == learned_whole
    assert max(map(len, replied)) == 16
    assert make_replies(make_model())([learned_whole], 0, [0]) == [learned_whole]


def test_steps_of_a_stream_alternate_and_workers_share_the_same_replies() -> None:
    model = make_model()
    whole = list(islice(make_stream(model), 8))
    assert ["own_replies" in batch for batch in whole] == [False, False, True, True] * 2
    ranks = [make_stream(model, 1, rank=rank, world_size=2) for rank in (0, 1)]
    shares = [list(islice(stream, 4)) for stream in ranks]
    together = [shares[rank][step] for step in range(4) for rank in (0, 1)]
    for mine, theirs in zip(whole, together, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def make_trainer(folder: Path, **options: Any) -> RoleTrainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        ignore_data_skip=True,
    )
    model = make_model()
    objective = DistributionMatching(LiveTeachers([make_model(7), make_model(8)], beta=0.5), cross_entropy=0.2)
    return RoleTrainer(model, arguments, stream=make_stream(model), objective=objective, **options)


@pytest.mark.parametrize("stop", [3, 4], ids=["between checkpoints", "at a checkpoint"])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, stop: int) -> None:
    whole = make_trainer(tmp_path / "whole")
    assert whole.fit()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "killed", callbacks=[StopAt(stop)]).fit()
    if stop == 4:  # a checkpoint from before steps were counted apart
        state = json.loads((tmp_path / "killed" / "checkpoint-2" / STATE_FILE).read_text())
        assert state["stream"].pop("steps") == 2
        (tmp_path / "killed" / "checkpoint-2" / STATE_FILE).write_text(json.dumps(state))
    resumed = make_trainer(tmp_path / "killed")
    assert resumed.fit()
    torch.testing.assert_close(weights(resumed), weights(whole), atol=1e-6, rtol=0)
    rows = [row for row in whole.state.log_history if "divergence" in row]
    assert len(rows) == STEPS
    assert ["cross_entropy" in row for row in rows] == [True, False] * (STEPS // 2)
