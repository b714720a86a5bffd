"""The three roles over a scripted model: few calls, strict reading, repairs, likelihood."""

import json
import math
from pathlib import Path

import pytest

from actors.decomposer import Decomposer, build_decomposer
from actors.likelihood import LikelihoodVerifier
from actors.local import LocalHandle
from actors.role import prompts_name
from actors.solver import Solver, build_solver
from actors.verifier import build_likelihood
from cleave.config.roles import RoleConfig
from cleave.errors import ConfigError, GenerationError
from cleave.plans import parse_plan
from cleave.prompts import load_prompts
from cleave.roles import DecomposeRequest, SolveRequest, VerifyReply, VerifyRequest
from cleave.types import Completion, ModelInfo, Plan, Problem, Prompt, Sampling, Solution, SolutionStep, Usage
from tests.puppet import Puppet, said

TEXT, CHAT = load_prompts("reference-v1"), load_prompts("instruct-v1")
PROBLEM = Problem("p", "What is 3 + 4 + 1?")
PLAN = parse_plan("1. What is 3 + 4?\n2. What is #1 + 1?")
KNOWN = (SolutionStep(1, "3 + 4 = 7", "7"),)
DRAW = Sampling(n=2, temperature=1.0)


async def test_equal_options_share_a_call_and_replies_keep_their_order() -> None:
    model = Puppet(lambda prompt, i: f"1. {prompt.seed}?")
    options = [Sampling(), Sampling(temperature=1.0), Sampling(), Sampling(temperature=1.0)]
    requests = [DecomposeRequest(PROBLEM, sampling, seed) for seed, sampling in enumerate(options)]
    replies = await Decomposer(model, TEXT)(requests)
    assert [len(prompts) for prompts, _ in model.calls] == [2, 2]
    assert [reply.plans[0].text for reply in replies if reply.plans[0]] == ["1. 0?", "1. 1?", "1. 2?", "1. 3?"]


async def test_a_role_limits_tokens_and_adds_stop_strings() -> None:
    model = Puppet(lambda prompt, i: "1. 3 + 4 = 7")
    solver = Solver(model, TEXT, max_tokens=50)
    part = Plan(PLAN.steps[:1])
    await solver([SolveRequest(PROBLEM, "step", part), SolveRequest(PROBLEM, sampling=Sampling(max_tokens=20, stop=("!",)))])
    (_, step), (_, steps) = model.calls
    assert (step.max_tokens, step.stop) == (50, ("\n",))
    assert (steps.max_tokens, steps.stop) == (20, ("!",))


async def test_each_sample_is_read_on_its_own_and_usage_counts_the_prompt_once() -> None:
    said_by_sample = ["1. What is 3 + 4?\n2. What is #1 + 1?", "I would add them.", "", "1. a #1"]
    model = Puppet(lambda prompt, i: said_by_sample[i])
    (reply,) = await Decomposer(model, TEXT)([DecomposeRequest(PROBLEM, Sampling(n=4, temperature=1.0))])
    assert reply.plans == (PLAN, None, Plan(), None)
    assert reply.texts == tuple(said_by_sample)
    assert [(failure.type, failure.role) for failure in reply.failures] == [("ParseError", "decomposer")] * 2
    words = sum(len(text.split()) for text in said_by_sample)
    assert reply.usage == Usage(1, len(said(TEXT.decompose(PROBLEM)).split()), words)


async def test_a_plan_that_was_cut_off_is_no_plan() -> None:
    model = Puppet(lambda prompt, i: Completion("1. What is 3 + 4?\n2. What", finish="length"))
    (reply,) = await Decomposer(model, TEXT)([DecomposeRequest(PROBLEM)])
    assert reply.plans == (None,)
    assert "max_tokens" in reply.failures[0].message


@pytest.mark.parametrize(
    "text", ["<think>1. Wrong?\nThe answer is: 3</think>\n1. 3 + 4 = 7\nThe answer is: 7", "so…</think>The answer is: 7"]
)
async def test_thinking_is_not_read_but_counted(text: str) -> None:
    (reply,) = await Solver(Puppet(lambda prompt, i: text), CHAT)([SolveRequest(PROBLEM)])
    assert reply.solutions[0].answer == "7"
    assert "think" not in reply.solutions[0].text
    assert reply.usage.completion_tokens == len(text.split())


