"""The strategy `dynamic`: the loop's guarantees where the plan emerges, its prompts and training formats, and the cap on sub-questions."""

import asyncio
import io
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.decomposer import Decomposer
from actors.handle import batch_key
from actors.local import LocalHandle
from actors.solver import Solver
from actors.verifier import LikelihoodVerifier
from cleave.config.base import validate
from cleave.config.collect import CollectConfig
from cleave.config.evaluate import EvaluateConfig
from cleave.config.formats import Format
from cleave.config.reasoning import BudgetConfig, ReasoningConfig
from cleave.config.serve import ServeArgs
from cleave.errors import ConfigError, GenerationError, ParseError
from cleave.events import Event
from cleave.lm.recorded import Recorder
from cleave.plans import PlanLimits, parse_next, parse_plan
from cleave.prompts import load_prompts
from cleave.reasoning import reason
from cleave.roles import DecomposeReply, DecomposeRequest, Roles
from cleave.screening import Screen, screened
from cleave.seeds import derive_seed
from cleave.tasks.gsm8k import Gsm8kSocratic
from cleave.tasks.reference.task import reference_task
from cleave.trace_view import reasoning_tree
from cleave.traces import ScoredTrace
from cleave.types import ModelInfo, Plan, Problem, Prompt, SolutionStep, Trace, Usage, from_json, to_json
from pipelines.collect import describe_recipe
from pipelines.evaluate import main as evaluate
from pipelines.formats import has_what_it_needs, write_pair
from serve.api import create_app
from serve.catalogue import Catalogue
from serve.service import Service
from tests.puppet import Puppet, Reply, said

V2, CHAT = load_prompts("reference-v2"), load_prompts("instruct-v2")
QUESTIONS = ("How many in 3 bags of 4?", "How many in 2 boxes of 5?", "What is #1 + #2?")
LINES = ("3 * 4 = 12", "2 * 5 = 10", "12 + 10 = 22")
PLAN = parse_plan("\n".join(f"{k}. {question}" for k, question in enumerate(QUESTIONS, start=1)))
STEPS = tuple(SolutionStep(k, line, line.rpartition(" ")[2]) for k, line in enumerate(LINES, start=1))
PROBLEM = Problem("p1", "Ann has 3 bags of 4 and 2 boxes of 5. How many in all?", answer="22", gold_plan=PLAN, gold_steps=STEPS)
Script = Callable[[Prompt, int], Reply | Awaitable[Reply]]


def asked(prompt: Prompt) -> int:
    """How many sub-questions are in the prompt of a next one."""
    return sum(line in (prompt.text or "") for line in QUESTIONS)


def lead(prompt: Prompt, sample: int) -> str:
    """A decomposer that leads through QUESTIONS and then stops."""
    k = asked(prompt)
    return f"{k + 1}. {QUESTIONS[k]}" if k < len(QUESTIONS) else "No more"


def follow(prompt: Prompt, sample: int) -> str:
    """A solver that knows the answers."""
    return f" {LINES[asked(prompt) - 1]}" if asked(prompt) else "1. 12 + 10 = 22\nThe answer is: 22\n"


def cast(plan: Script = lead, solve: Script = follow) -> tuple[Roles, Puppet, Puppet]:
    planner, worker = Puppet(plan, name="planner"), Puppet(solve, name="worker")
    verifier = LikelihoodVerifier("worker", lambda: worker, V2)
    return Roles(LocalHandle(Decomposer(planner, V2)), LocalHandle(Solver(worker, V2)), LocalHandle(verifier)), planner, worker


def config(**options: Any) -> ReasoningConfig:
    if options.get("n", 1) > 1:
        options.setdefault("temperature", 1.0)
    return ReasoningConfig(strategy="dynamic", **options)


# ---- the loop


