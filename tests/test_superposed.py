"""Superposed decoding against an independent float64 reference, greedy decoding, and its promises; what it refuses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from cleave.decoding.batch import Batch
from cleave.decoding.draft import Draft, Drafting
from cleave.decoding.frontier import Frontier, smoothed
from cleave.decoding.linearity import measure
from cleave.decoding.ngram_counts import build, shards_of
from cleave.decoding.ngrams import NgramTables
from cleave.decoding.noise import as_keys, row_key, uniforms
from cleave.decoding.sample import Sampler, SamplingCancelled
from cleave.decoding.superposed import Drafted, Drafter, kept_tokens, superposed
from cleave.errors import ConfigError, GenerationError
from cleave.lm.checkpoint import load_checkpoint
from cleave.types import Sampling
from tests.naive_ngrams import Naive

VOCABULARY = 64
PROMPTS = [[5, 6, 7], [8] * 9, [4, 2, 9, 4, 50, 60], [9], [5, 6, 7, 5]]
SEEDS = [11, 12, 13, 14, 15]
TEXTS = np.random.default_rng(0).integers(0, VOCABULARY, (400, 30)).tolist()
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
            return Qwen3ForCausalLM(Qwen3Config(**SIZES)).double().eval()
        if family == "llama":
            return LlamaForCausalLM(LlamaConfig(**SIZES)).double().eval()
        layers = ["sliding_attention", "full_attention"]
        return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, sliding_window=8, layer_types=layers)).double().eval()


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make_model()


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> NgramTables:
    return build(tmp_path_factory.mktemp("ngrams"), shards_of(TEXTS), {"a": 0}, model="m", sources=[])


@pytest.fixture
def drafter(model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> Drafter:
    return make_drafter(model, tiny_tokenizer)


def make_drafter(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **options: object) -> Drafter:
    return Drafter(model, tokenizer, **{"eos_ids": frozenset(), "max_len": 128, "max_batch_size": 16, **options})  # type: ignore[arg-type]


@dataclass
class Path64:
    """A draft of the reference: its tokens, ln p, and whether it ended."""

    tokens: list[int]
    logp: float


def reference(
    model: PreTrainedModel,
    prompt: list[int],
    drafting: Drafting,
    eos: frozenset[int] = frozenset(),
    naive: Naive | None = None,
    seed: int = 0,
) -> list[Path64]:
    """The method as the paper writes it: one prompt, one draft and one token at a time, without a cache."""
    k, embedding = drafting.k, model.get_input_embeddings()
    stream = embedding(torch.tensor(prompt))
    alive, ended = [Path64([], 0.0)], list[Path64]()
    for step in range(1, drafting.max_tokens + 1):
        logits = model(inputs_embeds=stream[None]).logits[0, -1].tolist()
        kept = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[: drafting.kept]
        mass = math.log(sum(math.exp((logits[token] - logits[kept[0]]) / drafting.temperature) for token in kept))
        logp = {token: (logits[token] - logits[kept[0]]) / drafting.temperature - mass for token in kept}
        found = [extended for path in alive for extended in extensions(path, prompt, logp, drafting, naive)]
        best = sorted(found, key=lambda path: -path.logp)[: 2 * k]
        ended += [path for path in best[:k] if path.tokens[-1] in eos]
        alive = [path for path in best if path.tokens[-1] not in eos][:k]
        if len(ended) >= k or not alive:
            break
        shares = [math.exp(path.logp - alive[0].logp) for path in alive]
        gamma = [share / sum(shares) for share in shares]
        stream = torch.cat([stream, sum(g * embedding(torch.tensor([path.tokens[-1]])) for g, path in zip(gamma, alive, strict=True))])
        if drafting.reset_every and step % drafting.reset_every == 0 and step < drafting.max_tokens:
            number = float(uniforms(as_keys([row_key(seed, 0)]), step)[0])
            alive = [alive[next(i for i in range(len(gamma)) if sum(gamma[: i + 1]) > number)]]
            stream = embedding(torch.tensor(prompt + alive[0].tokens))
    return sorted(ended if len(ended) >= k else ended + alive, key=lambda path: -path.logp / len(path.tokens))[:k]


def extensions(path: Path64, prompt: list[int], logp: dict[int, float], drafting: Drafting, naive: Naive | None) -> list[Path64]:
    if naive is None:
        return [Path64([*path.tokens, token], path.logp + logp[token]) for token in logp]
    a = drafting.alpha
    ngram = {token: naive.mixed(prompt + path.tokens, token, drafting.ngram_weights) for token in logp}
    both = {token: (1 - a) * logp[token] + a * math.log(ngram[token]) for token in logp if ngram[token] > 0}
    terms = both or {token: math.log(math.exp(-200)) + (1 - a) * logp[token] for token in logp}
    return [Path64([*path.tokens, token], path.logp + term) for token, term in terms.items()]


def tokens(drafted: Sequence[Drafted]) -> list[list[tuple[int, ...]]]:
    return [[draft.token_ids for draft in each.drafts] for each in drafted]


def assert_equals_reference(drafted: Drafted, expected: Sequence[Path64]) -> None:
    assert [list(draft.token_ids) for draft in drafted.drafts] == [path.tokens for path in expected]
    for draft, path in zip(drafted.drafts, expected, strict=True):
        assert draft.logprob == pytest.approx(path.logp, abs=2e-3)
        assert draft.perplexity == pytest.approx(math.exp(-path.logp / len(path.tokens)), rel=1e-3)


@pytest.mark.parametrize(
    ("family", "k", "temperature"), [("qwen3", 2, 1.0), ("qwen3", 3, 0.06), ("qwen3", 8, 0.5), ("llama", 4, 0.5), ("gemma3", 3, 1.0)]
)
@torch.inference_mode()
def test_drafts_equal_the_reference(family: str, k: int, temperature: float, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model, drafting = make_model(family), Drafting(k=k, max_tokens=7, temperature=temperature)
    for drafted, prompt in zip(make_drafter(model, tiny_tokenizer).draft(PROMPTS, SEEDS, drafting), PROMPTS, strict=True):
        assert_equals_reference(drafted, reference(model, prompt, drafting))


@pytest.mark.parametrize("eos", [{3, 9, 17, 20, 21, 22, 40, 41}, set(range(0, 64, 2))], ids=["some", "half"])
@torch.inference_mode()
def test_drafts_that_end_equal_the_reference(eos: set[int], model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    drafting = Drafting(k=4, max_tokens=9, temperature=1.0)
    drafted = make_drafter(model, tiny_tokenizer, eos_ids=eos).draft(PROMPTS, SEEDS, drafting)
    for each, prompt in zip(drafted, PROMPTS, strict=True):
        assert_equals_reference(each, reference(model, prompt, drafting, frozenset(eos)))
        assert all((draft.finish == "stop") == (draft.token_ids[-1] in eos) for draft in each.drafts)
        assert not any(eos.intersection(draft.token_ids[:-1]) for draft in each.drafts)
    assert len({len(draft.token_ids) for each in drafted for draft in each.drafts}) > 1


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.54, 1.0])
@torch.inference_mode()
def test_n_grams_equal_the_reference(
    alpha: float, model: PreTrainedModel, tables: NgramTables, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    drafting = Drafting(k=3, max_tokens=7, temperature=0.7, alpha=alpha)
    naive = Naive(TEXTS) if alpha else None
    for each, prompt in zip(make_drafter(model, tiny_tokenizer, ngrams=tables).draft(PROMPTS, SEEDS, drafting), PROMPTS, strict=True):
        assert_equals_reference(each, reference(model, prompt, drafting, naive=naive))


@torch.inference_mode()
def test_resets_equal_the_reference(model: PreTrainedModel, tables: NgramTables, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    drafting = Drafting(k=3, max_tokens=9, temperature=1.0, reset_every=3)
    for ngrams, naive in ((None, None), (tables, Naive(TEXTS))):
        drafter = make_drafter(model, tiny_tokenizer, ngrams=ngrams)
        for seeds in (SEEDS, [1, 2, 3, 4, 5]):
            for each, prompt, seed in zip(drafter.draft(PROMPTS, seeds, drafting), PROMPTS, seeds, strict=True):
                assert_equals_reference(each, reference(model, prompt, drafting, naive=naive, seed=seed))


def test_resets_are_a_function_of_the_seed(drafter: Drafter) -> None:
    drafting = Drafting(k=4, max_tokens=8, temperature=2.0, reset_every=2)
    runs = [tokens(drafter.draft([[5, 6, 7]], [seed], drafting))[0] for seed in (1, 1, *range(2, 12))]
    assert runs[0] == runs[1]
    assert len({tuple(run) for run in runs}) > 3
    for run in runs:
        assert len({draft[:6] for draft in run}) == 1, "all drafts go on from the one that survived the reset at 6"


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_one_draft_is_the_greedy_reply(family: str, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model, eos = make_model(family), {3, 17, 20, 21, 22}
    drafted = make_drafter(model, tiny_tokenizer, eos_ids=eos).draft(PROMPTS, SEEDS, Drafting(k=1, max_tokens=20))
    greedy = Sampler(model, tiny_tokenizer, eos_ids=eos, max_len=128).sample(PROMPTS, SEEDS, Sampling(max_tokens=20))
    for prompt, each, [row] in zip(PROMPTS, drafted, greedy, strict=True):
        [draft] = each.drafts
        ids = torch.tensor([prompt])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, eos_token_id=list(eos))
        assert list(draft.token_ids) == row.tokens == theirs[0, len(prompt) :].tolist()
        assert (draft.text, draft.finish) == (row.text, row.finish)


@torch.inference_mode()
def test_one_hot_weights_are_a_normal_step(model: PreTrainedModel) -> None:
    chosen = np.array([[7, 9, 11]] * len(PROMPTS))
    plain, mixed = Batch(model, PROMPTS, room=1), Batch(model, PROMPTS, room=1)
    plain.step(torch.tensor(chosen[:, 1]))
    mixed.step_embedded(superposed(model.get_input_embeddings(), chosen, np.array([[0.0, 1.0, 0.0]] * len(PROMPTS))))
    assert torch.equal(plain.logits, mixed.logits)


def test_a_superposition_is_the_weighted_sum() -> None:
    embedding = torch.nn.Embedding(10, 4, dtype=torch.bfloat16)
    mixed = superposed(embedding, np.array([[1, 2], [3, 3]]), np.array([[0.25, 0.75], [0.5, 0.5]]))
    table = embedding.weight.detach().float()
    assert torch.equal(mixed, torch.stack([0.25 * table[1] + 0.75 * table[2], table[3]]).to(torch.bfloat16))


def test_a_batch_equals_one_by_one(model: PreTrainedModel, tables: NgramTables, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    drafting = Drafting(k=3, max_tokens=12, temperature=0.8, reset_every=5)
    options = {"eos_ids": {3, 17, 20, 21, 22, 23}, "ngrams": tables}
    together = make_drafter(model, tiny_tokenizer, **options).draft(PROMPTS, SEEDS, drafting)
    alone = [make_drafter(model, tiny_tokenizer, **options).draft([p], [s], drafting)[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert tokens(together) == tokens(alone)
    assert [each.decoded for each in together] == [each.decoded for each in alone]
    terms = [[draft.logprobs for each in run for draft in each.drafts] for run in (together, alone)]
    for one, other in zip(*terms, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    small = make_drafter(model, tiny_tokenizer, max_batch_size=2, **options).draft(PROMPTS[::-1], SEEDS[::-1], drafting)
    assert tokens(small)[::-1] == tokens(together)
    assert len({each.decoded for each in together}) > 1, "prompts must be done at different times"


def test_drafts_come_by_perplexity_and_differ(drafter: Drafter) -> None:
    for each in drafter.draft(PROMPTS, SEEDS, Drafting(k=8, temperature=1.0)):
        perplexities = [draft.perplexity for draft in each.drafts]
        assert perplexities == sorted(perplexities)
        assert len(set(tokens([each])[0])) == 8
        assert all(draft.logprob <= 0 and len(draft.logprobs) == len(draft.token_ids) == 10 for draft in each.drafts)


def test_stop_strings_end_drafts(model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    drafter, free = make_drafter(model, tiny_tokenizer), Drafting(k=3, max_tokens=12, temperature=1.0)
    [before] = drafter.draft([[5, 6, 7]], [0], replace(free, k=1))
    stop = before.drafts[0].text[3:5]
    [after] = drafter.draft([[5, 6, 7]], [0], replace(free, k=1, stop=(stop,)))
    assert [(draft.text, draft.finish) for draft in after.drafts] == [(before.drafts[0].text[:3], "stop")]
    for each in drafter.draft(PROMPTS, SEEDS, replace(free, stop=("A", "b", "C"))):
        for draft in each.drafts:
            assert not set("AbC").intersection(draft.text)
            assert (draft.finish == "stop") == bool(set("AbC").intersection(tiny_tokenizer.decode(list(draft.token_ids))))


def test_where_everything_ends_there_is_one_token(model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    [each] = make_drafter(model, tiny_tokenizer, eos_ids=set(range(VOCABULARY))).draft([[5]], [0], Drafting(k=3))
    assert [(len(draft.token_ids), draft.finish) for draft in each.drafts] == [(1, "stop")] * 3
    assert each.decoded == 1


def test_n_grams_may_leave_fewer_drafts(model: PreTrainedModel, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A corpus in which 5 is always followed by 6, and 6 by 7: nothing else can follow, whatever the model thinks."""
    corpus = build(tmp_path, shards_of([[5, 6, 7]]), {"a": 0}, model="m", sources=[])
    drafting = Drafting(k=2, max_tokens=2, kept_tokens=VOCABULARY)
    [each] = make_drafter(model, tiny_tokenizer, ngrams=corpus).draft([[9, 5]], [0], drafting)
    assert [draft.token_ids for draft in each.drafts] == [(6, 7)]
    [unknown] = make_drafter(model, tiny_tokenizer, ngrams=corpus).draft([[9, 5]], [0], replace(drafting, max_tokens=3))
    assert len(unknown.drafts) == 2
    assert all(draft.token_ids[:2] == (6, 7) and draft.logprobs[2] < -199 for draft in unknown.drafts), "after 7 the penalty is paid"


