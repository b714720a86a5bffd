"""Quality of superposed drafts by k, against greedy, nucleus and beam search at equal compute: exact match, perplexity, coverage.

    python -m bench.drafts                                         # the reference models, 500 problems of each task
    python -m bench.drafts --problems 8 --ks 1 3 --samples 4 --tasks arithmetic --kinds step --to /tmp/try     # a try in a minute
    python -m bench.drafts --json                                  # also print the result

A case is a kind of question (draft_questions.py), a task and a model: the role's own, and the undistilled student. Reported for each, after
arXiv 2405.18400: (1) P@1 … P@k, the share of questions of which one of the first i continuations is right; P@k is best-of-k exact match;
(2) FLOPs over those of the greedy reply, and P@k against as many nucleus samples, and as wide a beam, as the same FLOPs pay for, paired;
(3) perplexity of the continuations under the role's own model, the student's teacher: by rank, and of the best of k; (4) coverage: n
nucleus samples against n - 1 and one superposed pass of 3 drafts in the place of the other. Drafts come with and without n-grams, which
are counted in train splits. Results lie in a folder: a file per case, which is not measured again, drafts.json and drafts.svg.
Left out: wall-clock speed (decoding.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from bench.continuations import Continuations, Writer
from bench.draft_figures import quality_by_cost
from bench.draft_questions import MAX_TOKENS, Kind, Question, questions
from cleave.corpus import texts
from cleave.decoding.draft import Drafting
from cleave.decoding.ngram_counts import build, shards_of
from cleave.decoding.ngrams import NgramTables
from cleave.intervals import Pairs, paired_difference, wilson
from cleave.manifest import manifest
from cleave.ngram_building import encoded, load_tokenizer
from cleave.prompts import load_prompts
from cleave.types import Sampling

DRAFTS, SMOOTHED, NUCLEUS, BEAM = "drafts", "drafts with n-grams", "nucleus", "beam"
COVERAGE_K = 3
"""Drafts that take the place of one sample, as in the paper."""
Hits = npt.NDArray[np.bool_]
Perplexities = Mapping[tuple[int, str], float]
"""By question and continuation."""


@dataclass(frozen=True)
class Case:
    """What is asked, and of whom. `teacher` says how good a continuation is."""

    kind: Kind
    task: str
    model: str
    teacher: str

    @property
    def name(self) -> str:
        return "-".join((self.kind, self.task, *self.model.replace("/", ":").split(":")))


@dataclass(frozen=True)
class Way:
    """One way to continue, on all questions of a case: which continuations are right (Q, k), the FLOPs of a question, the texts."""

    method: str
    hits: Hits
    flops: float
    written: Sequence[Continuations]

    @property
    def k(self) -> int:
        return int(self.hits.shape[1])

    def solved(self, k: int) -> Hits:
        """Of which questions one of the first k continuations is right, (Q,)."""
        return np.asarray(self.hits[:, :k].any(axis=1))


def cases(options: argparse.Namespace) -> list[Case]:
    teachers: dict[Kind, str] = {"plan": options.decomposer, "step": options.solver, "answer": options.solver}
    return [
        Case(kind, task, model, teachers[kind])
        for kind in options.kinds
        for task in options.tasks
        for model in dict.fromkeys((teachers[kind], options.student))
    ]


async def measure(case: Case, asked: Sequence[Question], writer: Writer, teacher: Writer, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one case."""
    ways = await continue_all(case.kind, asked, writer, options)
    perplexities = await perplexities_of(ways, asked, teacher)
    greedy = next(way for way in ways if way.method == DRAFTS and way.k == 1)
    nucleus = [way for way in ways if way.method == NUCLEUS]
    return {
        "kind": case.kind,
        "task": case.task,
        "model": case.model,
        "teacher": case.teacher,
        "questions": len(asked),
        "greedy_flops": greedy.flops,
        "ways": [figures(way, greedy) | {"perplexity": perplexity(way, perplexities)} for way in ways],
        "equal_compute": [at_equal_compute(way, ways) for way in ways if way.method in (DRAFTS, SMOOTHED) and way.k > 1],
        "coverage": coverage(nucleus, next(way for way in ways if way.method == DRAFTS and way.k == COVERAGE_K)),
    }


