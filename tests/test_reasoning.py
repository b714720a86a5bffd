"""The guarantees of the reasoning loop (its docstring numbers them), with a scripted model behind the real roles."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from actors.decomposer import Decomposer
from actors.local import LocalHandle
from actors.solver import Solver
from actors.verifier import LikelihoodVerifier
from cleave.config.base import validate
from cleave.config.reasoning import BudgetConfig, ReasoningConfig
from cleave.errors import ConfigError, GenerationError, RoleUnavailable
from cleave.events import Event
from cleave.plans import parse_plan
from cleave.prompts import load_prompts
from cleave.reasoning import reason
from cleave.roles import DecomposeReply, DecomposeRequest, Roles, SolveReply, SolveRequest, VerifyReply, VerifyRequest
from cleave.seeds import derive_seed
from cleave.types import Completion, ModelInfo, Plan, Problem, Prompt, Step, Trace, Usage, Verdict, from_json, to_json
from tests.puppet import Puppet, Reply

PROMPTS = load_prompts("reference-v1")
PROBLEM = Problem("p1", "Ann has 3 bags of 4 and 2 boxes of 5. How many in all?")
DIAMOND = "1. How many in 3 bags of 4?\n2. How many in 2 boxes of 5?\n3. What is #1 + #2?\n"
LINES = ("3 * 4 = 12", "2 * 5 = 10", "12 + 10 = 22")
SOLUTION = "".join(f"{k}. {line}\n" for k, line in enumerate(LINES, start=1)) + "The answer is: 22\n"
NUMBER_AT_END = re.compile(r"\n(\d+)\.\Z")


def solver_script(prompt: Prompt, sample: int) -> str:
    """A solver that knows PROBLEM: whole, or the step whose question stands last in the plan."""
    text = prompt.text or ""
    if not NUMBER_AT_END.search(text):
        return "The answer is: 22\n" if text.endswith("Answer:\n") else SOLUTION
    question = step_question(prompt)
    return " " + LINES[0 if "bags" in question else 1 if "boxes" in question else 2]


def step_question(prompt: Prompt) -> str:
    """The question of the step that a step prompt asks."""
    return (prompt.text or "").split("\nSolution:\n")[0].rsplit("\n", 1)[1]


def cast(
    solve: Callable[[Prompt, int], Reply | Awaitable[Reply]] = solver_script,
    plan: str | Callable[[Prompt, int], Reply | Awaitable[Reply]] = DIAMOND,
    **options: Any,
) -> tuple[Roles, Puppet, Puppet]:
    """The three roles over two scripted models, and the models: (roles, decomposer's, solver's)."""
    planner = Puppet((lambda prompt, i: plan) if isinstance(plan, str) else plan, name="planner")
    worker = Puppet(solve, name="worker", **options)
    verifier = LikelihoodVerifier("worker", lambda: worker, PROMPTS)
    roles = Roles(LocalHandle(Decomposer(planner, PROMPTS)), LocalHandle(Solver(worker, PROMPTS)), LocalHandle(verifier))
    return roles, planner, worker


def config(**options: Any) -> ReasoningConfig:
    if options.get("n", 1) > options.get("plans", 1):
        options.setdefault("temperature", 1.0)
    return ReasoningConfig(**options)


def kinds(events: list[Event]) -> list[str]:
    return [event.event for event in events]


def untimed(trace: Trace) -> Trace:
    return replace(trace, timings={})


# ---- the four strategies


@pytest.mark.parametrize(
    ("strategy", "decomposer_calls", "solver_calls"), [("direct", 0, 1), ("single", 0, 1), ("static", 1, 1), ("stepwise", 1, 3)]
)
async def test_every_strategy_answers(strategy: str, decomposer_calls: int, solver_calls: int) -> None:
    roles, planner, worker = cast()
    trace = await reason(PROBLEM, roles, config(strategy=strategy))
    assert (trace.answer, trace.chosen, trace.error) == ("22", 0, None)
    assert trace.confidence == pytest.approx(0.6065, abs=1e-3)  # exp(-0.5)
    assert (len(planner.calls), len(worker.calls)) == (decomposer_calls, solver_calls)
    assert trace.usage["solver"].calls == solver_calls
    assert trace.usage.get("decomposer", Usage()).calls == decomposer_calls
    assert {role: info.name for role, info in trace.models.items()} == {
        "decomposer": "planner",
        "solver": "worker",
        "verifier": "likelihood of worker",
    }
    assert {"solve", "verify", "total"} <= set(trace.timings)
    assert from_json(Trace, to_json(trace)) == trace


async def test_stepwise_passes_on_what_each_step_needs_and_assembles_the_whole() -> None:
    roles, _, worker = cast()
    events: list[Event] = []
    trace = await reason(PROBLEM, roles, config(strategy="stepwise"), on_event=events.append)
    asked = [(prompts[0].text or "").removeprefix(f"Question: {PROBLEM.question}\nPlan:\n") for prompts, _ in worker.calls]
    assert sorted(asked[:2]) == ["1. How many in 2 boxes of 5?\nSolution:\n1.", "1. How many in 3 bags of 4?\nSolution:\n1."]
    assert asked[2] == f"{DIAMOND}Solution:\n1. 3 * 4 = 12\n2. 2 * 5 = 10\n3."
    (solution,) = trace.solutions
    assert [step.text for step in solution.steps] == list(LINES)
    assert solution.text == SOLUTION.strip()
    assert solution.usage == trace.usage["solver"]
    steps = ["step_asked", "step_answered"]
    assert kinds(events) == ["plan", *steps * 3, "solution", "verdicts", "selected"]
    last = [event.to_dict() for event in events if event.event == "step_asked"][-1]
    assert last == {"event": "step_asked", "sample": 0, "step": 3, "question": "What is 12 + 10?"}


async def test_independent_steps_are_asked_at_the_same_time() -> None:
    both = asyncio.Barrier(2)

    async def solve(prompt: Prompt, i: int) -> str:
        if "#1" not in step_question(prompt):
            await both.wait()  # would wait for ever if the steps were asked one after the other
        return solver_script(prompt, i)

    roles, _, worker = cast(solve)
    async with asyncio.timeout(30):
        trace = await reason(PROBLEM, roles, config(strategy="stepwise"))
    assert trace.answer == "22"
    assert worker.most_running == 2


async def test_an_empty_plan_means_a_single_pass() -> None:
    for strategy in ("static", "stepwise"):
        roles, _, worker = cast(plan="\n")
        trace = await reason(PROBLEM, roles, config(strategy=strategy))
        assert (trace.answer, trace.plans) == ("22", (Plan(),))
        assert (worker.calls[0][0][0].text or "").endswith("in all?\nSolution:\n")


async def test_a_gold_plan_replaces_the_decomposer() -> None:
    roles, planner, _ = cast()
    gold = replace(PROBLEM, gold_plan=parse_plan(DIAMOND))
    trace = await reason(gold, roles, config(gold_plan=True))
    assert (trace.answer, trace.plans, planner.calls) == ("22", (gold.gold_plan,), [])
    missing = await reason(PROBLEM, roles, config(gold_plan=True))
    assert missing.error is not None
    assert missing.error.type == "DataError"
    with pytest.raises(ConfigError, match="gold_plan"):
        validate(ReasoningConfig, {"strategy": "single", "gold_plan": True}, source="a test")


async def test_n_samples_of_one_plan_are_one_call() -> None:
    roles, _, worker = cast()
    trace = await reason(PROBLEM, roles, config(n=8, selection="majority"))
    assert (len(worker.calls), len(trace.solutions), len(trace.verdicts), len(trace.plans)) == (1, 8, 8, 1)
    assert trace.confidence == 1.0


async def test_plans_share_the_samples_evenly_and_each_solution_knows_its_plan() -> None:
    roles, _, worker = cast(plan=lambda prompt, i: f"1. Plan {i}?\n")
    trace = await reason(PROBLEM, roles, config(n=8, plans=3, plan_temperature=1.0))
    assert sorted(sampling.n for _, sampling in worker.calls) == [2, 3, 3]
    assert [plan.steps[0].question for plan in trace.plans] == ["Plan 0?"] * 3 + ["Plan 1?"] * 3 + ["Plan 2?"] * 2
    assert len(trace.solutions) == 8


# ---- 1, 2: exactly one trace, with an answer or an error


@pytest.mark.parametrize("strategy", ["static", "stepwise"])
@pytest.mark.parametrize(
    "poison",
    [
        "\n".join(f"{k}. a?" for k in range(1, 1001)),
        "1. b #2?\n2. a #1?\n",
        "1. a #1?\n",
        "1. " + "a" * 1_000_000,
        "I would rather not.",
    ],
    ids=["1000 steps", "cycle", "self", "1 MB line", "prose"],
)
async def test_a_poisoned_plan_is_an_error_of_the_decomposer(strategy: str, poison: str) -> None:
    roles, _, worker = cast(plan=poison)
    events: list[Event] = []
    trace = await reason(PROBLEM, roles, config(strategy=strategy), on_event=events.append)
    assert trace.error is not None
    assert (trace.error.type, trace.error.role, trace.answer) == ("ParseError", "decomposer", None)
    assert len(trace.error.message) < 300
    assert worker.calls == []
    assert trace.usage["decomposer"].calls == 1
    assert kinds(events) == ["failed"]


async def test_one_good_plan_among_bad_ones_is_enough() -> None:
    roles, _, _ = cast(plan=lambda prompt, i: DIAMOND if i == 2 else "Well.")
    trace = await reason(PROBLEM, roles, config(n=4, plans=4, plan_temperature=1.0, temperature=1.0))
    assert (trace.answer, trace.error, len(trace.plans), len(trace.solutions)) == ("22", None, 1, 4)


@pytest.mark.parametrize("cyclic", [Plan((Step(1, "a #2", (2,)), Step(2, "b #1", (1,)))), Plan((Step(1, "a", (1,)),))])
async def test_a_cyclic_plan_from_a_remote_decomposer_is_refused(cyclic: Plan) -> None:
    class Remote:
        async def __call__(self, request: DecomposeRequest) -> DecomposeReply:
            return DecomposeReply((cyclic,), ("",), Usage(calls=1))

        async def info(self) -> ModelInfo:
            return ModelInfo("remote")

    roles = replace(cast()[0], decomposer=Remote())
    async with asyncio.timeout(30):
        trace = await reason(PROBLEM, roles, config(strategy="stepwise"))
    assert trace.error is not None
    assert (trace.error.type, trace.error.role) == ("ParseError", "decomposer")


@pytest.mark.parametrize(
    ("strategy", "role", "solutions"),
    [("direct", "solver", 0), ("static", "decomposer", 0), ("static", "solver", 0), ("stepwise", "solver", 0)],
)
async def test_a_model_that_fails_is_a_typed_error(strategy: str, role: str, solutions: int) -> None:
    def down(prompt: Prompt, i: int) -> Reply:
        return GenerationError("the endpoint is down; start it.")

    roles, _, _ = cast(plan=down) if role == "decomposer" else cast(down)
    trace = await reason(PROBLEM, roles, config(strategy=strategy))
    assert trace.error is not None
    assert (trace.error.type, trace.error.role, trace.error.message) == ("GenerationError", role, "the endpoint is down; start it.")
    assert (trace.answer, trace.chosen, trace.confidence, len(trace.solutions)) == (None, None, None, solutions)
    assert trace.usage[role].calls == 1 if strategy != "stepwise" else trace.usage[role].calls >= 1
    assert from_json(Trace, to_json(trace)) == trace


async def test_no_final_answer_is_an_error_of_the_solver() -> None:
    roles, _, _ = cast(lambda prompt, i: "1. 3 * 4 = 12")
    trace = await reason(PROBLEM, roles, config(n=2))
    assert trace.error is not None
    assert (trace.error.type, trace.error.role, trace.answer) == ("ParseError", "solver", None)
    assert len(trace.solutions) == 2


async def test_a_step_without_an_answer_ends_its_sample_only() -> None:
    def solve(prompt: Prompt, i: int) -> str:
        lost = prompt.seed == derive_seed(0, PROBLEM.id, "solver", 1, 2)  # sample 1, step 2
        return "" if lost else solver_script(prompt, i)

    roles, _, _ = cast(solve)
    trace = await reason(PROBLEM, roles, config(strategy="stepwise", n=3, selection="majority"))
    assert (trace.answer, trace.error) == ("22", None)
    assert [solution.finish for solution in trace.solutions] == ["stop", "error", "stop"]
    assert trace.solutions[1].answer is None
    assert trace.confidence == pytest.approx(2 / 3)


async def test_a_bug_propagates_as_itself() -> None:
    for strategy in ("direct", "static", "stepwise"):
        roles, _, _ = cast(lambda prompt, i: ZeroDivisionError("bug"))
        with pytest.raises(ZeroDivisionError):
            await reason(PROBLEM, roles, config(strategy=strategy))


async def test_a_timeout_that_is_not_ours_propagates() -> None:
    roles, _, _ = cast(lambda prompt, i: TimeoutError("not ours"))
    with pytest.raises(TimeoutError, match="not ours"):
        await reason(PROBLEM, roles, config(), BudgetConfig(max_seconds=60))


async def test_a_role_that_cannot_be_reached_is_a_typed_error() -> None:
    class Gone:
        async def __call__(self, request: DecomposeRequest) -> DecomposeReply:
            raise AssertionError("never asked")

        async def info(self) -> ModelInfo:
            raise RoleUnavailable("the actor died; start it again.")

    trace = await reason(PROBLEM, replace(cast()[0], decomposer=Gone()), config())
    assert trace.error is not None
    assert trace.error.type == "RoleUnavailable"


# ---- 3, 4: cancellation


async def test_cancelling_leaves_no_call_running() -> None:
    started = asyncio.Event()

    async def solve(prompt: Prompt, i: int) -> str:
        started.set()
        await asyncio.Event().wait()
        return ""

    for strategy in ("static", "stepwise"):
        started.clear()
        roles, _, worker = cast(solve)
        task = asyncio.create_task(reason(PROBLEM, roles, config(strategy=strategy)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert worker.running == 0
        assert worker.cancelled == len(worker.calls) > 0


async def test_a_failing_step_cancels_its_siblings_and_no_other_sample() -> None:
    async def solve(prompt: Prompt, i: int) -> Reply:
        if prompt.seed == derive_seed(0, PROBLEM.id, "solver", 0, 1):
            await asyncio.sleep(0)
            return GenerationError("step 1 of sample 0 is lost.")
        if prompt.seed == derive_seed(0, PROBLEM.id, "solver", 0, 2):
            await asyncio.Event().wait()  # ends by being cancelled only
        return solver_script(prompt, i)

    roles, _, worker = cast(solve)
    async with asyncio.timeout(30):
        trace = await reason(PROBLEM, roles, config(strategy="stepwise", n=2))
    assert worker.cancelled == 1
    assert (trace.answer, trace.error, len(trace.solutions)) == ("22", None, 1)
    assert trace.confidence == 0.5


async def test_one_failing_plan_of_two_costs_its_samples_only() -> None:
    def solve(prompt: Prompt, i: int) -> Reply:
        return GenerationError("lost.") if "Plan 0?" in (prompt.text or "") else SOLUTION

    roles, _, _ = cast(solve, plan=lambda prompt, i: f"1. Plan {i}?\n")
    events: list[Event] = []
    trace = await reason(PROBLEM, roles, config(n=4, plans=2, plan_temperature=1.0, temperature=1.0), on_event=events.append)
    assert (trace.answer, trace.error, len(trace.solutions)) == ("22", None, 2)
    assert [plan.steps[0].question for plan in trace.plans] == ["Plan 1?"] * 2
    assert kinds(events).count("failed") == 2


async def test_a_call_that_its_host_cancels_is_a_failure_and_no_deadlock() -> None:
    class Dying:
        async def __call__(self, request: SolveRequest) -> SolveReply:
            raise asyncio.CancelledError

        async def info(self) -> ModelInfo:
            return ModelInfo("dying")

    async with asyncio.timeout(30):
        for strategy in ("static", "stepwise"):
            trace = await reason(PROBLEM, replace(cast()[0], solver=Dying()), config(strategy=strategy))
            assert trace.error is not None
            assert (trace.error.type, trace.error.role) == ("RoleUnavailable", "solver")


# ---- 5: seeds


async def test_the_trace_does_not_depend_on_the_order_of_replies() -> None:
    def slow(turns: Callable[[int], int]) -> Callable[[Prompt, int], Awaitable[Reply]]:
        async def solve(prompt: Prompt, i: int) -> str:
            for _ in range(turns(prompt.seed or 0)):
                await asyncio.sleep(0)
            seed = prompt.seed or 0
            return f" {seed % 5}" if NUMBER_AT_END.search(prompt.text or "") else f"The answer is: {seed % 5}"

        return solve

    for options in ({"strategy": "stepwise", "n": 6}, {"n": 6, "plans": 3, "plan_temperature": 1.0, "temperature": 1.0}):
        traces = [
            untimed(await reason(PROBLEM, cast(slow(turns))[0], config(selection="majority", **options)))
            for turns in (lambda seed: 0, lambda seed: seed % 7, lambda seed: 7 - seed % 7)
        ]
        assert traces[0] == traces[1] == traces[2]
        assert traces[0].answer is not None


async def test_seeds_differ_by_problem_run_role_and_sample() -> None:
    seeds: list[int | None] = []

    def note(reply: str) -> Callable[[Prompt, int], Reply]:
        def script(prompt: Prompt, i: int) -> Reply:
            seeds.append(prompt.seed)
            return solver_script(prompt, i) if reply == "" else reply

        return script

    for problem, seed in ((PROBLEM, 0), (PROBLEM, 1), (replace(PROBLEM, id="p2"), 0)):
        roles, _, _ = cast(note(""), note(DIAMOND))
        await reason(problem, roles, config(strategy="stepwise", n=2, seed=seed))
    assert len(seeds) == len(set(seeds)) == 3 * 7
    roles, _, _ = cast(note(""), note(DIAMOND))
    await reason(PROBLEM, roles, config(strategy="stepwise", n=2, seed=0))
    assert sorted(map(str, seeds[:7])) == sorted(map(str, seeds[-7:]))


def test_derived_seeds_are_stable() -> None:
    assert derive_seed(0, "p1", "solver", 1) == derive_seed(0, "p1", "solver", 1)
    assert derive_seed(0, "p1", "solver", 1) == 76560060261987
    assert derive_seed("ab", "c") != derive_seed("a", "bc")
    assert derive_seed(1) != derive_seed("1")


# ---- 6: budgets


async def test_running_out_of_calls_in_the_middle_of_stepwise_keeps_what_was_found() -> None:
    roles, _, _ = cast()
    trace = await reason(PROBLEM, roles, config(strategy="stepwise"), BudgetConfig(max_calls=3))
    assert trace.error is not None
    assert (trace.error.type, trace.error.role) == ("BudgetExceeded", "solver")
    assert "max_calls" in trace.error.message
    assert trace.total_usage.calls == 3
    (solution,) = trace.solutions
    assert [step.id for step in solution.steps] == [1, 2]
    assert (solution.answer, solution.finish, trace.answer) == (None, "budget", None)
    assert trace.plans[0].depth == 2


@pytest.mark.parametrize("limit", range(1, 8))
async def test_the_number_of_calls_never_exceeds_its_limit(limit: int) -> None:
    roles, planner, worker = cast()
    trace = await reason(PROBLEM, roles, config(strategy="stepwise", n=2), BudgetConfig(max_calls=limit))
    assert len(planner.calls) + len(worker.calls) == limit
    assert trace.total_usage.calls == limit
    assert (trace.error is None) == (limit == 7)
    assert trace.answer is not None or trace.error is not None


async def test_a_vote_among_the_samples_that_finished() -> None:
    async def solve(prompt: Prompt, i: int) -> str:
        if prompt.seed in {derive_seed(0, PROBLEM.id, "solver", 0, k) for k in (1, 2, 3)}:
            return solver_script(prompt, i)
        for _ in range(50):
            await asyncio.sleep(0)
        return solver_script(prompt, i)

    roles, _, _ = cast(solve)
    trace = await reason(PROBLEM, roles, config(strategy="stepwise", n=2, selection="majority"), BudgetConfig(max_calls=6))
    assert trace.error is not None
    assert (trace.error.type, trace.answer, trace.chosen) == ("BudgetExceeded", "22", 0)
    assert trace.confidence == 0.5


@pytest.mark.parametrize(
    ("budget", "name"),
    [(BudgetConfig(max_tokens=30), "tokens"), (BudgetConfig(max_price=0.5), "price"), (BudgetConfig(max_calls=1), "calls")],
)
async def test_each_limit_is_checked_before_a_call(budget: BudgetConfig, name: str) -> None:
    roles, _, worker = cast(price=1.0)
    planner_price = Puppet(lambda prompt, i: DIAMOND, price=1.0)
    roles = replace(roles, decomposer=LocalHandle(Decomposer(planner_price, PROMPTS)))
    trace = await reason(PROBLEM, roles, config(), budget)
    assert trace.error is not None
    assert trace.error.type == "BudgetExceeded"
    assert f"max_{name}" in trace.error.message
    assert worker.calls == []
    assert len(trace.plans) == 1


async def test_the_last_call_may_pass_a_limit_and_keeps_its_answer() -> None:
    roles, _, worker = cast()
    trace = await reason(PROBLEM, roles, config(strategy="single"), BudgetConfig(max_tokens=20))
    assert trace.error is not None
    assert (trace.error.type, trace.answer) == ("BudgetExceeded", "22")
    assert len(worker.calls) == 1


async def test_time_runs_out_at_any_moment() -> None:
    async def solve(prompt: Prompt, i: int) -> str:
        if "#1" in step_question(prompt):
            await asyncio.Event().wait()
        return solver_script(prompt, i)

    roles, _, worker = cast(solve)
    trace = await reason(PROBLEM, roles, config(strategy="stepwise"), BudgetConfig(max_seconds=0.2))
    assert trace.error is not None
    assert trace.error.type == "BudgetExceeded"
    assert "max_seconds" in trace.error.message
    assert worker.running == 0
    assert len(trace.plans) == 1
    assert [step.answer for step in trace.solutions[0].steps] == ["12", "10"]
    assert trace.solutions[0].finish == "budget"


async def test_the_likelihood_costs_no_call() -> None:
    roles, _, _ = cast()
    trace = await reason(PROBLEM, roles, config(), BudgetConfig(max_calls=2))
    assert trace.error is None
    assert trace.confidence is not None


# ---- 8: the verifier


async def test_a_failing_verifier_changes_no_answer() -> None:
    class Broken:
        async def __call__(self, request: VerifyRequest) -> VerifyReply:
            raise GenerationError("the judge is out; call again.")

        async def info(self) -> ModelInfo:
            return ModelInfo("judge")

    trace = await reason(PROBLEM, replace(cast()[0], verifier=Broken()), config())
    assert (trace.answer, trace.confidence, trace.verdicts) == ("22", None, ())
    assert trace.error is not None
    assert (trace.error.type, trace.error.role) == ("GenerationError", "verifier")


async def test_without_a_verifier_there_is_no_confidence_in_a_single_solution() -> None:
    trace = await reason(PROBLEM, replace(cast()[0], verifier=None), config())
    assert (trace.answer, trace.confidence, trace.error) == ("22", None, None)
    assert "verifier" not in trace.models


async def test_a_verifier_without_an_opinion_is_no_error() -> None:
    roles, _, worker = cast(logprob=None)
    worker.capabilities = frozenset({"text"})
    trace = await reason(PROBLEM, roles, config())
    assert (trace.answer, trace.confidence, trace.verdicts, trace.error) == ("22", None, (), None)


async def test_a_verifier_that_skips_a_solution_is_an_error() -> None:
    class Hasty:
        async def __call__(self, request: VerifyRequest) -> VerifyReply:
            return VerifyReply((Verdict(1.0),))

        async def info(self) -> ModelInfo:
            return ModelInfo("hasty")

    trace = await reason(PROBLEM, replace(cast()[0], verifier=Hasty()), config(n=2))
    assert (trace.answer, trace.verdicts) == ("22", ())
    assert trace.error is not None
    assert trace.error.role == "verifier"


async def test_a_majority_tie_of_eight_goes_to_the_likelier_answer() -> None:
    def solve(prompt: Prompt, i: int) -> Reply:
        answer, logprob = ("22", -0.1) if i % 2 else ("23", -0.9)
        return Completion(f"The answer is: {answer}", logprobs=(logprob,), usage=Usage(int(i == 0), 0, 1))

    trace = await reason(PROBLEM, cast(solve)[0], config(strategy="direct", n=8, selection="majority"))
    assert (trace.answer, trace.confidence, trace.chosen) == ("22", 0.5, 1)


# ---- options


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"n": 2}, "set temperature"),
        ({"strategy": "single", "plans": 2, "n": 2, "temperature": 1.0}, "makes no plan"),
        ({"plans": 2, "plan_temperature": 1.0}, "set n to 2"),
        ({"plans": 2, "n": 2}, "set plan_temperature"),
        ({"strategy": "guess"}, "strategy"),
    ],
)
def test_options_without_sense_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        validate(ReasoningConfig, options, "the test")
