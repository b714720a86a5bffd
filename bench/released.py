"""Real data: the solutions to GSM8K's test problems that four systems gave and their authors released with labels (arXiv 2110.14168).

    CLEAVE_DATA=… python -m bench.released --threads 2        # about an hour on two cores; goes on after a stop
    CLEAVE_DATA=… python -m bench.released --tokens 20000 --name released-try        # the mechanics

A small language model is trained from nothing on the 7,473 training problems, and a verifier from it on the released solutions, once per
fold of a cross-validation by question: each verifier judges the solutions of questions that it never saw. Reported: how well it tells
right from wrong (AUC over all 5,276 solutions and within each system, by fold and with an interval over questions), and what choosing
among the four solutions of a question solves: by the verifier, by it and the systems' own shares of right answers on the other folds, by
majority, by the best single system, by an oracle. Rules without a verifier break ties as cleave/selection.py does.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.verifier import build_verifier
from cleave.calibration import auc, ece
from cleave.collection import Collection
from cleave.config.base import validate
from cleave.config.distill import DistillConfig
from cleave.config.roles import VerifierConfig
from cleave.config.screening import CollectionConfig
from cleave.console import print_table, say
from cleave.intervals import Interval
from cleave.roles import VerifyReply, VerifyRequest
from cleave.runs import METRICS, RunFolder
from cleave.selection import select
from cleave.tasks.folder import data_folder
from cleave.tasks.registry import get_task
from cleave.tasks.rows import read_jsonl
from cleave.tasks.scoring import final_answer, normalise
from cleave.traces import ScoredTrace
from cleave.types import Problem, Solution, Trace
from pipelines import distill
from pipelines.evaluation_summary import points
from pipelines.screened import is_held_out

SYSTEMS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
FOLDS = 5
VOCABULARY = 2048
RESAMPLES = 2000
SHAPE = {"hidden_size": 160, "intermediate_size": 432, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4}
Outcomes = np.ndarray[Any, np.dtype[np.float64]]
Judged = dict[str, tuple[float, ...]]
"""The four probabilities by problem."""


@dataclass(frozen=True)
class Question:
    """A test problem with the four systems' solutions, and whether each is right."""

    problem: Problem
    solutions: tuple[Solution, ...]
    right: tuple[bool, ...]


def questions() -> list[Question]:
    """All 1,319, in the file's order."""
    task = get_task("gsm8k")
    rows = read_jsonl(data_folder("gsm8k", None) / "example_model_solutions.jsonl")
    found = []
    for problem, row in zip(task.problems("test"), rows, strict=True):
        texts = [row.text(f"{system}.solution") for system in SYSTEMS]
        right = tuple(bool(row.get(f"{system}.is_correct")) for system in SYSTEMS)
        found.append(Question(problem, tuple(Solution(text=text, answer=final_answer(text)) for text in texts), right))
    return found


def write_collection(folder: RunFolder, some: Sequence[Question]) -> None:
    """The solutions as four samples of each problem."""
    there = Collection(folder)
    recipe = there.register({"solver": "the four systems of arXiv 2110.14168"})
    if not len(there.keys(recipe, "gsm8k")):
        rows = [ScoredTrace("released", "gsm8k", i, Trace(each.problem, "single", solutions=each.solutions)) for i, each in enumerate(some)]
        there.write(recipe, "released", rows)


