"""The sampler against transformers' own generation, and its promises: reproducible, independent of the batch, exact in its filters."""

import inspect
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tokenizers import Tokenizer, decoders, models
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from cleave.decoding.logits import candidates, draw
from cleave.decoding.noise import as_keys, row_key, uniforms
from cleave.decoding.sample import Row, Sampler, SamplingCancelled, waves
from cleave.decoding.score import score_batch
from cleave.decoding.stopping import StopStrings, TextStream, cut, text_of
from cleave.errors import ConfigError, GenerationError
from cleave.types import Sampling

VOCABULARY = 64
PROMPTS = [[5, 6, 7], [8] * 9, [1, 2, 3, 4, 50, 60], [9], [5, 6, 7]]
SEEDS = [11, 12, 13, 14, 15]
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # far from uniform, so that no two logits are equal up to rounding
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}


def make_model(family: str = "qwen3") -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "qwen3":
            return Qwen3ForCausalLM(Qwen3Config(**SIZES)).eval()
        if family == "llama":
            return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
        layers = ["sliding_attention", "full_attention"]
        return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, sliding_window=8, layer_types=layers)).eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Pieces of one to three letters that decode by plain concatenation, so that stop strings lie across token borders."""
    pieces = [a + b for a in string.ascii_lowercase[:8] for b in ("", "a", "bc", "d", " ", "\n", "ha", "e")]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, unk_token="a"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


MODEL = make_model()
TOKENIZER = make_tokenizer()


def make_sampler(model: PreTrainedModel = MODEL, **options: object) -> Sampler:
    settings = {"eos_ids": frozenset(), "max_len": 128, "max_batch_size": 16, **options}
    return Sampler(model, TOKENIZER, **settings)  # type: ignore[arg-type]


def tokens(replies: list[list[Row]]) -> list[list[list[int]]]:
    return [[row.tokens for row in rows] for rows in replies]


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3"])
def test_greedy_equals_transformers_generate(family: str) -> None:
    model, eos = make_model(family), {3, 17, 20, 21, 22}
    replies = make_sampler(model, eos_ids=eos, max_batch_size=3).sample(PROMPTS, SEEDS, Sampling(max_tokens=20))
    for prompt, [row] in zip(PROMPTS, replies, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=20, do_sample=False, eos_token_id=list(eos)
        )
        assert row.tokens == expected[0, len(prompt) :].tolist()
        assert row.finish == ("stop" if row.tokens[-1] in eos else "length")


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_a_reply_does_not_depend_on_its_batch(family: str) -> None:
    model, sampling = make_model(family), Sampling(max_tokens=12, n=3, temperature=1.0, top_p=0.95)
    together = make_sampler(model, eos_ids={3}).sample(PROMPTS, SEEDS, sampling)
    alone = [make_sampler(model, eos_ids={3}).sample([p], [s], sampling)[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert tokens(together) == tokens(alone)
    tiny_waves = make_sampler(model, eos_ids={3}, max_batch_size=2).sample(PROMPTS[::-1], SEEDS[::-1], sampling)
    assert tokens(tiny_waves)[::-1] == tokens(together)


def test_sample_i_does_not_depend_on_n() -> None:
    few, many = (make_sampler().sample([[5, 6]], [7], Sampling(max_tokens=8, n=n, temperature=1.5)) for n in (2, 9))
    assert tokens(few)[0] == tokens(many)[0][:2]


def test_seeds_and_samples_differ() -> None:
    replies = make_sampler().sample([[5, 6]] * 3, [1, 2, None], Sampling(max_tokens=12, n=4, temperature=1.5))
    assert len({tuple(row.tokens) for rows in replies for row in rows}) == 12


def test_compaction_changes_nothing() -> None:
    sampling = Sampling(max_tokens=24, n=4, temperature=1.2)
    never, eager = (make_sampler(eos_ids={3, 4, 5}, compact_at=at).sample(PROMPTS, SEEDS, sampling) for at in (2.0, 0.01))
    assert tokens(never) == tokens(eager)
    assert len({len(row.tokens) for rows in never for row in rows}) > 3, "rows must finish at different times"


def test_a_prompt_is_prefilled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    model = make_model()
    forward = model.forward

    def watched(input_ids: torch.Tensor, **options: object) -> object:
        shapes.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **options)

    watched.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "forward", watched)
    make_sampler(model).sample([[5, 6, 7], [8, 9], [5, 6, 7]], [1, 2, 3], Sampling(max_tokens=2, n=4, temperature=1.0))
    assert shapes == [(2, 3), (12, 1)]


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}], ids=str)
def test_narrowest_filters_are_greedy(narrow: dict[str, float]) -> None:
    sampling = replace(Sampling(max_tokens=20, temperature=0.9), **narrow)  # type: ignore[arg-type]
    assert tokens(make_sampler().sample(PROMPTS, SEEDS, sampling)) == tokens(make_sampler().sample(PROMPTS, SEEDS, Sampling(max_tokens=20)))


def test_greedy_samples_are_computed_once() -> None:
    [rows] = make_sampler().sample([[5, 6]], [1], Sampling(max_tokens=4, n=3))
    assert len(rows) == 3
    assert all(row is rows[0] for row in rows)


def test_logprobs_equal_a_teacher_forced_pass() -> None:
    sampling = Sampling(max_tokens=15, n=3, temperature=0.8, top_k=20, logprobs=4)
    for prompt, rows in zip(PROMPTS, make_sampler(eos_ids={3}).sample(PROMPTS, SEEDS, sampling), strict=True):
        for row in rows:
            with torch.inference_mode():
                logits = MODEL(torch.tensor([prompt + row.tokens])).logits[0, len(prompt) - 1 : -1]
            expected = logits.log_softmax(-1)
            drawn = expected.gather(-1, torch.tensor(row.tokens)[:, None]).squeeze(-1)
            torch.testing.assert_close(torch.tensor(row.logprobs), drawn, atol=2e-4, rtol=1e-4)
            best = expected.topk(4, dim=-1)
            assert [[i for i, _ in top] for top in row.top_logprobs] == best.indices.tolist()
            torch.testing.assert_close(torch.tensor([[v for _, v in top] for top in row.top_logprobs]), best.values, atol=2e-4, rtol=1e-4)


def test_scores_equal_the_sampler_s_logprobs() -> None:
    rows = [row for [row] in make_sampler().sample(PROMPTS, SEEDS, Sampling(max_tokens=12, temperature=1.0))]
    pairs = [(prompt + row.tokens, len(prompt)) for prompt, row in zip(PROMPTS, rows, strict=True)]
    scores = score_batch(MODEL, [*pairs, ([5, 6], 2), ([5, 6, 7], 0)], max_batch_size=2)
    for row, scored in zip(rows, scores[:-2], strict=True):
        assert scored.logprobs == pytest.approx(row.logprobs, abs=2e-4)
    assert scores[-2].logprobs == []
    assert len(scores[-1].logprobs) == 2, "the first token of a text has no log-probability"


def naive_scores(pairs: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
    found = []
    for ids, border in pairs:
        with torch.inference_mode():
            logprobs = MODEL(torch.tensor([[*ids, 0]])).logits[0].log_softmax(-1)
        found.append([float(logprobs[i - 1, ids[i]]) for i in range(max(1, border), len(ids))])
    return found


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_scores_do_not_depend_on_what_texts_share(data: st.DataObject) -> None:
    tokens = st.lists(st.integers(3, VOCABULARY - 1), max_size=14)
    prompts = data.draw(st.lists(tokens, min_size=1, max_size=3))
    rests = st.lists(st.tuples(st.sampled_from(prompts), st.lists(st.integers(3, 6), max_size=5)), min_size=1, max_size=9)
    pairs = [(prompt + rest, len(prompt) + data.draw(st.integers(0, len(rest)))) for prompt, rest in data.draw(rests)]
    scores = score_batch(MODEL, pairs, max_batch_size=data.draw(st.integers(1, 10)))
    for scored, expected in zip(scores, naive_scores(pairs), strict=True):
        assert scored.logprobs == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("last", [0, 2])
def test_what_texts_share_is_read_once(last: int) -> None:
    prompt, solutions = list(range(3, 33)), [[5, 6, 7], [8, 9], [5, 6, 7, 8]]
    verdicts = [(prompt + solution + [label], len(prompt + solution) - last) for solution in solutions for label in (10, 11)]
    scores = score_batch(MODEL, verdicts, max_batch_size=8)
    assert sum(each.read for each in scores) == 30 + 3 + 2 + 4, "the prompt once, each solution once, no label at all"
    assert [each.read + each.shared for each in scores] == [len(ids) - 1 for ids, _ in verdicts]
    for scored, expected in zip(scores, naive_scores(verdicts), strict=True):
        assert scored.logprobs == pytest.approx(expected, abs=2e-4)


def test_sampled_frequencies_match_the_softmax() -> None:
    prompt, n = [5, 6, 7], 4000
    [rows] = make_sampler(max_batch_size=n).sample([prompt], [3], Sampling(max_tokens=1, n=n, temperature=2.0))
    with torch.inference_mode():
        expected = (MODEL(torch.tensor([prompt])).logits[0, -1] / 2.0).softmax(-1).double().numpy() * n
    observed = np.bincount([row.tokens[0] for row in rows], minlength=VOCABULARY)
    bins = np.where(expected >= 5, np.arange(VOCABULARY), VOCABULARY)  # rare tokens share the last bin
    seen, wanted = (np.bincount(bins, weights=counts, minlength=VOCABULARY + 1) for counts in (observed, expected))
    used = wanted > 0
    assert used.sum() > 10
    assert stats.chisquare(seen[used], wanted[used] * n / wanted.sum()).pvalue > 1e-3


def test_noise_is_uniform_and_reproducible() -> None:
    keys = as_keys([row_key(seed, sample) for seed in range(-50, 50) for sample in range(20)])
    numbers = np.concatenate([uniforms(keys, position) for position in range(20)])
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    assert len(np.unique(numbers)) == len(numbers)
    assert (uniforms(keys, 3) == uniforms(keys.copy(), 3)).all()
    assert row_key(2**80 + 5, 1) == row_key(5, 1)
    assert row_key(None, 0) != row_key(None, 0)


logit_rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12).map(lambda row: torch.tensor([row], dtype=torch.float32))
filters = st.builds(
    Sampling,
    temperature=st.floats(0.1, 3),
    top_k=st.integers(0, 14),
    top_p=st.floats(0.01, 1),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 1)),
)


def filtered(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities (V,) in the order of the vocabulary."""
    probs, ids = candidates(logits, sampling)
    return probs[0] if ids is None else torch.zeros(logits.shape[1]).scatter(0, ids[0], probs[0])


