"""What verifying costs: eight solutions of a problem against one forward pass over as many tokens, and choosing among a million samples.

    python -m bench.verify                      # a random model of 1.4M parameters, problems of 120 tokens, solutions of 60
    python -m bench.verify --prefix 400 --rest 100 --repeats 15 --json

Reported: (1) scoring two words after each of the 8 solutions, what they share read once, over one plain forward pass of the model over
the problem and the 8 solutions behind each other; the same of 8 texts read one by one; (2) seconds and memory of each selection rule on
recorded scored samples. One thread, CPU seconds of this process, measured in turn, medians.
"""

import argparse
import gc
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from transformers import PreTrainedModel

from bench.sampler import VOCABULARY, make_model, medians
from cleave.config.reasoning import RULES
from cleave.decoding.score import score_batch
from cleave.selection import Candidate, choose, clusters

SOLUTIONS = 8
PER_PROBLEM = 64
RIGHT, WRONG = 5, 6
Pairs = list[tuple[list[int], int]]


def make_pairs(prefix: int, rest: int, problem: int) -> Pairs:
    """Sixteen (ids, border): each of 8 solutions of one problem with the one and with the other word."""
    rng = random.Random(problem)
    asked = [rng.randrange(16, VOCABULARY) for _ in range(prefix)]
    solutions = [[rng.randrange(16, VOCABULARY) for _ in range(rest)] for _ in range(SOLUTIONS)]
    return [([*asked, *solution, word], prefix + rest) for solution in solutions for word in (RIGHT, WRONG)]


def verifying(model: PreTrainedModel, prefix: int, rest: int, repeats: int) -> dict[str, float]:
    """Seconds per problem and their ratios to one forward pass."""
    problems = [make_pairs(prefix, rest, k) for k in range(8)]
    everything = [torch.randint(16, VOCABULARY, (1, prefix + SOLUTIONS * rest)) for _ in problems]

    def shared() -> int:
        return sum(scored.read for pairs in problems for scored in score_batch(model, pairs, 64))

    def apart() -> int:
        return sum(scored.read for pairs in problems for pair in pairs[::2] for scored in score_batch(model, [pair], 64))

    @torch.inference_mode()
    def forward() -> int:
        for ids in everything:
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
        return sum(ids.numel() for ids in everything)

    timed = medians({"forward": forward, "shared": shared, "apart": apart}, repeats)
    base = timed["forward"][0]
    return {
        "forward_s": base / len(problems),
        "shared_over_forward": timed["shared"][0] / base,
        "apart_over_forward": timed["apart"][0] / base,
        "tokens_forward": timed["forward"][1] / len(problems),
        "tokens_shared": timed["shared"][1] / len(problems),
        "tokens_apart": timed["apart"][1] / len(problems),
    }


def drawn(samples: int) -> Iterator[list[Candidate]]:
    """Scored candidates of one problem after another, made one at a time."""
    rng = random.Random(0)
    for _ in range(samples // PER_PROBLEM):
        yield [Candidate(i, str(int(rng.gammavariate(1.5, 3))), rng.random(), rng.random()) for i in range(PER_PROBLEM)]


def choosing(samples: int) -> dict[str, float]:
    """CPU seconds of clustering and of each rule; growth of the peak memory in MiB from a hundredth of the samples to all."""
    spent: dict[str, float] = {}

    def measure(name: str, run: Callable[[], object]) -> None:
        start = time.process_time()
        run()
        spent[name] = spent.get(name, 0.0) + time.process_time() - start

    def all_rules(many: int) -> None:
        for found in drawn(many):
            ranked = clusters(found)
            measure("clusters_s", lambda found=found: clusters(found))  # type: ignore[misc]
            for rule in RULES:
                measure(f"{rule}_s", lambda rule=rule, ranked=ranked: choose(rule, ranked))  # type: ignore[misc]

    all_rules(samples // 100)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent.clear()
    all_rules(samples)
    return spent | {"growth_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefix", type=int, default=120, help="tokens of a problem with its prompt (default 120)")
    parser.add_argument("--rest", type=int, default=60, help="tokens of a solution (default 60)")
    parser.add_argument("--samples", type=int, default=1_000_000, help="scored samples to choose among (default 1,000,000)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of each comparison (default 9)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("verifying …", file=sys.stderr)
    results: dict[str, object] = {
        "load_average": os.getloadavg()[0],
        "8 solutions over one forward": verifying(make_model(), options.prefix, options.rest, options.repeats),
        f"{options.samples:,} samples, {PER_PROBLEM} per problem": choosing(options.samples),
    }
    if options.json:
        print(json.dumps(results))
        return
    for name, value in results.items():
        print(f"{name}: {value if not isinstance(value, dict) else ', '.join(f'{key} {number:.3g}' for key, number in value.items())}")


if __name__ == "__main__":
    main()