async def test_questions_and_answers_take_turns_and_the_plan_emerges() -> None:
    roles, planner, worker = cast()
    events: list[Event] = []
    trace = await reason(PROBLEM, roles, config(), on_event=events.append)
    assert (trace.answer, trace.chosen, trace.error, trace.plans) == ("22", 0, None, (PLAN,))
    assert trace.solutions[0].steps == STEPS
    assert trace.solutions[0].text == "1. 3 * 4 = 12\n2. 2 * 5 = 10\n3. 12 + 10 = 22\nThe answer is: 22"
    assert trace.solutions[0].usage == trace.usage["solver"]
    assert {role: usage.calls for role, usage in trace.usage.items() if usage.calls} == {"decomposer": 4, "solver": 3}
    head = f"Question: {PROBLEM.question}\nPlan:\n"
    assert planner.calls[0][0][0].text == f"{head}\nSolution:\nQuestion:\n"
    assert planner.calls[2][0][0].text == f"{head}{Plan(PLAN.steps[:2]).text}\nSolution:\n1. 3 * 4 = 12\n2. 2 * 5 = 10\nQuestion:\n"
    assert worker.calls[1][0][0].text == f"{head}{Plan(PLAN.steps[:2]).text}\nSolution:\n1. 3 * 4 = 12\n2."  # all so far, needed or not
    assert {sampling.stop for _, sampling in planner.calls} == {("\n",)}
    turns = ["plan", "step_asked", "step_answered"]
    assert [event.event for event in events] == [*turns * 3, "solution", "verdicts", "selected"]
    assert [event.to_dict()["question"] for event in events if event.event == "step_asked"][-1] == "What is 12 + 10?"
    assert from_json(Trace, to_json(trace)) == trace


async def test_a_chat_is_led_by_the_same_loop() -> None:
    def plan(prompt: Prompt, i: int) -> str:
        k = sum(line in prompt.messages[-1].content for line in QUESTIONS)
        assert f"number {k + 1}:" in prompt.messages[-1].content
        return f"Let us see.\n{k + 1}. {QUESTIONS[k]}\nand then?" if k < 3 else "No more."

    def solve(prompt: Prompt, i: int) -> str:
        k = sum(line in prompt.messages[-1].content for line in QUESTIONS)
        return f"{k}. {LINES[k - 1]}"

    roles = Roles(LocalHandle(Decomposer(Puppet(plan), CHAT)), LocalHandle(Solver(Puppet(solve), CHAT)))
    trace = await reason(PROBLEM, roles, config())
    assert (trace.answer, trace.plans, trace.error) == ("22", (PLAN,), None)


async def test_no_sub_questions_means_a_single_pass() -> None:
    roles, _, worker = cast(lambda prompt, i: "No more")
    trace = await reason(PROBLEM, roles, config())
    assert (trace.answer, trace.plans, len(worker.calls)) == ("22", (Plan(),), 1)


async def test_each_sample_has_a_plan_of_its_own() -> None:
    def plan(prompt: Prompt, i: int) -> str:
        first = prompt.seed == derive_seed(0, PROBLEM.id, "decomposer", 1, 0)
        return "No more" if first or asked(prompt) == 3 else lead(prompt, i)

    trace = await reason(PROBLEM, cast(plan)[0], config(n=3, plan_temperature=1.0, selection="majority"))
    assert (trace.answer, trace.confidence, trace.plans) == ("22", 1.0, (PLAN, Plan(), PLAN))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("", "no line `1. question`"),
        ("I would rather not.", "no line"),
        ("2. What is it?", "where 1 was due"),
        ("1. a #1", "not before it"),
    ],
)
async def test_what_is_no_next_question_is_an_error_of_the_decomposer(reply: str, message: str) -> None:
    roles, _, worker = cast(lambda prompt, i: reply)
    trace = await reason(PROBLEM, roles, config())
    assert trace.error is not None
    assert (trace.error.type, trace.error.role, trace.answer) == ("ParseError", "decomposer", None)
    assert message in trace.error.message
    assert worker.calls == []