@settings(max_examples=60, deadline=None)
@given(logit_rows, filters)
def test_filters_keep_what_they_promise(logits: torch.Tensor, sampling: Sampling) -> None:
    full = (logits[0] / sampling.temperature).softmax(-1)
    kept = filtered(logits, sampling)
    alive = kept > 0
    assert kept.sum() == pytest.approx(1, abs=1e-5)
    assert (kept[full == full.max()] > 0).any()
    assert full[alive].min() >= full[~alive].max() - 1e-6 if (~alive).any() else True, "what is kept is at least as likely as what is not"
    torch.testing.assert_close(kept[alive], full[alive] / full[alive].sum(), atol=1e-5, rtol=1e-4)
    if sampling.top_k:
        assert alive.sum() <= sampling.top_k
    if sampling.min_p:
        assert full[alive].min() >= sampling.min_p * full.max() - 1e-6
    if not sampling.top_k and not sampling.min_p:
        assert full[alive].sum() >= sampling.top_p - 1e-5
        assert alive.sum() == 1 or full[alive].sum() - full[alive].min() < sampling.top_p + 1e-5, "no candidate more than needed"


@settings(max_examples=40, deadline=None)
@given(logit_rows, filters, st.one_of(st.just(0.0), st.just(1 - 2.0**-52), st.floats(0, 1, exclude_max=True)))
def test_a_filtered_token_is_never_drawn(logits: torch.Tensor, sampling: Sampling, number: float) -> None:
    token = draw(logits, sampling, torch.tensor([number], dtype=torch.float64))
    assert filtered(logits, sampling)[token[0]] > 0 or sampling.top_k == 1


