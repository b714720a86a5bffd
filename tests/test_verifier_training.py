"""Training a verifier: its examples, its losses against the textbook formula, and a run from a collection to a calibrated checkpoint."""

import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from actors.judge import Judge
from actors.verifier import build_verifier
from cleave.calibration import Calibration, VerifierCalibration
from cleave.collection import Collection
from cleave.config.base import validate
from cleave.config.distill import DistillConfig
from cleave.config.judge import JudgeConfig
from cleave.config.model import ModelConfig
from cleave.config.roles import VerifierConfig
from cleave.config.screening import CollectionConfig
from cleave.errors import ConfigError, DataError
from cleave.examples import Example, read_shard, write_shard
from cleave.lm.build import build
from cleave.packing import pack, pad
from cleave.plans import parse_plan
from cleave.prompts import load_prompts
from cleave.roles import VerifyRequest
from cleave.runs import RunFolder
from cleave.solutions import parse_solution, parse_steps
from cleave.tasks.registry import get_task
from cleave.traces import ScoredTrace
from cleave.types import Problem, Prompt, Sampling, Solution, Trace, Verdict
from cleave.verdict_examples import JudgedSolution, VerdictEncoder, VerdictTokens
from cleave.verdict_loss import VerdictLoss, from_scalar
from pipelines.calibrate import _steps
from pipelines.distill import check, main
from pipelines.judged import JudgedProblem, JudgedSource, check_judged, judged, split, with_extras
from tests.test_distill import SHAPE

PROMPTS = load_prompts("reference-v4")


def some(problem: Problem, *answers: str) -> list[JudgedSolution]:
    return [JudgedSolution(Solution(answer=a, text=f"The answer is: {a}"), None, a == problem.answer) for a in answers]


def judged_problem(k: int, right: int = 2, wrong: int = 3) -> JudgedProblem:
    """Solutions differ in how many blanks they have."""
    problem = Problem(f"p{k}", f"What is {k} + 1?", answer=str(k + 1))
    found = [
        JudgedSolution(Solution(answer=a, text=f"{' ' * i}x = {a}"), None, a == problem.answer)
        for i, a in enumerate([str(k + 1)] * right + ["0"] * wrong)
    ]
    return JudgedProblem(problem, tuple(each for each in found if each.right), tuple(each for each in found if not each.right))


@pytest.fixture
def encoder(tiny_tokenizer: Any) -> VerdictEncoder:
    return VerdictEncoder(tiny_tokenizer, PROMPTS, 256)


@pytest.fixture
def pairs(encoder: VerdictEncoder) -> list[Example]:
    problems = [judged_problem(k, 1, 1) for k in range(5)]
    return encoder([unit for each in problems for unit in each.units(JudgeConfig(), random.Random(0))])


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return Qwen3ForCausalLM.from_pretrained(tiny_model_dir).eval()


def test_only_the_token_in_which_the_words_differ_is_learned(encoder: VerdictEncoder, tiny_tokenizer: Any) -> None:
    problem = Problem("p", "What is 3 + 4?", answer="7", skills=("sum",), depth=1)
    right, wrong = some(problem, "7", "8")
    [single, pair] = encoder([(problem, [wrong]), (problem, [right, wrong])])
    assert tiny_tokenizer.decode(single.input_ids) == "Question: What is 3 + 4?\nSolution:\nThe answer is: 8\nSolution is i", (
        "the i of incorrect"
    )
    assert (single.label, single.group, single.segments, single.targets) == (0.0, "", (), 1)
    assert single.loss_mask[-1]
    assert (pair.label, pair.group, pair.skill, pair.depth, pair.targets) == (None, "p", "sum", 1, 2)
    assert pair.input_ids[pair.segments[0] :] == single.input_ids
    assert pair.input_ids[pair.segments[0] - 1] == encoder.tokens.right


