"""Superposed drafts against nucleus sampling, and what n-gram tables cost: ratios of things measured in turn in one run.

    python -m bench.decoding                                                    # a random model of 138M parameters, and the tiny one
    python -m bench.decoding --layers 2 --hidden 128 --vocabulary 2000 --corpus-tokens 200000 --repeats 2      # a try in seconds
    python -m bench.decoding --json

Reported, for drafts of 10 tokens after prompts of 15, at batch 1: (1) k nucleus runs one after another over k superposed drafts, n-gram
look-up included, at k = 3 and 8 (the paper, arXiv 2405.18400: 2.44 and 3.54); (2) one batched nucleus run of k samples over the same, which
the paper leaves out; (3) the time of 8 drafts over that of 3; (4) the share of look-ups in the time of 8 drafts; (5) how fast tables are
built, by processes, and their bytes per distinct n-gram. The corpus is random with a Zipf law over tokens and over what follows one. (1) to
(4): one thread, CPU seconds of this process, medians; (5): wall seconds, once.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from bench.sampler import make_model, make_tokenizer, medians
from cleave.decoding.draft import Drafting
from cleave.decoding.ngram_counts import build, shards_of
from cleave.decoding.ngrams import F64, I64, NgramTables
from cleave.decoding.sample import Sampler
from cleave.decoding.superposed import Drafter
from cleave.manifest import manifest
from cleave.types import Sampling

PROMPT_TOKENS, DRAFT_TOKENS = 15, 10
PROMPTS = 4
TEXT_TOKENS = 500
KS = (3, 8)


class TimedTables(NgramTables):
    """Tables that add up the seconds of their look-ups."""

    seconds = 0.0

    def look_up(self, contexts: I64, tokens: I64, weights: Sequence[float]) -> tuple[F64, I64]:
        start = time.process_time()
        found = super().look_up(contexts, tokens, weights)
        self.seconds += time.process_time() - start
        return found


def make_large(layers: int, hidden: int, vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 64),
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config).eval()


def make_corpus(tokens: int, vocabulary: int) -> list[list[int]]:
    """Texts in which each token is a Zipf draw, shifted by the token before, so that n-grams repeat."""
    rng = np.random.default_rng(0)
    drawn = np.minimum(rng.zipf(1.5, (max(1, tokens // TEXT_TOKENS), TEXT_TOKENS)), vocabulary) - 1
    for column in range(1, TEXT_TOKENS):
        drawn[:, column] = (drawn[:, column] + 7 * drawn[:, column - 1]) % vocabulary
    texts: list[list[int]] = drawn.tolist()
    return texts


def building(folder: Path, texts: list[list[int]], vocabulary: int, workers: int) -> tuple[str, dict[str, float]]:
    """Build tables; returns their place, and rates."""
    start = time.perf_counter()
    named = {f"t{i}": i for i in range(vocabulary)}
    tables = build(folder, shards_of(texts), named, model="bench", sources=["random"], workers=workers)
    seconds = time.perf_counter() - start
    distinct = sum(tables.info.distinct)
    rates = {
        "tokens": tables.info.tokens,
        "processes": workers,
        "s": seconds,
        "tokens_per_s": tables.info.tokens / seconds,
        "distinct_ngrams": distinct,
        "bytes_per_ngram": tables.info.bytes / distinct,
    }
    return tables.place, rates


def drafting(model: PreTrainedModel, tables: TimedTables, texts: list[list[int]], repeats: int) -> dict[str, float]:
    """Seconds per prompt of each way to k continuations, and their ratios."""
    tokenizer, prompts = make_tokenizer(), [text[:PROMPT_TOKENS] for text in texts[:PROMPTS]]
    sampler = Sampler(model, tokenizer, eos_ids=frozenset(), max_len=512)
    drafter = Drafter(model, tokenizer, eos_ids=frozenset(), max_len=512, ngrams=tables)

    def drafts(k: int) -> Callable[[], int]:
        return lambda: sum(drafter.draft([prompt], [0], Drafting(k=k, max_tokens=DRAFT_TOKENS))[0].decoded for prompt in prompts)

    def nucleus(n: int, times: int) -> Callable[[], int]:
        sampling = Sampling(max_tokens=DRAFT_TOKENS, temperature=1.0, top_p=0.9, n=n)
        return lambda: sum(
            len(row.tokens) for prompt in prompts for seed in range(times) for row in sampler.sample([prompt], [seed], sampling)[0]
        )

    ways = {f"drafts_{k}": drafts(k) for k in KS}
    ways |= {f"sequential_{k}": nucleus(1, k) for k in KS} | {f"batched_{k}": nucleus(k, 1) for k in KS}
    spent = {name: seconds / len(prompts) for name, (seconds, _) in medians(ways, repeats).items()}
    results = {"parameters": float(sum(parameter.numel() for parameter in model.parameters()))}
    results |= {f"{name}_s": seconds for name, seconds in spent.items()}
    for k in KS:
        results[f"sequential_over_drafts_{k}"] = spent[f"sequential_{k}"] / spent[f"drafts_{k}"]
        results[f"batched_over_drafts_{k}"] = spent[f"batched_{k}"] / spent[f"drafts_{k}"]
    results["drafts_8_over_3"] = spent["drafts_8"] / spent["drafts_3"]
    results["look_up_share_8"] = look_up_share(ways["drafts_8"], tables, repeats)
    return results


def look_up_share(draft: Callable[[], int], tables: TimedTables, repeats: int) -> float:
    """Look-up's part of the time of drafting; the context of the prompt, looked up once, included."""
    shares = []
    for _ in range(repeats):
        tables.seconds, start = 0.0, time.process_time()
        draft()
        shares.append(tables.seconds / (time.process_time() - start))
    return float(np.median(shares))


def measure(model: PreTrainedModel, options: argparse.Namespace, vocabulary: int) -> dict[str, dict[str, float]]:
    texts = make_corpus(options.corpus_tokens, vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        place, rates = building(Path(folder), texts, vocabulary, options.workers)
        print("drafting …", file=sys.stderr)
        tables = NgramTables.open(place)
        return {"tables": rates, "drafts": drafting(model, TimedTables(tables.orders, tables.info, place), texts, options.repeats)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="layers of the model (default 12)")
    parser.add_argument("--hidden", type=int, default=768, help="its hidden size, a multiple of 64 (default 768)")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="its vocabulary (default 32,000)")
    parser.add_argument(
        "--corpus-tokens", type=int, default=10_000_000, help="tokens that the tables are counted from (default 10,000,000)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that count (default: one per core)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of each comparison (default 7)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tiny = make_model()
    results: dict[str, dict[str, object]] = {"machine": manifest()["machine"] | {"load_average": os.getloadavg()[0]}}
    for name, model in (("large", make_large(options.layers, options.hidden, options.vocabulary)), ("tiny", tiny)):
        print(f"the {name} model: building tables …", file=sys.stderr)
        measured = measure(model, options, model.config.vocab_size)
        results |= {f"{name}, {part}": dict(values) for part, values in measured.items()}
    if options.json:
        print(json.dumps(results))
        return
    for name, value in results.items():
        shown = (f"{key} {number:.4g}" if isinstance(number, float) else f"{key} {number}" for key, number in value.items())
        print(f"{name}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