async def test_modes_of_the_solver() -> None:
    def script(prompt: Prompt, i: int) -> str:
        text = prompt.text or ""
        if text.endswith("Answer:\n"):
            return "The answer is: 8\n"
        if text.endswith("\n1. 3 + 4 = 7\n2."):
            return " 7 + 1 = 8"
        return "1. 3 + 4 = 7\n2. 7 + 1 = 8\nThe answer is: 8\n" if "Plan:" in text else "1. 3 + 4 + 1 = 8\nThe answer is: 8\n"

    requests = [
        SolveRequest(PROBLEM, "answer"),
        SolveRequest(PROBLEM, "steps"),
        SolveRequest(PROBLEM, "steps", PLAN),
        SolveRequest(PROBLEM, "step", PLAN, KNOWN),
    ]
    direct, single, static, step = [reply.solutions[0] for reply in await Solver(Puppet(script), TEXT)(requests)]
    assert [solution.answer for solution in (direct, single, static, step)] == ["8"] * 4
    assert [len(solution.steps) for solution in (direct, single, static, step)] == [0, 1, 2, 1]
    assert step.steps == (SolutionStep(2, "7 + 1 = 8", "8"),)
    assert static.logprob == pytest.approx(-0.5)


@pytest.mark.parametrize("text", ["1. 3 + 4 = 7", "I do not know.", ""])
async def test_a_reply_without_an_answer_is_a_solution_without_one(text: str) -> None:
    (reply,) = await Solver(Puppet(lambda prompt, i: text), TEXT)([SolveRequest(PROBLEM, sampling=DRAW)])
    assert [solution.answer for solution in reply.solutions] == [None, None]
    assert reply.solutions[0].text == text


async def test_a_step_that_was_cut_off_has_no_answer() -> None:
    model = Puppet(lambda prompt, i: Completion(" 7 + 1 = 1", finish="length"))
    (reply,) = await Solver(model, TEXT)([SolveRequest(PROBLEM, "step", PLAN, KNOWN)])
    assert reply.solutions[0].answer is None
    assert reply.solutions[0].finish == "length"


async def test_what_the_model_raises_is_raised() -> None:
    with pytest.raises(GenerationError, match="down"):
        await Decomposer(Puppet(lambda prompt, i: GenerationError("down")), TEXT)([DecomposeRequest(PROBLEM)])


async def test_one_repair_hears_the_complaint_and_is_counted() -> None:
    def script(prompt: Prompt, i: int) -> str:
        return "1. What is 3 + 4?\n2. What is #1 + 1?" if "could not be read" in said(prompt) else "Well."

    model = Puppet(script)
    plain, repaired = Decomposer(model, CHAT), Decomposer(model, CHAT, repair_retries=1)
    request = DecomposeRequest(PROBLEM, DRAW, seed=1)
    (broken,) = await plain([request])
    assert broken.plans == (None, None)
    (reply,) = await repaired([request])
    assert reply.plans == (PLAN, PLAN)
    assert reply.failures == ()
    assert reply.usage.calls == broken.usage.calls + 2
    prompts, sampling = model.calls[-1]
    assert len(model.calls) == 3  # both repairs in one call
    assert sampling.n == 1
    assert len({prompt.seed for prompt in prompts}) == 2
    again = await repaired([request])
    assert model.calls[-1] == (prompts, sampling)
    assert again == [reply]


async def test_repairs_end_and_spare_what_was_fine() -> None:
    model = Puppet(lambda prompt, i: "The answer is: 8" if i == 0 and prompt.seed == 4 else "Well.")
    (reply,) = await Solver(model, TEXT, repair_retries=2)([SolveRequest(PROBLEM, sampling=DRAW, seed=4)])
    assert [solution.answer for solution in reply.solutions] == ["8", None]
    assert [len(prompts) for prompts, _ in model.calls] == [1, 1, 1]


async def test_plain_text_is_not_asked_twice_the_same() -> None:
    model = Puppet(lambda prompt, i: "Well.")
    await Solver(model, TEXT, repair_retries=2)([SolveRequest(PROBLEM)])
    assert len(model.calls) == 1