def free_and_stopped(stops: tuple[str, ...]) -> Iterator[tuple[Row, Row]]:
    """The same draws without and with stop strings."""
    free, stopped = (
        make_sampler(max_batch_size=64).sample([[5, 6]], [1], Sampling(max_tokens=16, n=60, temperature=4.0, stop=stop))[0]
        for stop in ((), stops)
    )
    yield from zip(free, stopped, strict=True)


@pytest.mark.parametrize("stops", [("a",), ("ab", "ca"), ("abcf", "\n"), ("d h", "haha", "e")], ids=repr)
def test_stop_strings_cut_the_reply(stops: tuple[str, ...]) -> None:
    hits = 0
    for free, row in free_and_stopped(stops):
        before = cut(free.text, stops)
        hits += before is not None
        assert row.text == (free.text if before is None else before)
        assert row.finish == ("length" if before is None else "stop")
        assert row.tokens == free.tokens[: len(row.tokens)]
        assert cut(text_of(TOKENIZER, row.tokens[:-1]), stops) is None, "the reply ends with the token that completed the stop string"
    assert hits > 3


@pytest.mark.parametrize("stops", [(), ("ab", "ca"), ("d h", "haha")], ids=repr)
def test_streamed_pieces_add_up_to_the_reply(stops: tuple[str, ...]) -> None:
    for _, row in free_and_stopped(stops):
        stream = TextStream(TOKENIZER, stops)
        pieces = [stream.push(row.tokens[: i + 1]) for i in range(len(row.tokens))]
        assert "".join(pieces) + stream.finish(row.text) == row.text


