"""What prompts begin with in common is read once, and changes nothing; short and long prompts go apart; min-p by its definition."""

import inspect
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import PreTrainedModel

from actors.decomposer import Decomposer
from actors.local import LocalHandle
from actors.solver import Solver
from cleave.config.reasoning import ReasoningConfig
from cleave.decoding.beginnings import common_beginnings
from cleave.decoding.cache import attends_to_all
from cleave.decoding.logits import candidates
from cleave.decoding.sample import Row, beginnings, waves
from cleave.decoding.score import score_batch
from cleave.prompts import load_prompts
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.types import Problem, Sampling
from tests.puppet import Puppet
from tests.test_sample import MODEL, PROMPTS, VOCABULARY, logit_rows, make_model, make_sampler, tokens

TEXT = load_prompts("reference-v1")
PREAMBLE = list(range(3, 33))
FEW_SHOT = [[*PREAMBLE, *prompt] for prompt in PROMPTS]
texts_of_tokens = st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=9).map(tuple), min_size=1, max_size=8)


def reads(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that the model is called with, as they come."""
    shapes: list[tuple[int, ...]] = []
    forward = model.forward

    def watched(input_ids: torch.Tensor, **options: object) -> object:
        shapes.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **options)

    watched.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "forward", watched)
    return shapes


def test_a_preamble_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    shapes = reads(model, monkeypatch)
    make_sampler(model).sample(FEW_SHOT, range(5), Sampling(max_tokens=2, n=3, temperature=1.0))
    assert shapes == [(1, 30), (4, 9), (15, 1)], "the preamble, what follows it of four distinct prompts, one step of all samples"


def test_two_preambles_and_a_prompt_alone_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    other = list(range(60, 33, -1))
    prompts = [*FEW_SHOT[:3], *([*other, *prompt] for prompt in PROMPTS[:3]), [9] * 28]
    model = make_model()
    shapes = reads(model, monkeypatch)
    together = make_sampler(model).sample(prompts, [1] * 7, Sampling(max_tokens=6))
    assert shapes[:2] == [(3, 30), (7, 9)]
    assert tokens(together) == [tokens(make_sampler().sample([prompt], [1], Sampling(max_tokens=6)))[0] for prompt in prompts]


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3"])
def test_greedy_after_a_preamble_equals_transformers_generate(family: str) -> None:
    model, eos = make_model(family), {3, 17, 20}
    assert attends_to_all(model) == (family != "gemma3"), "a sliding window counts padding between tokens, so nothing is shared there"
    replies = make_sampler(model, eos_ids=eos).sample(FEW_SHOT, [0] * 5, Sampling(max_tokens=12))
    for prompt, [row] in zip(FEW_SHOT, replies, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=12, do_sample=False, eos_token_id=list(eos)
        )
        assert row.tokens == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("options", [{"top_p": 0.9}, {"min_p": 0.1}, {"min_p": 1.0}], ids=str)
def test_samples_after_a_preamble_do_not_depend_on_the_batch(options: dict[str, float]) -> None:
    sampling = Sampling(max_tokens=8, n=3, temperature=1.2, **options)  # type: ignore[arg-type]
    together = make_sampler(eos_ids={3, 7}).sample(FEW_SHOT, range(5), sampling)
    alone = [make_sampler(eos_ids={3, 7}).sample([prompt], [seed], sampling)[0] for seed, prompt in enumerate(FEW_SHOT)]
    assert tokens(together) == tokens(alone)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_logits_do_not_depend_on_what_prompts_share(data: st.DataObject) -> None:
    heads = data.draw(st.lists(st.lists(st.integers(3, VOCABULARY - 1), max_size=14), min_size=1, max_size=3))
    rests = st.tuples(st.sampled_from(heads), st.lists(st.integers(3, 6), min_size=1, max_size=6))
    prompts = [head + rest for head, rest in data.draw(st.lists(rests, min_size=1, max_size=8))]
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    with torch.inference_mode():
        batch = make_sampler()._read(distinct, room=1)
        first = batch.logits.clone()
        batch.step(first.argmax(-1))
        for row, prompt in enumerate(distinct):
            expected = MODEL(torch.tensor([[*prompt, int(first[row].argmax())]])).logits[0]
            torch.testing.assert_close(torch.stack([first[row], batch.logits[row]]), expected[-2:], atol=1e-4, rtol=1e-4)


@given(texts=texts_of_tokens, data=st.data())
@settings(max_examples=60)
def test_families_share_what_all_of_them_begin_with(texts: list[tuple[int, ...]], data: st.DataObject) -> None:
    most = [data.draw(st.integers(0, len(text))) for text in texts]
    shared = common_beginnings(texts, most)
    heads = [text[:common] for text, common in zip(texts, shared, strict=True) if common]
    assert all(common <= bound for common, bound in zip(shared, most, strict=True))
    assert all(heads.count(head) > 1 for head in heads), "nobody shares with nobody"


@given(texts=texts_of_tokens)
@settings(max_examples=60)
def test_cuts_leave_each_prompt_a_token_and_save_work(texts: list[tuple[int, ...]]) -> None:
    texts = list(dict.fromkeys(texts))
    cuts = beginnings(texts)
    if cuts is not None:
        assert all(0 < cut < len(text) for text, cut in zip(texts, cuts, strict=True))
        read = len({text[:cut] for text, cut in zip(texts, cuts, strict=True)}) * max(cuts)
        assert read < len(texts) * max(map(len, texts))


def test_scores_of_a_sliding_window_do_not_depend_on_what_texts_share() -> None:
    model, prompt = make_model("gemma3"), list(range(3, 23))
    pairs = [(prompt + rest, len(prompt)) for rest in ([5, 6, 7, 8, 9, 10], [8, 9], [5, 6])]
    for (ids, border), scored in zip(pairs, score_batch(model, pairs, 8), strict=True):
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        assert scored.logprobs == pytest.approx([float(logprobs[i - 1, ids[i]]) for i in range(border, len(ids))], abs=2e-4)


def lengths_of(groups: Sequence[Sequence[Row]], prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[len(prompts[row.prompt]) for row in group] for group in groups]


def test_short_and_long_prompts_go_apart() -> None:
    prompts = [[1] * length for length in (400, 20, 410, 25)]
    rows = [Row(p, i, key=0, limit=1) for p in range(4) for i in range(8)]
    assert lengths_of(list(waves(rows, prompts, 64)), prompts) == [[20] * 8 + [25] * 8, [400] * 8 + [410] * 8]
    assert len(list(waves(rows, prompts, 64, most_padding=10**6))) == 1


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12), most_padding=st.integers(0, 200))
@settings(max_examples=40)
def test_no_batch_has_more_padding_than_allowed(lengths: list[int], most_padding: int) -> None:
    prompts = [[1] * length for length in lengths]
    groups = lengths_of(list(waves([Row(p, 0, 0, 1) for p in range(len(prompts))], prompts, 64, most_padding)), prompts)
    assert sorted(length for group in groups for length in group) == sorted(lengths)
    assert all(sum(max(group) - length for length in group) <= most_padding for group in groups)


@given(logits=logit_rows, temperature=st.floats(0.1, 3), min_p=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_min_p_keeps_what_is_at_least_that_share_of_the_best(logits: torch.Tensor, temperature: float, min_p: float) -> None:
    tempered = (logits[0] / temperature).softmax(-1)
    kept, ids = candidates(logits, Sampling(temperature=temperature, min_p=min_p))
    assert ids is None
    expected = torch.where(tempered >= min_p * tempered.max(), tempered, 0.0)
    torch.testing.assert_close(kept[0], expected / expected.sum(), atol=1e-6, rtol=1e-5)


@given(logits=logit_rows, temperature=st.floats(0.1, 3))
@settings(max_examples=40, deadline=None)
def test_min_p_at_its_ends(logits: torch.Tensor, temperature: float) -> None:
    logits = torch.cat([logits, logits], dim=-1)  # so that the best is not alone
    tempered = (logits / temperature).softmax(-1)
    everything, _ = candidates(logits, Sampling(temperature=temperature, min_p=0.0))
    torch.testing.assert_close(everything, tempered / tempered.sum())
    best, _ = candidates(logits, Sampling(temperature=temperature, min_p=1.0))
    assert ((best > 0) == (tempered == tempered.max())).all(), "only the most likely tokens, all of them"
    assert int((best > 0).sum()) >= 2


def test_filters_apply_in_the_order_of_transformers() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.12, 0.08]]).log()
    kept, ids = candidates(logits, Sampling(temperature=1.0, top_p=0.79, min_p=0.5))
    assert ids is not None
    assert [int(i) for i, p in zip(ids[0], kept[0], strict=True) if p > 0] == [0, 1], (
        "0.3 is at least half of 0.5, whatever top-p took away"
    )
    hot, _ = candidates(logits, Sampling(temperature=3.0, min_p=0.5))
    assert int((hot > 0).sum()) == 4, "temperature comes first: at 3 the least likely has 0.54 of the best's probability"


async def test_min_p_of_a_config_reaches_the_sampler() -> None:
    model = Puppet(lambda prompt, i: "The answer is: 8")
    roles = Roles(LocalHandle(Decomposer(model, TEXT)), LocalHandle(Solver(model, TEXT)))
    for options, expected in (({}, 0.0), ({"min_p": 0.2}, 0.2)):
        await reason(Problem("p", "What is 3 + 5?"), roles, ReasoningConfig.model_validate({"strategy": "direct", **options}))
        assert model.calls[-1][1].min_p == expected
    stage = {"strategy": "direct", "n": 2, "temperature": 1.0, "selection": "majority"}
    staged = ReasoningConfig.model_validate(
        {"strategy": "adaptive", "min_p": 0.1, "stages": [{**stage, "agreement": 1.0}, {**stage, "min_p": 0.5}]}
    )
    assert [each.reasoning.min_p for each in staged.in_stages()] == [0.1, 0.5]
    with pytest.raises(ValidationError):
        ReasoningConfig.model_validate({"min_p": 1.5})