def test_words_that_a_tokenizer_cannot_tell_apart_are_refused(tiny_tokenizer: Any) -> None:
    class Deaf:
        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [5] if len(text) < 9 else [5, 6]}

    with pytest.raises(ConfigError, match="cannot tell the verdicts of reference-v4 apart"):
        VerdictTokens.of(Deaf(), PROMPTS)
    with pytest.raises(ConfigError, match="reference-v1 cannot ask for a verdict"):
        VerdictTokens.of(tiny_tokenizer, load_prompts("reference-v1"))


def raw_score(model: Any, ids: tuple[int, ...], tokens: VerdictTokens) -> torch.Tensor:
    """Of one sequence, whose last token is the verdict."""
    logits = model(torch.tensor([ids[:-1]])).logits[0, -1]
    return logits[tokens.right] - logits[tokens.wrong]


def test_the_margin_loss_is_the_textbook_formula_and_segments_are_blind_to_each_other(
    model: Any, encoder: VerdictEncoder, pairs: list[Example]
) -> None:
    objective = VerdictLoss(encoder.tokens, loss="margin", margin=0.7)
    ahead = []
    for example in pairs:
        border = example.segments[0]
        parts = example.input_ids[:border], example.input_ids[border:]
        ahead.append(raw_score(model, parts[0], encoder.tokens) - raw_score(model, parts[1], encoder.tokens))
    expected = F.relu(0.7 - torch.stack(ahead))
    for batch in (pad(pairs, 0), pack(pairs, 0, 1024)):
        total, count, metrics = objective.loss(model, batch, 0)
        torch.testing.assert_close(total, expected.sum(), atol=1e-4, rtol=1e-4)
        assert float(count) == float(objective.count(batch)) == len(pairs)
        assert float(metrics["accuracy"]) == sum(bool(each > 0) for each in ahead)
    weighted = [replace(example, weight=k + 1.0) for k, example in enumerate(pairs)]
    total, count, _ = objective.loss(model, pad(weighted, 0), 0)
    torch.testing.assert_close(total, (expected * torch.arange(1.0, 6.0)).sum(), atol=1e-4, rtol=1e-4)
    assert float(count) == 15


def test_cross_entropy_is_of_the_two_words_alone(model: Any, encoder: VerdictEncoder) -> None:
    judge = JudgeConfig(loss="cross_entropy", per_problem=4)
    examples = encoder([unit for k in range(3) for unit in judged_problem(k).units(judge, random.Random(0))])
    total, count, metrics = VerdictLoss(encoder.tokens, loss="cross_entropy").loss(model, pad(examples, 0), 0)
    raw = torch.stack([raw_score(model, example.input_ids, encoder.tokens) for example in examples])
    labels = torch.tensor([example.label for example in examples])
    torch.testing.assert_close(total, F.binary_cross_entropy_with_logits(raw, labels, reduction="sum"), atol=1e-4, rtol=1e-4)
    assert float(count) == len(examples) == 12
    assert float(metrics["accuracy"]) == int(((raw > 0) == (labels > 0.5)).sum())


def test_a_scalar_head_is_read_where_a_word_would_be(encoder: VerdictEncoder, pairs: list[Example], tiny_model_dir: Path) -> None:
    torch.manual_seed(0)
    classifier = Qwen3ForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1, pad_token_id=0).eval()
    total, _, _ = VerdictLoss(encoder.tokens, loss="margin", margin=2.0, read=from_scalar).loss(classifier, pack(pairs, 0, 1024), 0)
    expected = []
    for example in pairs:
        border = example.segments[0]
        parts = example.input_ids[: border - 1], example.input_ids[border:-1]
        right, wrong = (classifier(torch.tensor([ids])).logits[0, 0] for ids in parts)
        expected.append(F.relu(2.0 - right + wrong))
    torch.testing.assert_close(total, torch.stack(expected).sum(), atol=1e-4, rtol=1e-4)


