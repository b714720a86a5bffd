"""The judge: what it asks, how it reads probabilities and replies, and what it does with solutions that it cannot judge."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from actors.judge import SURE, Judge
from actors.likelihood import LikelihoodVerifier
from actors.verifier import build_verifier
from cleave.calibration import Calibration, VerifierCalibration, VoteCalibration
from cleave.config.roles import VerifierConfig
from cleave.errors import ConfigError
from cleave.lm.checkpoint import load_checkpoint
from cleave.lm.huggingface import HuggingFaceModel
from cleave.plans import parse_plan
from cleave.prompts import load_prompts
from cleave.roles import VerifyRequest
from cleave.solutions import parse_solution
from cleave.types import Completion, Prompt, Solution, Usage
from tests.puppet import Puppet, said
from tests.test_roles import PROBLEM

TEXT, CHAT = load_prompts("reference-v4"), load_prompts("instruct-v4")
PLANS = (parse_plan("1. What is 3 + 4?"), parse_plan("1. What is 4 + 1?"))
SOLUTIONS = (Solution(text="1. 3 + 4 = 7\nThe answer is: 8\n"), Solution(text="The answer is: 5"))


class Scorer(Puppet):
    """A model that finds the word for right as likely as `probability` says of what it is asked."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__(lambda prompt, i: pytest.fail("a judge that can score does not write"))
        self.probabilities = probabilities
        self.scored: list[tuple[str, str]] = []

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        self.scored += [(said(prompt), text) for prompt, text in zip(prompts, continuations, strict=True)]
        places = [p for p in self.probabilities for _ in (0, 1)]
        found = zip(continuations, places, strict=True)
        return [Completion(text, (int("in" in text),), (math.log(1 - p if "in" in text else p),), usage=Usage(1, 10)) for text, p in found]


def writer(*replies: str | Completion) -> Puppet:
    """A model that can only write, like an endpoint."""
    said_next = iter(replies)
    model = Puppet(lambda prompt, i: next(said_next), logprob=None)
    model.capabilities = frozenset({"chat", "text"})
    return model


async def test_a_verdict_is_the_odds_of_two_words_after_the_solution() -> None:
    model = Scorer(0.9, 0.2)
    (reply,) = await Judge(model, TEXT)([VerifyRequest(PROBLEM, SOLUTIONS, PLANS)])
    assert [verdict and verdict.score for verdict in reply.verdicts] == pytest.approx([0.9, 0.2])
    asked = TEXT.solve(PROBLEM, "steps", PLANS[0]).text
    assert model.scored[0] == (f"{asked}1. 3 + 4 = 7\nThe answer is: 8\nSolution is", " correct"), "as the solver was asked, and its reply"
    assert PLANS[1].text in model.scored[2][0], "with the plan that the solution followed"
    assert [text for _, text in model.scored] == [" correct", " incorrect"] * 2
    assert reply.usage.prompt_tokens == 40


async def test_each_step_is_scored_as_a_beginning_and_all_of_it_is_paid_for() -> None:
    model = Scorer(0.9, 0.8, 0.3)
    solution = parse_solution("1. 3 + 4 = 7\n2. 7 * 2 = 15\nThe answer is: 15")
    (reply,) = await Judge(model, TEXT, step_scores=True)([VerifyRequest(PROBLEM, (solution,), PLANS[:1])])
    (verdict,) = reply.verdicts
    assert verdict is not None
    assert (verdict.score, verdict.step_scores) == (pytest.approx(0.9), pytest.approx((0.8, 0.3)))
    assert [text.partition("Solution:")[2] for text, _ in model.scored[2::2]] == [
        "\n1. 3 + 4 = 7\nSolution is",
        "\n1. 3 + 4 = 7\n2. 7 * 2 = 15\nSolution is",
    ]
    assert verdict.usage == reply.usage
    assert reply.usage.prompt_tokens == 60


async def test_a_step_that_cannot_be_judged_leaves_the_solution_its_score() -> None:
    model = Scorer(0.9, math.nan)
    solution = parse_solution("1. 3 + 4 = 7\nThe answer is: 7")
    (reply,) = await Judge(model, TEXT, step_scores=True)([VerifyRequest(PROBLEM, (solution,))])
    (verdict,) = reply.verdicts
    assert verdict is not None
    assert (round(verdict.score, 6), verdict.step_scores, reply.failures) == (0.9, (), ())


def test_only_a_judge_scores_steps(tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="step_scores needs a verifier that judges"):
        build_verifier(VerifierConfig.model_validate({"model": f"hf:{tiny_model_dir}", "step_scores": True}))


async def test_the_score_is_calibrated_and_the_raw_one_stays() -> None:
    judge = Judge(Scorer(0.9), TEXT, VerifierCalibration(Calibration(temperature=2.0, bias=-1.0)))
    (reply,) = await judge([VerifyRequest(PROBLEM, SOLUTIONS[:1])])
    (verdict,) = reply.verdicts
    assert verdict is not None
    assert verdict.raw == pytest.approx(math.log(9))
    assert verdict.score == pytest.approx(1 / (1 + math.exp(1 - math.log(9) / 2)))