async def test_questions_without_end_are_bounded_and_leave_no_answer() -> None:
    """A sub-answer must not pass for the answer."""

    def plan(prompt: Prompt, i: int) -> str:
        text = prompt.text or ""
        return f"{text.count('Why') + 1}. Why?"

    roles, planner, worker = cast(plan, lambda prompt, i: " 12")
    trace = await reason(PROBLEM, roles, config())
    assert trace.error is not None
    assert (trace.error.type, trace.error.role, trace.answer) == ("ParseError", "decomposer", None)
    assert (len(planner.calls), len(worker.calls)) == (17, 16)
    assert (len(trace.plans[0].steps), len(trace.solutions[0].steps), trace.solutions[0].finish) == (16, 16, "error")


@pytest.mark.parametrize("changed", [Plan(), Plan(PLAN.steps[1:]), parse_plan("1. a?\n2. b?\n3. c?"), Plan((PLAN.steps[2],))])
async def test_a_remote_decomposer_cannot_change_what_was_asked(changed: Plan) -> None:
    class Remote:
        async def __call__(self, request: DecomposeRequest) -> DecomposeReply:
            return DecomposeReply((Plan(PLAN.steps[:1]) if not request.known else changed,), ("",), Usage(calls=1))

        async def info(self) -> ModelInfo:
            return ModelInfo("remote")

    async with asyncio.timeout(30):
        trace = await reason(PROBLEM, replace(cast()[0], decomposer=Remote()), config())
    assert trace.error is not None
    assert (trace.error.type, trace.error.role, trace.answer) == ("ParseError", "decomposer", None)
    assert [step.answer for step in trace.solutions[0].steps] == ["12"]