def test_context_and_length_limits(model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    drafter = make_drafter(model, tiny_tokenizer, max_len=12)
    short, long = drafter.draft([[5] * 4, [5] * 10], [0, 0], Drafting(k=2, max_tokens=6))
    assert [len(draft.token_ids) for each in (short, long) for draft in each.drafts] == [6, 6, 2, 2]
    assert all(draft.finish == "length" for draft in long.drafts)
    with pytest.raises(ConfigError, match=r"12 tokens.*limit is 12.*shorten"):
        drafter.draft([[5], [5] * 12], [0, 0], Drafting())
    with pytest.raises(ConfigError, match="empty"):
        drafter.draft([[]], [0], Drafting())
    assert drafter.draft([], [], Drafting()) == []


def test_more_drafts_than_tokens_are_refused(drafter: Drafter) -> None:
    with pytest.raises(ConfigError, match=r"65 drafts.*has 64; lower k"):
        drafter.draft([[5]], [0], Drafting(k=VOCABULARY + 1))
    [each] = drafter.draft([[5]], [0], Drafting(k=VOCABULARY, max_tokens=1))
    assert {draft.token_ids[0] for draft in each.drafts} == set(range(VOCABULARY))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k": 0}, "k is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": 0.0}, "near 0 is greedy"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"alpha": 1.1}, "from 0 to 1"),
        ({"ngram_weights": ()}, "one number"),
        ({"ngram_weights": (0.1, -0.1)}, "at least 0"),
        ({"log_penalty": 1.0}, "0 or less"),
        ({"kept_tokens": 2}, "at least k = 3"),
        ({"candidates": 2}, "at least k = 3"),
        ({"reset_every": -1}, "reset_every"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Drafting(**options)  # type: ignore[arg-type]


def test_the_paper_s_defaults() -> None:
    drafting = Drafting()
    assert (drafting.k, drafting.max_tokens, drafting.temperature, drafting.alpha) == (3, 10, 0.06, 0.54)
    assert (drafting.ngram_weights, drafting.log_penalty) == ((0.01, 0.04, 0.15, 0.18, 0.12), -200)
    assert (drafting.kept, drafting.most_candidates, Drafting(k=10).kept) == (9, 6, 30)


def test_encoder_decoder_models_are_refused(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    seq2seq = BartForConditionalGeneration(BartConfig(vocab_size=300, encoder_ffn_dim=16, decoder_ffn_dim=16, **sizes))
    with pytest.raises(ConfigError, match="encoder–decoder model; use a decoder-only"):
        make_drafter(seq2seq, tiny_tokenizer).draft([[5]], [0], Drafting())
    with pytest.raises(ConfigError, match="no language model head"):
        make_drafter(make_model().model, tiny_tokenizer).draft([[5]], [0], Drafting())
    seq2seq.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="encoder–decoder model; give a decoder-only one"):
        load_checkpoint(str(tmp_path))


def test_cancellation_stops_at_the_next_token(drafter: Drafter) -> None:
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(SamplingCancelled):
        drafter.draft([[5]], [0], Drafting(max_tokens=50), cancelled=cancelled)
    assert len(asked) == 4


def test_broken_weights_are_an_error(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    broken = make_model()
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(GenerationError, match="not a number"):
        make_drafter(broken, tiny_tokenizer).draft([[5]], [0], Drafting())


logit_rows = st.lists(st.integers(-3, 3), min_size=4, max_size=12).map(lambda row: torch.tensor([row, row[::-1]], dtype=torch.float32))


@given(logits=logit_rows, k=st.integers(1, 4), temperature=st.floats(0.05, 3))
def test_kept_tokens_break_ties_by_id(logits: torch.Tensor, k: int, temperature: float) -> None:
    ids, logprobs = kept_tokens(logits, Drafting(k=k, temperature=temperature))
    for row, kept, terms in zip(logits.tolist(), ids.tolist(), logprobs, strict=True):
        assert kept == sorted(range(len(row)), key=lambda token: (-row[token], token))[: 3 * k]
        expected = torch.tensor([row[token] / temperature for token in kept], dtype=torch.float64).log_softmax(0)
        np.testing.assert_allclose(terms, expected.numpy(), atol=1e-9)


def test_equal_drafts_keep_their_order() -> None:
    """Where all is equally likely, the earlier draft and the lower token win, in every run."""
    frontier = Frontier([[1]], Drafting(k=2), room=2)
    kept, even = np.array([[3, 4, 8]]), np.log(np.full((1, 3), 1 / 3))
    for _ in range(2):
        assert frontier.extend(kept, even, lambda drafts, parents, found: np.zeros(found.shape, bool)) == []
    assert [frontier.sequence(0, place)[0] for place in (0, 1)] == [[3, 3], [3, 4]]
    assert frontier.weights.tolist() == [[0.5, 0.5]]


@given(
    model=st.lists(st.floats(-30, 0), min_size=1, max_size=6),
    ngrams=st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1)), min_size=6, max_size=6),
    alpha=st.floats(0.01, 1),
)
def test_smoothing_by_its_definition(model: list[float], ngrams: list[float], alpha: float) -> None:
    ngrams = ngrams[: len(model)]
    found = smoothed(np.array(model), np.array(ngrams), alpha, -200.0)
    overlap = any(ngrams)
    for value, own, other in zip(found.tolist(), model, ngrams, strict=True):
        if not overlap:
            assert value == pytest.approx((1 - alpha) * own - 200)
        elif other:
            assert math.exp(value) == pytest.approx(math.exp(own) ** (1 - alpha) * other**alpha)
        else:
            assert value == -math.inf