def test_a_classifier_reads_what_texts_share_once_and_cannot_write(tiny_model_dir: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = Qwen3ForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1, pad_token_id=0).eval()
    plain.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    model = build(ModelConfig.model_validate(f"hf:{tmp_path}"))
    texts = ["What is 3 + 4? It is 7", "What is 3 + 4? It is 8, or", "Who?", "What is 3 + 4? It is 7"]
    found = asyncio.run(model.score([Prompt(text=text) for text in texts], [""] * 4))
    for text, completion in zip(texts, found, strict=True):
        expected = plain(**AutoTokenizer.from_pretrained(tmp_path)(text, return_tensors="pt")).logits[0, 0].detach()
        assert completion.logprobs == (pytest.approx(float(expected), abs=1e-4),)
    assert sum(completion.usage.prompt_tokens for completion in found) < len("".join(texts[:3]))
    with pytest.raises(ConfigError, match="is a classifier and cannot write"):
        asyncio.run(model.generate([Prompt(text="x")], Sampling()))
    asyncio.run(model.aclose())


def test_units_are_distinct_and_half_of_single_ones_are_right() -> None:
    pairs = judged_problem(1, right=3, wrong=4).units(JudgeConfig(per_problem=10), random.Random(0))
    assert len(pairs) == len({(a.solution.text, b.solution.text) for _, (a, b) in pairs}) == 10
    assert all(a.right and not b.right for _, (a, b) in pairs)
    single = JudgeConfig(loss="cross_entropy", per_problem=4)
    for right, wrong, expected in [(5, 5, 2), (5, 1, 3), (1, 5, 1), (0, 5, 0), (2, 0, 2)]:
        units = judged_problem(1, right, wrong).units(single, random.Random(0))
        assert sum(unit[0].right for _, unit in units) == expected
        assert len(units) == min(4, right + wrong)
    assert judged_problem(1, 3, 0).units(JudgeConfig(), random.Random(0)) == []


def test_a_source_gives_every_problem_once_per_epoch_and_the_same_chunk_again(encoder: VerdictEncoder) -> None:
    problems = [judged_problem(k) for k in range(100)]
    source = JudgedSource("x", problems, JudgeConfig(per_problem=2), encoder)
    epochs = [[example for k in part for example in source.chunk(k)] for part in ((0, 1), (2, 3))]
    for epoch in epochs:
        assert sorted(example.problem_id for example in epoch) == sorted(each.problem.id for each in problems for _ in (0, 1))
    assert [e.problem_id for e in epochs[0]] != [e.problem_id for e in epochs[1]]
    assert source.chunk(3) == source.chunk(3)
    assert len({example.problem_id for example in source.examples(100)}) == 100