def write_tokenizer(folder: Path) -> None:
    """Byte-pair encoding of the training problems alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if (folder / "tokenizer.json").exists():
        return
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>", "<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)


def training_texts() -> Iterator[str]:
    for problem in get_task("gsm8k").problems("train"):
        yield f"Question: {problem.question}\nSolution:\n" + "\n".join(step.text for step in problem.gold_steps)


def training(name: str, place: str, tokens: int, threads: int, **changes: Any) -> DistillConfig:
    """What both trainings have in common."""
    data = {
        "name": name,
        "storage_path": place,
        "prompts": "reference-v4",
        "tasks": ["gsm8k"],
        "train": {
            "max_tokens": tokens,
            "max_length": 640,
            "per_device_train_batch_tokens": 4096,
            "learning_rate": 1.0e-3,
            "bf16": False,
            "report_to": [],
        },
        "evaluation": {"eval_steps": 100, "examples": 200, "generate": 0},
        "num_threads": threads,
    }
    return validate(DistillConfig, data | changes, name)


def judge(checkpoint: str, some: Sequence[Question]) -> Judged:
    """What a verifier says of questions."""

    async def asked() -> Sequence[VerifyReply]:
        verifier = build_verifier(VerifierConfig.model_validate(f"hf:{checkpoint}"))
        try:
            return await verifier([VerifyRequest(each.problem, each.solutions) for each in some])
        finally:
            await verifier.aclose()

    replies = asyncio.run(asked())
    return {
        each.problem.id: tuple(0.0 if verdict is None else verdict.score for verdict in reply.verdicts)
        for each, reply in zip(some, replies, strict=True)
    }


def cross_validate(options: argparse.Namespace, place: str, some: Sequence[Question]) -> tuple[Judged, dict[str, int]]:
    """Every question judged by the verifier that did not see it, and its fold."""
    tokenizer = Path(place) / "tokenizer"
    write_tokenizer(tokenizer)
    fresh = {"fresh": SHAPE | {"head_dim": 40}, "tokenizer": str(tokenizer)}
    alone = {"tasks": [{"task": "gsm8k", "eval_split": None}], "formats": {"single": 1.0}}
    distill.main(training("solver", place, 4 * options.tokens, options.threads, role="solver", init=fresh, **alone), quiet=True)
    judged: Judged = {}
    folds: dict[str, int] = {}
    for fold in range(FOLDS):
        traces = {"path": f"{place}/collection", "held_out": 1 / FOLDS, "fold": fold}
        learned = {"source": "collection", "collection": traces, "judge": {"loss": "cross_entropy", "per_problem": 4}}
        init = {"model": f"hf:{place}/solver/checkpoint"}
        config = training(f"fold-{fold}", place, options.tokens, options.threads, role="verifier", init=init, **learned)
        distill.main(config, quiet=True)
        held = [each for each in some if is_held_out(each.problem, CollectionConfig.model_validate(traces))]
        judged |= judge(f"{place}/fold-{fold}/checkpoint", held)
        folds |= {each.problem.id: fold for each in held}
    return judged, folds


def choices(some: Sequence[Question], judged: Judged, folds: dict[str, int]) -> dict[str, Outcomes]:
    """Whether each way of choosing is right on each question."""
    others = {fold: np.array([each.right for each in some if folds[each.problem.id] != fold]) for fold in range(FOLDS)}
    shares = {fold: right.mean(axis=0).tolist() for fold, right in others.items()}

    def with_share(each: Question, k: int) -> float:
        p, prior = judged[each.problem.id][k], shares[folds[each.problem.id]][k]
        return _log_odds(p) + _log_odds(prior)

    def best(score: Callable[[Question, int], float]) -> Outcomes:
        return np.array([each.right[max(range(4), key=lambda k: score(each, k))] for each in some], float)

    found = {system: np.array([each.right[k] for each in some], float) for k, system in enumerate(SYSTEMS)}
    found["majority"] = np.array([_majority(each) for each in some], float)
    found["the verifier's best"] = best(lambda each, k: judged[each.problem.id][k])
    found["the verifier's best, with each system's share"] = best(with_share)
    found["agreement, with each system's share"] = best(lambda each, k: _agreeing(each, k, shares[folds[each.problem.id]]))
    found["agreement, with the verifier and each system's share"] = best(
        lambda each, k: sum(1 / (1 + np.exp(-with_share(each, j))) for j in range(4) if _same(each, j, k))
    )
    found["oracle"] = np.array([any(each.right) for each in some], float)
    return found


def _same(each: Question, j: int, k: int) -> bool:
    one, other = each.solutions[j].answer, each.solutions[k].answer
    return one is not None and other is not None and normalise(one) == normalise(other)


def _agreeing(each: Question, k: int, shares: Sequence[float]) -> float:
    return sum(shares[j] for j in range(4) if _same(each, j, k))


def _majority(each: Question) -> bool:
    chosen = select("majority", each.solutions)
    return chosen is not None and each.right[chosen.index]


def _log_odds(p: float) -> float:
    p = min(max(p, 1e-6), 1 - 1e-6)
    return float(np.log(p / (1 - p)))


def mean_of(values: Outcomes) -> Interval:
    """The mean over questions."""
    return bootstrap(len(values), lambda drawn: float(values[drawn].mean()))


def bootstrap(count: int, statistic: Callable[[np.ndarray[Any, np.dtype[np.int64]]], float]) -> Interval:
    """Over questions: the statistic of all of them, with its percentile interval."""
    rng = np.random.default_rng(0)
    draws = [statistic(rng.integers(count, size=count)) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(statistic(np.arange(count)), float(low), float(high))


def aucs(some: Sequence[Question], judged: Judged) -> dict[str, Interval]:
    """Over all solutions, and of each system."""
    scores = np.array([judged[each.problem.id] for each in some])
    right = np.array([each.right for each in some])
    found = {"all four": bootstrap(len(some), lambda drawn: auc(scores[drawn].ravel().tolist(), right[drawn].ravel().tolist()))}
    for k, system in enumerate(SYSTEMS):
        found[system] = bootstrap(len(some), lambda drawn, k=k: auc(scores[drawn, k].tolist(), right[drawn, k].tolist()))  # type: ignore[misc]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_500_000, help="of each verifier; the model they start from takes 4 times that")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--name", default="released", help="run folder")
    options = parser.parse_args()
    folder = RunFolder.open("runs", options.name)
    folder.prepare()
    some = questions()
    place = f"runs/{options.name}"
    write_collection(RunFolder.open(place, "collection"), some)
    judged, folds = cross_validate(options, place, some)
    known, chosen = aucs(some, judged), choices(some, judged, folds)
    above = {name: mean_of(values - chosen["majority"]) for name, values in chosen.items()}
    solved = {name: mean_of(values) for name, values in chosen.items()}
    scores = [(p, right) for each in some for p, right in zip(judged[each.problem.id], each.right, strict=True)]
    error = ece([p for p, _ in scores], [right for _, right in scores])
    rows: list[dict[str, Any]] = [{"kind": "auc", "of": name, **vars(found)} for name, found in known.items()]
    rows += [{"kind": "choice", "by": name, **vars(solved[name]), "above_majority": vars(above[name])} for name in chosen]
    folder.write_lines(METRICS, [*rows, {"kind": "calibration", "ece": error}])
    shown = [[name, f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"] for name, found in known.items()]
    print_table(["of", "AUC"], shown, title="Right from wrong")
    table = [[name, str(solved[name]), points(above[name])] for name in chosen]
    print_table(["chosen by", "right, %", "points above majority"], table, title="Choosing among the four")
    say(f"expected calibration error {error:.3f}; results are in runs/{options.name}/{METRICS}")


if __name__ == "__main__":
    main()