async def test_several_requests_are_one_call_and_replies_keep_their_order() -> None:
    model = Scorer(0.1, 0.2, 0.3)
    requests = [VerifyRequest(PROBLEM, SOLUTIONS), VerifyRequest(PROBLEM, ()), VerifyRequest(PROBLEM, SOLUTIONS[:1])]
    replies = await Judge(model, TEXT)(requests)
    assert [[round(v.score, 6) for v in reply.verdicts if v] for reply in replies] == [[0.1, 0.2], [], [0.3]]


async def test_a_model_that_only_writes_is_read_strictly_and_its_cost_is_booked() -> None:
    likely = Completion("Correct.", logprobs=(math.log(0.75),), usage=Usage(1, 20, 1))
    model = writer(likely, "<think>hm</think>incorrect", "I think it is correct", "")
    some = tuple(Solution(text=text) for text in "abcd")
    (reply,) = await Judge(model, CHAT)([VerifyRequest(PROBLEM, some)])
    assert reply.verdicts[2:] == (None, None)
    assert [round(v.raw, 6) for v in reply.verdicts if v] == [round(math.log(3), 6), -SURE]
    assert [(failure.type, failure.role) for failure in reply.failures] == [("ParseError", "verifier")] * 2
    assert "'i think it is correct'" in reply.failures[0].message
    assert reply.usage.calls == 4
    assert len(model.calls[0][0]) == 4


async def test_a_number_that_is_none_is_no_verdict() -> None:
    model = Scorer(0.5)
    model.probabilities = (0.5, 0.5)

    async def broken(prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        return [Completion(text, (i % 2,), (math.nan if i < 2 else -0.7,)) for i, text in enumerate(continuations)]

    model.score = broken  # type: ignore[method-assign]
    (reply,) = await Judge(model, TEXT)([VerifyRequest(PROBLEM, SOLUTIONS)])
    assert reply.verdicts[0] is None
    assert reply.verdicts[1] is not None
    assert reply.verdicts[1].score == 0.5
    assert [failure.type for failure in reply.failures] == ["GenerationError"]


async def test_a_solution_beyond_the_context_is_not_judged_and_the_others_are(tiny_model_dir: Path) -> None:
    judge = build_verifier(verifier(tiny_model_dir, prompts="reference-v4", scoring="judge"))
    some = (Solution(text="x" * 10_000), Solution(text="The answer is: 8"))
    (reply,) = await judge([VerifyRequest(PROBLEM, some)])
    assert reply.verdicts[0] is None
    assert reply.verdicts[1] is not None
    assert [failure.message for failure in reply.failures] == ["a solution is longer than the verifier's context; raise its max_model_len."]
    await judge.aclose()


async def test_the_raw_score_is_that_of_a_plain_forward_pass(tiny_model_dir: Path) -> None:
    model = HuggingFaceModel(load_checkpoint(str(tiny_model_dir)), name="tiny")
    solutions = tuple(Solution(text=f"1. 3 + 4 = {k}\nThe answer is: {k}") for k in range(4))
    (reply,) = await Judge(model, TEXT)([VerifyRequest(PROBLEM, solutions)])
    for solution, verdict in zip(solutions, reply.verdicts, strict=True):
        asked = said(TEXT.verify(PROBLEM, solution.text))
        ids, [right, wrong] = model.tokenizer(f"{asked} ")["input_ids"], model.tokenizer("ci")["input_ids"]
        with torch.inference_mode():
            logits = model._sampler.model(torch.tensor([ids])).logits[0, -1]
        assert verdict is not None
        assert verdict.raw == pytest.approx(float(logits[right] - logits[wrong]), abs=1e-4), "where the words part"
    read = len(model.tokenizer(said(TEXT.verify(PROBLEM, solutions[0].text)))["input_ids"])
    assert reply.usage.prompt_tokens < 8 * read * 0.6, "the problem, which eight texts share, is read once"
    assert reply.usage.calls == 4
    await model.aclose()


def verifier(folder: Path, **options: str) -> VerifierConfig:
    return VerifierConfig.model_validate({"model": f"hf:{folder}", **options})


def test_a_checkpoint_says_what_kind_of_verifier_it_is(tmp_path: Path) -> None:
    model = Puppet(lambda prompt, i: "")
    assert isinstance(build_verifier(verifier(tmp_path), model), LikelihoodVerifier)
    (tmp_path / "cleave.json").write_text(json.dumps({"role": "verifier", "prompts": "reference-v4"}))
    known = VerifierCalibration(Calibration(3.0, 0.5, 100), VoteCalibration({4: Calibration(1.0, 0.1, 50)}))
    known.write(tmp_path)
    judge = build_verifier(verifier(tmp_path), model)
    assert isinstance(judge, Judge)
    assert (judge.prompts.name, judge.calibration) == ("reference-v4", known)
    assert isinstance(build_verifier(verifier(tmp_path, scoring="likelihood"), model), LikelihoodVerifier)
    endpoint = VerifierConfig.model_validate("openai:big@http://localhost/v1")
    assert isinstance(build_verifier(endpoint, model), Judge), "an endpoint is asked for its opinion"


def test_prompts_without_verdicts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="instruct-v1 cannot ask for a verdict; use instruct-v4"):
        build_verifier(verifier(tmp_path, scoring="judge", prompts="instruct-v1"), Puppet(lambda prompt, i: ""))