def test_stop_string_of_several_bytes(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    ids: list[int] = tiny_tokenizer("prix: 3 €!")["input_ids"]
    watch = StopStrings(tiny_tokenizer, ["€"])
    found = [watch.check(ids[: i + 1]) for i in range(len(ids))]
    assert found == [None] * 10 + ["prix: 3 ", None]
    stream = TextStream(tiny_tokenizer, [])
    assert "\ufffd" not in "".join(stream.push(ids[: i + 1]) for i in range(len(ids)))


def test_edges() -> None:
    sampler = make_sampler()
    assert sampler.sample([], [], Sampling()) == []
    [[row]] = sampler.sample([[5]], [0], Sampling(max_tokens=1))
    assert (len(row.tokens), row.finish) == (1, "length")
    [[row]] = make_sampler(eos_ids=set(range(VOCABULARY))).sample([[5]], [0], Sampling(max_tokens=9))
    assert (len(row.tokens), row.finish) == (1, "stop")


def test_context_limit() -> None:
    sampler = make_sampler(max_len=12)
    [[row]] = sampler.sample([[5] * 10], [0], Sampling(max_tokens=50))
    assert (len(row.tokens), row.finish) == (2, "length")
    with pytest.raises(ConfigError, match=r"12 tokens.*limit is 12.*shorten"):
        sampler.sample([[5], [5] * 12], [0, 0], Sampling())
    with pytest.raises(ConfigError, match="empty"):
        sampler.sample([[]], [0], Sampling())


def test_cancellation_stops_at_the_next_token() -> None:
    seen: list[int] = []
    with pytest.raises(SamplingCancelled):
        make_sampler().sample(
            [[5]], [0], Sampling(max_tokens=50), on_token=lambda row: seen.append(len(row.tokens)), cancelled=lambda: len(seen) >= 3
        )
    assert seen == [1, 2, 3]


def test_broken_weights_are_an_error() -> None:
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(GenerationError, match="not a number"):
        make_sampler(model).sample([[5]], [0], Sampling(max_tokens=3))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), max_size=12), st.integers(1, 8))
def test_waves_hold_every_row_once(shapes: list[tuple[int, int]], size: int) -> None:
    prompts = [[1] * length for length, _ in shapes]
    rows = [Row(p, i, key=0, limit=1) for p, (_, n) in enumerate(shapes) for i in range(n)]
    groups = list(waves(rows, prompts, size))
    assert sorted(map(id, (row for group in groups for row in group))) == sorted(map(id, rows))
    assert all(0 < len(group) <= size for group in groups)
    lengths = [len(prompts[row.prompt]) for group in groups for row in group]
    assert lengths == sorted(lengths)
    for p, (_, n) in enumerate(shapes):
        homes = sum(any(row.prompt == p for row in group) for group in groups)
        assert homes == 1 or n > size, "the samples of one prompt share a batch where they fit"
