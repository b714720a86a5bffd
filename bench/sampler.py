"""The sampler against transformers' `generate`, and what samples cost: ratios of things measured in turn in one run.

    python -m bench.sampler                     # a random model of 1.4M parameters, 64 and 16 prompts
    python -m bench.sampler --repeats 9 --json

Reported: (1) throughput of 64 prompts in our batches over a sequential loop of `generate`; (2) throughput of 8 nucleus samples of each
of 16 prompts of 20 to 200 tokens over `generate(num_return_sequences=8)`, in one left-padded batch and prompt by prompt; (3) that of
single prompts, greedy and sampled, one after another; (4) time of n = 8 over n = 1 at 16 prompts; (5) time with compaction of finished
rows, by threshold, over never; (6) time of 32 prompts with a common preamble of 300 tokens, read once, over reading it for each; (7) time
of short and long prompts in batches of their own, by the padding allowed, over one batch; (8) time of one growing-cache step over a
DynamicCache step. Replies end at random lengths as trained models' do. One thread, and CPU seconds of this process: equal to wall seconds
on a free machine, and still comparable on a busy one.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.cache_utils import Cache

from cleave.decoding import batch as batch_module
from cleave.decoding.sample import Sampler
from cleave.types import Sampling

VOCABULARY = 1024
EOS = set(range(12))  # about one token in eighty ends a reply
PROMPT_TOKENS = range(60, 124)
MAX_TOKENS = 96


def make_model(ends: bool = True) -> PreTrainedModel:
    """A random model; without `ends` no token ends a reply."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=160,
        intermediate_size=480,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=40,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=sorted(EOS) if ends else None,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config).eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({f"w{i} ": i for i in range(VOCABULARY)}, unk_token="w0 "))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def make_prompts(count: int) -> list[list[int]]:
    return [[(31 * i + 7 * j) % VOCABULARY for j in range(PROMPT_TOKENS[i % len(PROMPT_TOKENS)])] for i in range(count)]


def medians(variants: dict[str, Callable[[], int]], repeats: int) -> dict[str, tuple[float, int]]:
    """Median CPU seconds and generated tokens of each variant, measured in turn after one warm-up each."""
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    counts: dict[str, int] = {}
    for repeat in range(repeats):
        for name, run in variants.items():
            start = time.process_time()
            counts[name] = run()
            seconds[name].append(time.process_time() - start)
        print(f"round {repeat + 1} of {repeats}", file=sys.stderr)
    return {name: (statistics.median(seconds[name]), counts[name]) for name in variants}


def against_generate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, repeats: int) -> dict[str, float]:
    """Greedy, the same 64 prompts, the same end tokens."""
    prompts = make_prompts(64)
    sampler = Sampler(model, tokenizer, eos_ids=EOS, max_len=1024, max_batch_size=64)

    def ours() -> int:
        return sum(len(row.tokens) for [row] in sampler.sample(prompts, [0] * 64, Sampling(max_tokens=MAX_TOKENS)))

    def theirs() -> int:
        total = 0
        for prompt in prompts:
            ids = torch.tensor([prompt])
            with torch.inference_mode():
                out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_TOKENS, do_sample=False)
            total += out.shape[1] - len(prompt)
        return total

    timed = medians({"ours": ours, "generate": theirs}, repeats)
    rates = {name: tokens / seconds for name, (seconds, tokens) in timed.items()}
    return {"ours_tokens_per_s": rates["ours"], "generate_tokens_per_s": rates["generate"], "speedup": rates["ours"] / rates["generate"]}


def make_mixed(lengths: Sequence[int], preamble: int = 0) -> list[list[int]]:
    """Prompts of these lengths after a common preamble."""
    begin = [3 * j % VOCABULARY for j in range(preamble)]
    return [[*begin, *((31 * i + 7 * j) % VOCABULARY for j in range(length))] for i, length in enumerate(lengths)]