async def continue_all(kind: Kind, asked: Sequence[Question], writer: Writer, options: argparse.Namespace) -> list[Way]:
    """Every method at every k. Samples of a smaller n are the first ones of the largest."""
    ways = []
    for k in sorted({1, COVERAGE_K, *options.ks}):
        drafting = Drafting(k, MAX_TOKENS[kind], reset_every=options.reset_every)
        ways.append(way_of(DRAFTS, asked, await writer.drafts(asked, drafting, smooth=False), k))
        ways.append(way_of(SMOOTHED, asked, await writer.drafts(asked, drafting, smooth=True), k))
        ways.append(way_of(BEAM, asked, writer.beams(asked, k, MAX_TOKENS[kind]), k))
    sampling = Sampling(MAX_TOKENS[kind], options.temperature, options.top_p, n=options.samples)
    drawn = await writer.nucleus(asked, sampling)
    return ways + [way_of(NUCLEUS, asked, [replies[n - 1] for replies in drawn], n) for n in range(1, options.samples + 1)]


def way_of(method: str, asked: Sequence[Question], written: Sequence[Continuations], k: int) -> Way:
    hits = np.zeros((len(asked), k), bool)
    for row, (question, continuations) in enumerate(zip(asked, written, strict=True)):
        right = [question.is_right(text) for text in continuations.first(k)]
        hits[row, : len(right)] = right
    return Way(method, hits, float(np.mean([continuations.flops for continuations in written])), written)


def figures(way: Way, greedy: Way) -> dict[str, Any]:
    found = [wilson(int(way.solved(i).sum()), len(way.hits)) for i in range(1, way.k + 1)]
    return {
        "method": way.method,
        "k": way.k,
        "flops_over_greedy": way.flops / greedy.flops,
        "precision_at": [interval.value for interval in found],
        "intervals": [[interval.low, interval.high] for interval in found],
        "continuations": float(np.mean([len(continuations.texts) for continuations in way.written])),
    }


async def perplexities_of(ways: Sequence[Way], asked: Sequence[Question], teacher: Writer) -> Perplexities:
    """Of all continuations, each text of a question once: samples of a smaller n are the first of a larger one, ways often agree."""
    places = list(dict.fromkeys((row, text) for way in ways for row, written in enumerate(way.written) for text in written.first(way.k)))
    found = await teacher.perplexities([asked[row] for row, _ in places], [text for _, text in places])
    return dict(zip(places, found, strict=True))


def perplexity(way: Way, perplexities: Perplexities) -> dict[str, Any]:
    """Mean and standard deviation under the teacher, by rank and of each question's best continuation. Empty ones have none."""
    values = np.full(way.hits.shape, np.nan)
    for row, written in enumerate(way.written):
        for rank, text in enumerate(written.first(way.k)):
            values[row, rank] = perplexities[row, text]
    best = np.where(np.isnan(values), np.inf, values).min(axis=1)
    return {"by_rank": [spread(column) for column in values.T], "best": spread(best)}


def spread(values: npt.NDArray[np.float64]) -> dict[str, float | int | None]:
    """Mean and standard deviation of what is finite; None where nothing is."""
    known = values[np.isfinite(values)]
    return {"mean": float(known.mean()) if len(known) else None, "sd": float(known.std()) if len(known) else None, "n": len(known)}


def at_equal_compute(way: Way, ways: Sequence[Way]) -> dict[str, Any]:
    """Against the most samples, and the widest beam, that cost no more; the first of either where none is so cheap. The difference is
    that of P@k, in shares, with its 95 % interval over questions."""
    return {"method": way.method, "k": way.k} | {method: against(way, method, ways) for method in (NUCLEUS, BEAM)}


def against(way: Way, method: str, ways: Sequence[Way]) -> dict[str, Any]:
    rivals = sorted((rival for rival in ways if rival.method == method), key=lambda rival: rival.k)
    affordable = [rival for rival in rivals if rival.flops <= way.flops]
    rival = affordable[-1] if affordable else rivals[0]
    difference = compared(way.solved(way.k), rival.solved(rival.k))
    return {"k": rival.k, "flops_ratio": rival.flops / way.flops, "precision": float(rival.solved(rival.k).mean()), **difference}


def coverage(nucleus: Sequence[Way], drafts: Way) -> list[dict[str, Any]]:
    """By n: n samples, and the first n - 1 of them with the drafts."""
    rows = []
    for way in sorted(nucleus, key=lambda way: way.k):
        mixed = drafts.solved(drafts.k) | way.solved(way.k - 1)
        rows.append({"n": way.k, NUCLEUS: float(way.solved(way.k).mean()), "with_drafts": float(mixed.mean())})
        rows[-1] |= compared(mixed, way.solved(way.k))
    return rows