async def test_the_verdict_is_the_solvers_own_likelihood_and_asks_no_model() -> None:
    verifier = LikelihoodVerifier("m", lambda: pytest.fail("no model is needed"), TEXT)
    solutions = (Solution(text="a", logprob=-0.5), Solution(text="b", logprob=0.0), Solution(text="", logprob=None))
    (reply,) = await verifier([VerifyRequest(PROBLEM, solutions)])
    assert [verdict.score for verdict in reply.verdicts] == pytest.approx([math.exp(-0.5), 1.0, 0.0])
    assert reply.verdicts[0].raw == -0.5
    assert verifier.info == ModelInfo("likelihood of m", parameters=0)
    assert reply.usage == Usage()


async def test_without_log_probabilities_the_model_scores() -> None:
    model = Puppet(lambda prompt, i: "")
    for reuse, scored in ((True, 1), (False, 2)):
        verifier = LikelihoodVerifier("m", lambda: model, TEXT, reuse=reuse)
        solutions = (Solution(text="x", logprob=-0.5), Solution(text="The answer is: 8", answer="8"))
        (reply,) = await verifier([VerifyRequest(PROBLEM, solutions)])
        assert [verdict.raw for verdict in reply.verdicts] == [-0.5 if reuse else -1.0, -1.0]
        assert reply.usage.calls == scored
        assert verifier.info.parameters == 10


async def test_a_verifier_that_cannot_score_says_so() -> None:
    model = Puppet(lambda prompt, i: "")
    model.capabilities = frozenset({"text"})
    with pytest.raises(ConfigError, match="score"):
        await LikelihoodVerifier("m", lambda: model, TEXT, reuse=False)([VerifyRequest(PROBLEM, (Solution(text="x"),))])
    verifier = LikelihoodVerifier("m", lambda: model, TEXT)
    with pytest.raises(GenerationError, match="not a number"):
        await verifier([VerifyRequest(PROBLEM, (Solution(text="x", logprob=math.nan),))])


async def test_an_endpoint_without_log_probabilities_gives_no_opinion() -> None:
    model = Puppet(lambda prompt, i: "")
    model.capabilities = frozenset({"text"})
    (reply,) = await LikelihoodVerifier("m", lambda: model, TEXT)([VerifyRequest(PROBLEM, (Solution(text="x"),))])
    assert reply == VerifyReply(())


async def test_a_local_handle_is_the_role_itself() -> None:
    model = Puppet(lambda prompt, i: "1. Why?")
    handle = LocalHandle(Decomposer(model, TEXT))
    assert (await handle(DecomposeRequest(PROBLEM))).plans == (parse_plan("1. Why?"),)
    assert await handle.info() == model.info
    await handle.aclose()
    assert model.closed == 1


def test_auto_prompts_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    config = RoleConfig.model_validate(f"hf:{tmp_path}")
    assert prompts_name(config) == "instruct-v2"
    (tmp_path / "cleave.json").write_text(json.dumps({"prompts": "reference-v1"}))
    assert prompts_name(config) == "reference-v1"
    assert prompts_name(config.model_copy(update={"prompts": "other"})) == "other"
    recorded = RoleConfig.model_validate("recorded:calls.jsonl")
    assert prompts_name(recorded, Puppet(lambda prompt, i: "", name=f"hf:{tmp_path}")) == "reference-v1"
    assert prompts_name(recorded, Puppet(lambda prompt, i: "", name="unknown")) == "instruct-v2"
    (tmp_path / "cleave.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot read"):
        prompts_name(config)


def test_builders_apply_the_config_and_check_what_the_model_can_do() -> None:
    model = Puppet(lambda prompt, i: "")
    config = RoleConfig.model_validate({"model": "hf:m", "prompts": "instruct-v1", "max_tokens": 9, "repair_retries": 2})
    for role in (build_decomposer(config, model), build_solver(config, model)):
        assert (role.max_tokens, role.repair_retries, role.prompts.name, role.model) == (9, 2, "instruct-v1", model)
    assert build_likelihood(config, model).info.name == "likelihood of hf:m"
    model.capabilities = frozenset({"text"})
    with pytest.raises(ConfigError, match="has no chat template; choose prompts of plain text"):
        build_solver(config, model)