def generated(model: PreTrainedModel, prompts: Sequence[Sequence[int]], sampling: Sampling) -> int:
    """Tokens, up to the end of each reply, that transformers writes after one left-padded batch of prompts."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    drawing = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=sampling.max_tokens,
            num_return_sequences=sampling.n,
            **(drawing or {"do_sample": False}),
        )[:, longest:]
    ends = torch.isin(out, torch.tensor(model.config.eos_token_id or []))
    return int(torch.where(ends.any(1), ends.int().argmax(1) + 1, out.shape[1]).sum())


def drawn(sampler: Sampler, prompts: Sequence[Sequence[int]], sampling: Sampling) -> int:
    """Tokens that our sampler writes."""
    return sum(len(row.tokens) for rows in sampler.sample(prompts, range(len(prompts)), sampling) for row in rows)


def against_samples(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, repeats: int) -> dict[str, float]:
    """Eight samples of prompts of mixed lengths, and single prompts, against `generate`. Single replies are of equal length: where they end
    at random, prompts weigh more in the rate of the shorter ones."""
    prompts = make_mixed([20 + 37 * i % 180 for i in range(16)])
    sampler = Sampler(model, tokenizer, eos_ids=EOS, max_len=1024, max_batch_size=128)
    endless, few = make_model(ends=False), prompts[:6]
    single = Sampler(endless, tokenizer, eos_ids=frozenset(), max_len=1024)
    greedy, one = Sampling(max_tokens=MAX_TOKENS), Sampling(max_tokens=MAX_TOKENS, temperature=1.0, top_p=0.9)
    eight = Sampling(max_tokens=MAX_TOKENS, temperature=1.0, top_p=0.9, n=8)
    timed = medians(
        {
            "ours_8": lambda: drawn(sampler, prompts, eight),
            "batched_8": lambda: generated(model, prompts, eight),
            "one_by_one_8": lambda: sum(generated(model, [prompt], eight) for prompt in prompts),
            "ours_1": lambda: sum(drawn(single, [prompt], one) for prompt in few),
            "generate_1": lambda: sum(generated(endless, [prompt], one) for prompt in few),
            "ours_greedy_1": lambda: sum(drawn(single, [prompt], greedy) for prompt in few),
            "generate_greedy_1": lambda: sum(generated(endless, [prompt], greedy) for prompt in few),
        },
        repeats,
    )
    rates = {name: tokens / seconds for name, (seconds, tokens) in timed.items()}
    return {f"{name}_tokens_per_s": rate for name, rate in rates.items()} | {
        "over_batched_8": rates["ours_8"] / rates["batched_8"],
        "over_one_by_one_8": rates["ours_8"] / rates["one_by_one_8"],
        "over_generate_1": rates["ours_1"] / rates["generate_1"],
        "over_generate_greedy_1": rates["ours_greedy_1"] / rates["generate_greedy_1"],
    }


def gain_of_sharing(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, repeats: int) -> dict[str, float]:
    """Prompts that share a preamble, read once, over the same with nothing shared: whole replies, and the first token alone."""
    prompts = make_mixed(range(20, 52), preamble=300)
    samplers = {share: Sampler(model, tokenizer, eos_ids=EOS, max_len=1024, share_beginnings=share) for share in (True, False)}
    lengths = {"replies": MAX_TOKENS, "first_token": 1}

    def run(share: bool, tokens: int) -> Callable[[], int]:
        return lambda: drawn(samplers[share], prompts, Sampling(max_tokens=tokens, temperature=1.0))

    timed = medians({f"{name}_{share}": run(share, tokens) for name, tokens in lengths.items() for share in samplers}, repeats)
    return {name: timed[f"{name}_True"][0] / timed[f"{name}_False"][0] for name in lengths}


def gain_of_bucketing(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, repeats: int) -> dict[str, float]:
    """16 short and 16 long prompts, and 32 of lengths between, by the padding allowed, over one batch."""
    mixes = {"20_and_400": make_mixed([20] * 16 + [400] * 16), "20_to_400": make_mixed([20 + 137 * i % 380 for i in range(32)])}
    allowed = (1024, 4096, 10**9)

    def run(prompts: list[list[int]], most_padding: int) -> Callable[[], int]:
        sampler = Sampler(model, tokenizer, eos_ids=EOS, max_len=1024, most_padding=most_padding)
        return lambda: drawn(sampler, prompts, Sampling(max_tokens=MAX_TOKENS, temperature=1.0))

    timed = medians({f"{name}_{most}": run(prompts, most) for name, prompts in mixes.items() for most in allowed}, repeats)
    return {f"{name}_at_{most}": timed[f"{name}_{most}"][0] / timed[f"{name}_{allowed[-1]}"][0] for name in mixes for most in allowed[:-1]}


def cost_of_samples(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, repeats: int) -> dict[str, float]:
    """n = 8 over n = 1 at 16 prompts, temperature 1."""
    prompts = make_prompts(16)
    sampler = Sampler(model, tokenizer, eos_ids=EOS, max_len=1024, max_batch_size=128)

    def samples(n: int) -> Callable[[], int]:
        sampling = Sampling(max_tokens=MAX_TOKENS, n=n, temperature=1.0)
        return lambda: sum(len(row.tokens) for rows in sampler.sample(prompts, range(16), sampling) for row in rows)

    timed = medians({"n1": samples(1), "n8": samples(8)}, repeats)
    return {"n1_s": timed["n1"][0], "n8_s": timed["n8"][0], "ratio": timed["n8"][0] / timed["n1"][0]}


def cost_of_waiting(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, repeats: int) -> dict[str, float]:
    """Time by the share of finished rows at which a batch of 128 is compacted, over never compacting."""
    prompts = make_prompts(128)
    sampling = Sampling(max_tokens=MAX_TOKENS, temperature=1.0)

    def at(share: float) -> Callable[[], int]:
        sampler = Sampler(model, tokenizer, eos_ids=EOS, max_len=1024, max_batch_size=128, compact_at=share)
        return lambda: sum(len(row.tokens) for [row] in sampler.sample(prompts, range(128), sampling))

    shares: Sequence[float] = (2.0, 0.001, 0.1, 0.25, 0.5)
    timed = medians({str(share): at(share) for share in shares}, repeats)
    return {f"at_{share}": timed[str(share)][0] / timed["2.0"][0] for share in shares[1:]}


def cost_of_cache(model: PreTrainedModel, repeats: int, rows: int = 128, steps: int = 48) -> dict[str, float]:
    """Decoding steps of 128 equal prompts with our cache over transformers' DynamicCache."""
    prompts = [make_prompts(40)[-1]] * rows
    ours = batch_module.growing_cache

    def decode(make_cache: Callable[[PreTrainedModel], Cache]) -> Callable[[], int]:
        @torch.inference_mode()
        def run() -> int:
            batch_module.growing_cache = make_cache
            batch = batch_module.Batch(model, prompts, room=steps)
            for _ in range(steps):
                batch.step(batch.logits.argmax(-1))
            return rows * steps

        return run

    timed = medians({"ours": decode(ours), "dynamic": decode(lambda model: DynamicCache(config=model.config))}, repeats)
    batch_module.growing_cache = ours
    return {"ours_s": timed["ours"][0], "dynamic_s": timed["dynamic"][0], "ratio": timed["ours"][0] / timed["dynamic"][0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each comparison (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = make_model(), make_tokenizer()
    results: dict[str, object] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "load_average": os.getloadavg()[0],
        "64 prompts, greedy, against generate": against_generate(model, tokenizer, options.repeats),
        "against generate, n=8 of 16 mixed prompts, and n=1": against_samples(model, tokenizer, options.repeats),
        "32 prompts, shared preamble over not": gain_of_sharing(model, tokenizer, options.repeats),
        "32 prompts, batches by length over one": gain_of_bucketing(model, tokenizer, options.repeats),
        "16 prompts, n=8 over n=1": cost_of_samples(model, tokenizer, options.repeats),
        "128 rows, compaction over none": cost_of_waiting(model, tokenizer, options.repeats),
        "128 rows, growing over dynamic cache": cost_of_cache(model, options.repeats),
    }
    if options.json:
        print(json.dumps(results))
        return
    for name, value in results.items():
        print(f"{name}: {value if not isinstance(value, dict) else ', '.join(f'{key} {number:.3g}' for key, number in value.items())}")


if __name__ == "__main__":
    main()