def compared(ours: Hits, theirs: Hits) -> dict[str, float]:
    found = paired_difference(Pairs(len(ours), int((ours & ~theirs).sum()), int((theirs & ~ours).sum())), resamples=2000)
    return {"difference": found.value, "low": found.low, "high": found.high}


def count_ngrams(folder: Path, options: argparse.Namespace) -> NgramTables:
    """Tables of the tasks' train splits in the student's tokens; the other models are to have the same."""
    tokenizer = load_tokenizer(options.student)
    sources = [f"task:{task}/train" for task in options.tasks]
    found = texts(sources, limit=options.ngram_problems, prompts=options.prompts)
    return build(folder, shards_of(encoded(tokenizer, found)), tokenizer.get_vocab(), model=options.student, sources=sources, name="ngrams")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is not there yet; returns all."""
    done, wanted = options.to / "cases", {key: value for key, value in vars(options).items() if key not in ("to", "json", "kinds")}
    done.mkdir(parents=True, exist_ok=True)
    tables = count_ngrams(options.to, options)
    prompts = load_prompts(options.prompts)
    writers: dict[str, Writer] = {}
    results = []
    for case in cases(options):
        place = done / f"{case.name}.json"
        kept = json.loads(place.read_text()) if place.is_file() else {}
        if kept.get("options") != wanted:
            print(f"{case.name} …", file=sys.stderr)
            for name in (case.model, case.teacher):
                writers[name] = writers.get(name) or Writer(name, tables)
            asked = questions(case.kind, case.task, options.problems, prompts)
            measured = await measure(case, asked, writers[case.model], writers[case.teacher], options)
            kept = {"options": wanted, **measured}
            place.write_text(json.dumps(kept))
        results.append(kept)
    for writer in writers.values():
        await writer.aclose()
    return {"manifest": manifest(), "ngrams": {"tokens": tables.info.tokens, "address": tables.info.address}, "cases": results}


def show(results: dict[str, Any]) -> None:
    """One line per case and way of the largest k."""
    for case in results["cases"]:
        print(f"{case['kind']}, {case['task']}, {case['model']}, {case['questions']} questions")
        for way in case["ways"]:
            if way["method"] == NUCLEUS and way["k"] & (way["k"] - 1):
                continue
            best = way["perplexity"]["best"]["mean"]
            shares = " ".join(f"{100 * share:.1f}" for share in way["precision_at"])
            cost = f"{way['flops_over_greedy']:.2f} × greedy"
            print(f"  {way['method']} k={way['k']}: P@1… {shares}  {cost}  best perplexity {math.nan if best is None else best:.2f}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500, help="problems per task (default 500)")
    parser.add_argument("--tasks", nargs="+", default=["arithmetic", "lookup", "reading"], help="reference tasks (default all)")
    parser.add_argument("--kinds", nargs="+", choices=get_args(Kind), default=list(get_args(Kind)), help="what is asked (default all)")
    parser.add_argument("--ks", nargs="+", type=int, default=[1, 2, 3, 5, 8], help="drafts and beams (default 1 2 3 5 8); 1 and 3 always")
    parser.add_argument("--samples", type=int, default=10, help="most nucleus samples (default 10)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the nucleus samples (default 1)")
    parser.add_argument("--top-p", type=float, default=0.9, help="their nucleus (default 0.9)")
    parser.add_argument("--reset-every", type=int, default=0, help="tokens after which drafts restart from one of them (default 0: never)")
    parser.add_argument("--ngram-problems", type=int, default=20_000, help="train problems per task counted for n-grams (default 20,000)")
    parser.add_argument("--decomposer", default="reference:decomposer", help="who writes plans (default reference:decomposer)")
    parser.add_argument("--solver", default="reference:solver", help="who answers (default reference:solver)")
    parser.add_argument("--student", default="reference:base", help="the undistilled model (default reference:base)")
    parser.add_argument("--prompts", default="reference-v1", help="prompt set of plain text (default reference-v1)")
    parser.add_argument("--to", type=Path, default=Path("runs/drafts"), help="folder of the results (default runs/drafts)")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    results = asyncio.run(run(options))
    (options.to / "drafts.json").write_text(json.dumps(results))
    (options.to / "drafts.svg").write_text(quality_by_cost(results["cases"]))
    print(json.dumps(results)) if options.json else show(results)


if __name__ == "__main__":
    main()