def test_a_perplexity_beyond_all_floats_is_infinite() -> None:
    assert Draft("", (1,), (-1e4,)).perplexity == math.inf
    assert Draft("", (1, 2), (-1.0, -3.0)).perplexity == pytest.approx(math.exp(2))


def test_linearity_of_one_draft_is_perfect(model: PreTrainedModel) -> None:
    for step in measure(model, PROMPTS, Drafting(k=1, max_tokens=5), eos_ids=set(), max_len=128):
        assert (step.prompts, step.top_weight) == (5, 1.0)
        assert step.cosine == pytest.approx(1, abs=1e-6)
        assert step.control < 0.9


@torch.inference_mode()
def test_linearity_equals_its_definition(model: PreTrainedModel) -> None:
    """The first step by hand: the superposition and each draft after the prompt, hidden states before the output layer."""
    drafting, embedding = Drafting(k=3, max_tokens=2, temperature=1.0), model.get_input_embeddings()
    cosines = []
    for prompt in PROMPTS:
        logits = model(torch.tensor([prompt])).logits[0, -1]
        shares, drafts = logits.softmax(-1).topk(3)
        shares = shares / shares.sum()
        before = embedding(torch.tensor(prompt))

        def state(last: torch.Tensor, before: torch.Tensor = before) -> torch.Tensor:
            return model.model(inputs_embeds=torch.cat([before, last])[None]).last_hidden_state[0, -1]

        mixed = state((shares[:, None] * embedding(drafts)).sum(0, keepdim=True))
        combined = sum(share * state(embedding(draft)[None]) for share, draft in zip(shares, drafts, strict=True))
        cosines.append(float(torch.cosine_similarity(mixed, combined, dim=0)))
    first, second = measure(model, PROMPTS, drafting, eos_ids=set(), max_len=128)
    assert first.cosine == pytest.approx(np.mean(cosines), abs=1e-5)
    assert first.deviation == pytest.approx(np.std(cosines), abs=1e-5)
    assert (first.step, second.step) == (1, 2)
    assert second.cosine < 0.9999


def test_linearity_says_what_it_needs(model: PreTrainedModel) -> None:
    with pytest.raises(ConfigError, match="give 2 or more"):
        measure(model, PROMPTS[:1], Drafting(), eos_ids=set(), max_len=128)
    with pytest.raises(ConfigError, match="no room for 10 steps of 12"):
        measure(model, PROMPTS, Drafting(), eos_ids=set(), max_len=12)
    nothing_left = measure(model, PROMPTS, Drafting(max_tokens=2), eos_ids=set(range(VOCABULARY)), max_len=128)
    assert [step.prompts for step in nothing_left] == [0, 0]