@pytest.mark.parametrize("limit", range(1, 8))
async def test_the_number_of_calls_never_exceeds_its_limit_and_what_was_found_stays(limit: int) -> None:
    roles, planner, worker = cast()
    trace = await reason(PROBLEM, roles, config(), BudgetConfig(max_calls=limit))
    assert len(planner.calls) + len(worker.calls) == limit == trace.total_usage.calls
    assert len(trace.plans[0].steps) == min(3, (limit + 1) // 2)
    assert sum(len(solution.steps) for solution in trace.solutions) == min(3, limit // 2)
    assert (trace.answer, trace.error) == ("22", None) if limit == 7 else trace.error is not None and trace.answer is None


async def test_the_last_word_may_pass_a_limit_and_the_answer_stays() -> None:
    whole = (await reason(PROBLEM, cast()[0], config())).total_usage
    trace = await reason(PROBLEM, cast()[0], config(), BudgetConfig(max_tokens=whole.tokens - 1))
    assert trace.error is not None
    assert (trace.error.type, trace.answer) == ("BudgetExceeded", "22")


async def test_time_runs_out_while_the_decomposer_thinks() -> None:
    async def plan(prompt: Prompt, i: int) -> str:
        if asked(prompt) == 2:
            await asyncio.Event().wait()
        return lead(prompt, i)

    roles, planner, _ = cast(plan)
    trace = await reason(PROBLEM, roles, config(), BudgetConfig(max_seconds=0.2))
    assert trace.error is not None
    assert "max_seconds" in trace.error.message
    assert (planner.running, trace.plans, trace.solutions[0].finish) == (0, (Plan(PLAN.steps[:2]),), "budget")


async def test_cancelling_leaves_no_call_running() -> None:
    started = asyncio.Event()

    async def hang(prompt: Prompt, i: int) -> str:
        started.set()
        await asyncio.Event().wait()
        return ""

    for roles, planner, worker in (cast(hang), cast(lead, hang)):
        started.clear()
        task = asyncio.create_task(reason(PROBLEM, roles, config(n=2)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (planner.running, worker.running) == (0, 0)
        assert planner.cancelled + worker.cancelled > 0


async def test_a_sample_that_fails_costs_no_other() -> None:
    def plan(prompt: Prompt, i: int) -> Reply:
        lost = prompt.seed == derive_seed(0, PROBLEM.id, "decomposer", 0, 1)
        return GenerationError("lost.") if lost else lead(prompt, i)

    trace = await reason(PROBLEM, cast(plan)[0], config(n=2))
    assert (trace.answer, trace.chosen, trace.error, trace.confidence) == ("22", 1, None, 0.5)
    assert trace.plans == (Plan(PLAN.steps[:1]), PLAN)
    alone = await reason(PROBLEM, cast(plan)[0], config())
    assert alone.error is not None
    assert (alone.error.type, alone.error.role, alone.answer) == ("GenerationError", "decomposer", None)


async def test_the_trace_does_not_depend_on_the_order_of_replies() -> None:
    def slow(script: Script, turns: Callable[[int], int]) -> Script:
        async def late(prompt: Prompt, i: int) -> Reply:
            for _ in range(turns(prompt.seed or 0)):
                await asyncio.sleep(0)
            reply = script(prompt, i)
            assert isinstance(reply, str)
            return reply if reply == "No more" else f"{reply} {(prompt.seed or 0) % 9}"

        return late

    traces = []
    for turns in (lambda seed: 0, lambda seed: seed % 7, lambda seed: 7 - seed % 7):
        roles, _, _ = cast(slow(lead, turns), slow(follow, turns))
        traces.append(replace(await reason(PROBLEM, roles, config(n=5, plan_temperature=1.0, selection="majority")), timings={}))
    assert traces[0] == traces[1] == traces[2]
    assert traces[0].error is None


async def test_prompts_that_cannot_ask_for_it_say_which_can() -> None:
    v1 = load_prompts("reference-v1")
    roles = replace(cast()[0], decomposer=LocalHandle(Decomposer(Puppet(lead), v1)))
    trace = await reason(PROBLEM, roles, config())
    assert trace.error is not None
    assert trace.error.type == "ConfigError"
    assert "reference-v1 cannot ask for the next sub-question; use instruct-v2, or" in trace.error.message


async def test_the_tree_shows_the_emerging_plan() -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(reasoning_tree(await reason(PROBLEM, cast()[0], config())))
    shown = console.export_text()
    assert "3. What is 12 + 10? → 12 + 10 = 22" in shown
    assert shown.index("3. What") < shown.index("1. How many in 3 bags of 4? → 3 * 4 = 12")


def test_the_next_question_is_a_batch_of_its_own() -> None:
    assert batch_key(DecomposeRequest(PROBLEM)) != batch_key(DecomposeRequest(PROBLEM, mode="next"))


def test_options_without_sense_are_refused() -> None:
    for options, complaint in (
        ({"plans": 2, "n": 2, "temperature": 1.0, "plan_temperature": 1.0}, "makes a plan for each solution"),
        ({"gold_plan": True}, "use it with static or stepwise"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": 17}, "max_steps"),
        ({"strategy": "static", "gold_plan": True, "max_steps": 3}, "no max_steps"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            validate(ReasoningConfig, {"strategy": "dynamic"} | options, "the test")
    assert validate(EvaluateConfig, {"name": "x", "tasks": "lookup", "variants": {"dynamic": None}}, "the test").strategies()


# ---- the doors


async def test_over_http() -> None:
    args = ServeArgs()
    app = create_app(Service(cast()[0], args.limits), Catalogue.of(args))
    body = {"question": PROBLEM.question, "strategy": "dynamic"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cleave/v1") as client:
        trace = from_json(Trace, (await client.post("/solve", json=body)).text)
        assert (trace.answer, trace.strategy, trace.plans) == ("22", "dynamic", (PLAN,))
        capped = await client.post("/solve", json=body | {"max_steps": 2})
        assert (capped.status_code, from_json(Trace, capped.text).answer) == (502, None)
        assert (await client.post("/solve", json=body | {"max_steps": 17})).json()["error"]["param"] == "max_steps"


def knows(problems: dict[str, Problem]) -> Script:
    """A model that plays both roles from gold, in every form."""

    def reply(prompt: Prompt, i: int) -> str:
        text = prompt.text or ""
        problem = problems[text.removeprefix("Question: ").partition("\nPlan:\n")[0]]
        assert problem.gold_plan is not None
        answered = text.rpartition("\nSolution:\n")[2].count("\n")
        if text.endswith("\nQuestion:\n"):
            return V2.next_target(problem.gold_plan.steps[answered - 1] if answered <= len(problem.gold_steps) else None)
        if text.endswith("\nPlan:\n"):
            return problem.gold_plan.text
        return (
            V2.solve_target(problem.gold_steps, str(problem.answer))
            if text.endswith("\n")
            else V2.step_target(problem.gold_steps[answered])
        )

    return reply


def test_its_tokens_are_counted_beside_those_of_static(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = list(reference_task("lookup").problems("test", limit=3))
    recorder = Recorder(Puppet(knows({problem.text: problem for problem in problems})), tmp_path / "calls.jsonl")
    role = {"model": f"recorded:{tmp_path / 'calls.jsonl'}", "prompts": "reference-v2"}
    roles = {"decomposer": role, "solver": role}
    data = {"name": "x", "storage_path": str(tmp_path), "backend": "inline", "report": False, "roles": roles}
    tasks = [{"task": "lookup", "problems": 3}]
    config = validate(EvaluateConfig, data | {"tasks": tasks, "variants": {"static": None, "dynamic": None}}, "the test")

    async def ask_all() -> None:
        players = Roles(LocalHandle(Decomposer(recorder, V2)), LocalHandle(Solver(recorder, V2)))
        for problem in problems:
            for strategy in config.strategies().values():
                assert (await reason(problem, players, strategy)).answer == problem.answer

    asyncio.run(ask_all())
    assert evaluate(config, as_json=True) == 0
    rows = json.loads(capsys.readouterr().out)["figures"]
    steps = sum(len(problem.gold_steps) for problem in problems)
    calls = {(row["variant"], row["role"]): row["calls"] for row in rows if row["kind"] == "usage"}
    assert calls == {
        ("static", "decomposer"): 3,
        ("static", "solver"): 3,
        ("dynamic", "decomposer"): steps + 3,
        ("dynamic", "solver"): steps,
    }
    tokens = {(row["variant"], row["role"]): row["prompt_tokens"] + row["completion_tokens"] for row in rows if row["kind"] == "usage"}
    assert tokens["dynamic", "decomposer"] > tokens["static", "decomposer"]
    assert tokens["dynamic", "solver"] > tokens["static", "solver"]


# ---- the cap on sub-questions


@pytest.mark.parametrize("strategy", ["static", "stepwise"])
async def test_a_longer_plan_is_refused_not_cut(strategy: str) -> None:
    roles, _, worker = cast(lambda prompt, i: PLAN.text)
    trace = await reason(PROBLEM, roles, ReasoningConfig(strategy=strategy, max_steps=2))
    assert trace.error is not None
    assert (trace.error.type, trace.error.role, worker.calls) == ("ParseError", "decomposer", [])
    assert "3 steps, more than 2" in trace.error.message
    fits = await reason(PROBLEM, cast(lambda prompt, i: PLAN.text)[0], ReasoningConfig(max_steps=3))
    assert fits.plans == (PLAN,)


async def test_the_cap_holds_whoever_sends_the_plan() -> None:
    class Remote:
        async def __call__(self, request: DecomposeRequest) -> DecomposeReply:
            return DecomposeReply((PLAN,), ("",), Usage(calls=1))

        async def info(self) -> ModelInfo:
            return ModelInfo("remote")

    trace = await reason(PROBLEM, replace(cast()[0], decomposer=Remote()), ReasoningConfig(max_steps=2))
    assert trace.error is not None
    assert (trace.error.type, trace.plans) == ("ParseError", ())


async def test_a_dialogue_ends_at_the_cap() -> None:
    trace = await reason(PROBLEM, cast()[0], config(max_steps=2))
    assert trace.error is not None
    assert (trace.error.type, trace.error.role, trace.answer) == ("ParseError", "decomposer", None)
    assert (len(trace.plans[0].steps), len(trace.solutions[0].steps)) == (2, 2)
    assert (await reason(PROBLEM, cast()[0], config(max_steps=3))).answer == "22"


async def test_a_chat_is_told_the_cap_and_hears_when_it_is_passed() -> None:
    def plan(prompt: Prompt, i: int) -> str:
        assert "at most 2 lines" in prompt.messages[0].content
        return "1. How many in all?" if "3 steps, more than 2" in prompt.messages[-1].content else PLAN.text

    decomposer = Decomposer(Puppet(plan), CHAT, repair_retries=1)
    (reply,) = await decomposer([DecomposeRequest(PROBLEM, max_steps=2)])
    assert reply.plans == (parse_plan("1. How many in all?"),)
    assert "There are at most 2 sub-questions" in said(CHAT.next_question(PROBLEM, Plan(), most=2))
    assert "at most 16 lines" in said(CHAT.decompose(PROBLEM))
    assert CHAT.decompose(PROBLEM) == load_prompts("instruct-v1").decompose(PROBLEM)


def test_a_recipe_without_a_cap_is_what_it_was() -> None:
    """Traces that were collected before the option existed are still found."""

    def recipe(**reasoning: Any) -> dict[str, Any]:
        role = {"model": "hf:m", "prompts": "reference-v1"}
        data = {"name": "x", "tasks": ["lookup"], "roles": {"decomposer": role, "solver": role}, "reasoning": reasoning}
        info = ModelInfo("m", "1", "float32")
        found: dict[str, Any] = describe_recipe(validate(CollectConfig, data, "the test"), {"decomposer": info, "solver": info})
        return found

    assert "max_steps" not in recipe()["reasoning"]
    assert recipe(max_steps=3)["reasoning"]["max_steps"] == 3


# ---- reading a reply


def test_reading_the_next_question() -> None:
    begun = Plan(PLAN.steps[:2])
    assert parse_next(f"3. {QUESTIONS[2]}", begun) == PLAN
    assert parse_next(f"Sure:\n 3) {QUESTIONS[2]}\n4. And then #3?", begun) == PLAN
    assert parse_next("No more", PLAN) == parse_next(" no more questions.", PLAN) == PLAN
    for reply in ("", "3.", "4. Why?", "3. a #3", "3. " + "a" * 501, "999999999999. Why?", "3. #9999999"):
        with pytest.raises(ParseError):
            parse_next(reply, begun)
    with pytest.raises(ParseError, match="3 steps, more than 2"):
        parse_next("3. Why?", begun, PlanLimits(steps=2))


# ---- training


def pairs(name: Format, problem: Problem = PROBLEM) -> Iterator[tuple[str, str]]:
    """Some draws of one format, as text."""
    rng = random.Random(0)
    for _ in range(200):
        pair = write_pair(V2, {name: 1.0}, problem, rng)
        assert pair is not None
        yield pair.prompt.text or "", pair.target


async def test_a_decomposer_is_trained_on_exactly_what_it_is_asked() -> None:
    learned = dict(pairs("next_question"))
    roles, planner, _ = cast(lambda prompt, i: learned[prompt.text or ""])
    trace = await reason(PROBLEM, roles, config())
    assert (trace.answer, trace.plans) == ("22", (PLAN,))
    assert {prompts[0].text for prompts, _ in planner.calls} == set(learned)  # after 0, 1, 2 and 3 answers
    drawn = [target for _, target in pairs("next_question")]
    assert all(35 <= drawn.count(target) <= 65 for target in set(drawn))
    assert V2.next_target(None) in drawn


async def test_a_solver_is_trained_on_exactly_what_it_is_asked() -> None:
    learned = dict(pairs("next_answer"))
    roles, _, worker = cast(solve=lambda prompt, i: learned[prompt.text or ""])
    trace = await reason(PROBLEM, roles, config())
    assert (trace.answer, {prompts[0].text for prompts, _ in worker.calls}) == ("22", set(learned))
    assert CHAT.step_target(STEPS[0]) == "1. 3 * 4 = 12\n"
    assert V2.step_target(STEPS[0]) == " 3 * 4 = 12\n"


def test_what_the_formats_need() -> None:
    bare = Problem("p", "Why?", answer="4")
    unanswered = replace(PROBLEM, gold_steps=STEPS[:2])
    at_once = replace(bare, gold_plan=Plan())
    needs = [
        [has_what_it_needs(problem, name) for problem in (PROBLEM, bare, unanswered, at_once)] for name in ("next_question", "next_answer")
    ]
    assert needs == [[True, False, False, True], [True, False, False, False]]
    assert set(pairs("next_question", at_once)) == {("Question: Why?\nPlan:\n\nSolution:\nQuestion:\n", "No more\n")}


def test_socratic_pairs_of_gsm8k(tmp_path: Path) -> None:
    """Its sub-questions refer to nothing, so only next_answer shows the answers that a step builds on (QA of arXiv 2212.00193)."""
    row = {
        "question": "Ann buys 3 bags of 4 and eats 2. How many are left?",
        "answer": "How many does she buy? ** She buys 3*4=<<3*4=12>>12.\nHow many are left? ** There are 12-2=<<12-2=10>>10 left.\n#### 10",
    }
    (tmp_path / "test_socratic.jsonl").write_text(json.dumps(row) + "\n")
    (problem,) = Gsm8kSocratic(str(tmp_path)).problems("socratic-train")
    head = f"Question: {row['question']}\nPlan:\n1. How many does she buy?\n"
    assert set(pairs("next_question", problem)) == {
        (f"Question: {row['question']}\nPlan:\n\nSolution:\nQuestion:\n", "1. How many does she buy?\n"),
        (f"{head}Solution:\n1. She buys 3*4=12.\nQuestion:\n", "2. How many are left?\n"),
        (f"{head}2. How many are left?\nSolution:\n1. She buys 3*4=12.\n2. There are 12-2=10 left.\nQuestion:\n", "No more\n"),
    }
    assert set(pairs("next_answer", problem)) == {
        (f"{head}Solution:\n1.", " She buys 3*4=12.\n"),
        (f"{head}2. How many are left?\nSolution:\n1. She buys 3*4=12.\n2.", " There are 12-2=10 left.\n"),
    }
    assert all("She buys" not in prompt for prompt, _ in pairs("step", problem))


def test_other_formats_draw_what_they_drew() -> None:
    """Trainings that are resumed see the same examples as before the formats of `dynamic` came."""
    rng = random.Random(7)
    drawn = [write_pair(V2, {"steps_with_plan": 1.0, "single": 1.0, "direct": 0.15, "step": 0.1}, PROBLEM, rng) for _ in range(40)]
    expected = random.Random(7)
    for pair in drawn:
        assert pair is not None
        name = expected.choices(["steps_with_plan", "single", "direct", "step"], [1.0, 1.0, 0.15, 0.1])[0]
        if name == "step":
            expected.choice(PLAN.steps)
        head = {"steps_with_plan": "Plan:\n1. How many in 3", "single": "all?\nSolution:", "direct": "Answer:\n", "step": "Plan:\n1."}[name]
        assert head in (pair.prompt.text or "")


async def test_an_unfinished_dialogue_is_no_plan_to_learn_from() -> None:
    def rows(trace: Trace) -> list[Problem]:
        return list(screened([ScoredTrace("teacher", "own", 0, trace)], Screen("all"), lambda problem, answer: True))

    whole = await reason(PROBLEM, cast()[0], config())
    cut = await reason(PROBLEM, cast()[0], config(), BudgetConfig(max_calls=4))
    unanswered = await reason(PROBLEM, cast()[0], config(), BudgetConfig(max_calls=1))
    assert [problem.gold_plan for problem in rows(whole)] == [PLAN]
    assert rows(cut) == rows(unanswered) == []