def test_segments_survive_a_file(pairs: list[Example], tmp_path: Path) -> None:
    write_shard(tmp_path / "x.parquet", pairs)
    assert list(read_shard(tmp_path / "x.parquet", check=True)) == pairs


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Two hundred problems with four samples: right ones end in `!`, wrong ones in `?`, so that a tiny model can learn it; some have no
    answer, some are given twice."""
    there = Collection(RunFolder.open(str(tmp_path), "samples"))
    rows = []
    for k in range(200):
        problem = Problem(f"p{k}", f"What is {k} + 1?", answer=str(k + 1), task="own")
        texts = [(str(k + 1), f"{k}!"), (str(k + 1), f"{k}!"), ("0", "0?"), (None, "?")]
        solutions = tuple(Solution(answer=answer, text=text) for answer, text in texts)
        rows.append(ScoredTrace("teacher", "own", k, Trace(problem, "single", solutions=solutions)))
    there.write(there.register({"solver": "own"}), "rows", rows)
    return tmp_path


def make_config(place: Path, **changes: Any) -> DistillConfig:
    data: dict[str, Any] = {
        "name": "verifier",
        "role": "verifier",
        "source": "collection",
        "collection": {"path": str(place / "samples"), "held_out": 0.2},
        "tasks": [{"task": "arithmetic", "label": "own"}],
        "prompts": "reference-v4",
        "init": {"fresh": SHAPE},
        "train": {"max_steps": 60, "per_device_train_batch_tokens": 512, "learning_rate": 1e-2, "report_to": []},
        "evaluation": {"eval_steps": 30, "examples": 20},
        "storage_path": str(place),
    }
    return validate(DistillConfig, data | changes, "the test")


def test_distinct_answered_samples_are_what_is_learned(collection: Path) -> None:
    config = make_config(collection)
    assert config.collection is not None
    problems = judged(config.collection, "own", get_task(config.tasks[0].task))
    assert [(len(each.right), len(each.wrong)) for each in problems] == [(1, 1)] * 200
    trained, held = split(problems, config.collection)
    assert len(trained) + len(held) == 200
    assert 20 < len(held) < 60


def test_every_problem_is_held_out_in_one_fold(collection: Path) -> None:
    held: list[str] = []
    for fold in range(5):
        config = CollectionConfig.model_validate({"path": str(collection / "samples"), "held_out": 0.2, "fold": fold})
        trained, out = split(judged(config, "own", get_task(make_config(collection).tasks[0].task)), config)
        assert len(trained) + len(out) == 200
        held += [each.problem.id for each in out]
    assert sorted(held) == sorted(f"p{k}" for k in range(200))
    with pytest.raises(ValueError, match=r"there is no fold 5 of 0\.2 of the problems; the last one is 4"):
        CollectionConfig.model_validate({"path": "x", "held_out": 0.2, "fold": 5})


@pytest.mark.parametrize("judge", [{"loss": "margin"}, {"loss": "cross_entropy"}, {"loss": "margin", "head": "scalar"}])
def test_a_run_leaves_a_calibrated_judge(collection: Path, judge: dict[str, str]) -> None:
    config = make_config(collection, judge=judge)
    assert main(config, quiet=True) == 0
    result = json.loads((collection / "verifier/result.json").read_text())
    assert result["auc"] > 0.95
    assert result["ece"] < 0.15
    folder = collection / "verifier/checkpoint"
    calibration = VerifierCalibration.read(folder)
    assert calibration.solution.n == result["calibration"]["solution"]["n"] > 40
    assert calibration.votes is not None
    assert list(calibration.votes.by_samples) == [2], "of four samples the vote is always right, so there is nothing to fit"
    assert result["ece_votes"] < 0.15
    verifier = build_verifier(VerifierConfig.model_validate(f"hf:{folder}"))
    assert isinstance(verifier, Judge)
    problem = Problem("q", "What is 31 + 1?", answer="32")
    (reply,) = asyncio.run(verifier([VerifyRequest(problem, (Solution(text="31!"), Solution(text="0?")))]))
    right, wrong = (verdict.score for verdict in reply.verdicts if verdict is not None)
    assert right > 0.6 > 0.4 > wrong
    asyncio.run(verifier.aclose())


def test_mistakes_are_found_before_anything_starts(collection: Path) -> None:
    with pytest.raises(ConfigError, match="a verifier learns from a solver's samples"):
        make_config(collection, source="gold", collection=None)
    with pytest.raises(ConfigError, match="belong together"):
        make_config(collection, role="solver", formats={"verify": 1})
    with pytest.raises(ConfigError, match="set role: verifier"):
        make_config(collection, role="solver", judge={"loss": "cross_entropy"})
    with pytest.raises(ConfigError, match="reference-v1 cannot ask for a verdict"):
        check(make_config(collection, prompts="reference-v1"))
    assert "20 held-out examples" in check(make_config(collection))


PLAN = parse_plan("1. What is 3 + 4?\n2. What is #1 * 2?")
GOLD = Problem("g", "?", answer="14", gold_plan=PLAN, gold_steps=parse_steps("1. 3 + 4 = 7\n2. 7 * 2 = 14"))


def own(text: str, right: bool) -> JudgedSolution:
    return JudgedSolution(parse_solution(text), PLAN, right)


RIGHT, SLIP = own("1. 3 + 4 = 7\n2. 7 * 2 = 14\nThe answer is: 14", True), own("1. 3 + 4 = 7\n2. 7 * 2 = 15\nThe answer is: 15", False)


def test_one_solution_more_of_each_problem() -> None:
    sampled = JudgedProblem(GOLD, (RIGHT,), (SLIP,))
    noised, gold = sampled.with_extra("noised"), JudgedProblem(GOLD, (), (SLIP,)).with_extra("gold")
    assert (noised.right, noised.wrong[0], len(noised.wrong)) == ((RIGHT,), SLIP, 2)
    assert noised.wrong[1].solution.answer not in ("14", "15", None) or noised.wrong[1].solution.text != SLIP.solution.text
    assert noised == sampled.with_extra("noised"), "the same in every run"
    assert [(each.solution.answer, each.plan, each.right) for each in gold.right] == [("14", PLAN, True)]
    assert sampled.with_extra("gold").right == (RIGHT,), "a solution that was sampled is not there twice"
    assert JudgedProblem(GOLD, (), (SLIP,)).with_extra("noised").wrong == (SLIP,), "only a right one can be noised"
    plain = judged_problem(1)
    assert plain.with_extra("gold") == plain
    with pytest.raises(DataError, match=r"own has no gold steps, which judge\.extra=gold needs"):
        with_extras([plain], "own", JudgeConfig(extra="gold"))


def test_beginnings_are_right_until_the_first_wrong_step() -> None:
    problem = JudgedProblem(GOLD, (RIGHT,), (SLIP,))
    right, wrong = problem.beginnings
    assert [each.solution.text for each in right] == ["1. 3 + 4 = 7\n", "1. 3 + 4 = 7\n2. 7 * 2 = 14\n"], "shared ones count once"
    assert [each.solution.text for each in wrong] == ["1. 3 + 4 = 7\n2. 7 * 2 = 15\n"]
    units = problem.units(JudgeConfig(per_problem=1, steps_per_problem=2), random.Random(0))
    assert [[each.right for each in unit] for _, unit in units] == [[True, False]] * 3
    assert [unit[0].solution.answer for _, unit in units] == ["14", None, None]
    with pytest.raises(DataError, match=r"judge\.steps_per_problem=2 needs"):
        with_extras([judged_problem(1)], "own", JudgeConfig(steps_per_problem=2))


def test_how_often_the_first_wrong_step_is_pointed_at() -> None:
    late = own("1. 3 + 4 = 8\n2. 8 * 2 = 16\nThe answer is: 16", False)
    verdicts = {RIGHT: Verdict(0.9, 1, (0.9, 0.9)), SLIP: Verdict(0.1, -1, (0.9, 0.2)), late: Verdict(0.1, -1, (0.8, 0.7))}
    found = _steps([JudgedProblem(GOLD, (RIGHT,), (SLIP, late))], [verdicts], Calibration())
    assert found == {"steps_judged": 2, "first_wrong_step": 0.5, "first_wrong_step_by_chance": 0.5}
    shifted = _steps([JudgedProblem(GOLD, (RIGHT,), (SLIP, late))], [verdicts], Calibration(bias=-2.0))
    assert shifted["first_wrong_step"] == 1, "by calibrated probabilities: with this one the first step of the other is doubtful too"


def test_a_collection_without_wrong_or_without_right_solutions_is_refused() -> None:
    config = CollectionConfig(path="samples")
    for problems in ([], [judged_problem(1, 2, 0)], [judged_problem(1, 0, 2)], [judged_problem(1, 2, 0), judged_problem(2, 0, 2)]):
        with pytest.raises(DataError, match=r"a verifier needs both; collect with reasoning\.n=8"):
            check_judged(config, "own", problems, JudgeConfig())
    check_judged(config, "own", [judged_problem(1, 2, 0), judged_problem(2, 0, 2)], JudgeConfig(loss="cross_entropy"))
