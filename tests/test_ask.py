"""`cleave ask`: what it prints and refuses, with a scripted cast, and once with real weights, recorded and replayed."""

import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import actors.local
from actors.decomposer import Decomposer
from actors.local import LocalHandle
from actors.solver import Solver
from actors.verifier import LikelihoodVerifier
from cleave.asking import OpenRoles, main
from cleave.config.roles import RolesConfig
from cleave.errors import ConfigError, DataError, GenerationError
from cleave.plans import parse_plan
from cleave.prompts import load_prompts
from cleave.questions import MAX_BYTES, check_question, problem_of
from cleave.roles import Roles
from cleave.solutions import parse_solution
from cleave.trace_view import print_trace
from cleave.types import Problem, Trace, Usage, from_json
from tests.puppet import Puppet

QUESTION = "Ann has 3 bags of 4 and 2 boxes of 5. How many in all?"
PLAN = "1. How many in 3 bags of 4?\n2. How many in 2 boxes of 5?\n3. What is #1 + #2?\n"
SOLUTION = "1. 3 * 4 = 12\n2. 2 * 5 = 10\n3. 12 + 10 = 22\nThe answer is: 22\n"


def opened(solver: Puppet, seen: list[RolesConfig] | None = None, plan: str = PLAN) -> OpenRoles:
    """An `open_roles` that casts `solver`, notes the config it got, and closes the model."""
    prompts = load_prompts("reference-v1")

    @asynccontextmanager
    async def open_roles(config: RolesConfig, record: Path | None) -> AsyncIterator[Roles]:
        if seen is not None:
            seen.append(config)
        decomposer = Decomposer(Puppet(lambda prompt, i: plan, name="planner"), prompts)
        verifier = LikelihoodVerifier("worker", lambda: solver, prompts)
        yield Roles(LocalHandle(decomposer), LocalHandle(Solver(solver, prompts)), LocalHandle(verifier))
        await solver.aclose()

    return open_roles


def worker(reply: str = SOLUTION) -> Puppet:
    return Puppet(lambda prompt, i: reply, name="worker")


def test_the_plan_is_a_tree_with_answers_confidence_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    model = worker()
    assert main(QUESTION, open_roles=opened(model)) == 0
    shown = capsys.readouterr()
    lines = [line.rstrip() for line in shown.out.splitlines()]
    words = [line.split() for line in lines if line]
    assert lines[:4] == [
        QUESTION,
        "└── 3. What is 12 + 10? → 12 + 10 = 22",
        "    ├── 1. How many in 3 bags of 4? → 3 * 4 = 12",
        "    └── 2. How many in 2 boxes of 5? → 2 * 5 = 10",
    ]
    assert "Answer: 22" in lines
    assert "Confidence: 0.61 (likelihood of worker)" in lines
    costs = {line[0]: line for line in words}
    assert costs["decomposer"][1:3] == ["planner", "1"]
    assert costs["solver"][1:3] == ["worker", "1"]
    assert costs["total"][1] == "2"
    assert shown.err == ""
    assert model.closed == 1


def test_json_is_the_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(QUESTION, open_roles=opened(worker()), as_json=True, n=4) == 0
    trace = from_json(Trace, capsys.readouterr().out)
    assert (trace.answer, trace.confidence, len(trace.solutions), trace.problem) == ("22", 1.0, 4, problem_of(QUESTION))


def test_options_reach_the_loop_and_the_cast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[RolesConfig] = []
    file = tmp_path / "roles.yaml"
    file.write_text("decomposer: {model: hf:a, max_tokens: 7}\nsolver: hf:b\n")
    model = worker()
    code = main(
        QUESTION,
        open_roles=opened(model, seen),
        roles=file,
        decomposer="openai:gpt@http://h/v1",
        strategy="single",
        n=2,
        temperature=0.4,
        overrides=["reasoning.seed=3"],
        as_json=True,
    )
    trace = from_json(Trace, capsys.readouterr().out)
    assert (code, trace.strategy, trace.seed, len(trace.solutions)) == (0, "single", 3, 2)
    assert (seen[0].decomposer.model.short, seen[0].decomposer.max_tokens) == ("openai:gpt@http://h/v1", 7)
    assert seen[0].solver.model.short == "hf:b"
    assert model.calls[0][1].temperature == 0.4


@pytest.mark.parametrize(("reasoning", "temperature"), [("{}", 0.7), ("{temperature: 0.2}", 0.2)])
def test_several_samples_vote_at_a_temperature_of_their_own(tmp_path: Path, reasoning: str, temperature: float) -> None:
    file = tmp_path / "ask.yaml"
    file.write_text(f"reasoning: {reasoning}\n")
    model = worker()
    assert main(QUESTION, open_roles=opened(model), config=file, n=3, as_json=True) == 0
    assert (model.calls[0][1].n, model.calls[0][1].temperature) == (3, temperature)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"strategy": "guess"}, "reasoning.strategy"),
        ({"n": 0}, "reasoning.n"),
        ({"solver": "gpt"}, "names no model"),
        ({"overrides": ["reasoning.tempature=1"]}, "did you mean"),
        ({"roles": Path("no/such.yaml")}, "no config file"),
    ],
)
def test_mistakes_are_refused_before_any_work(options: dict[str, Any], complaint: str) -> None:
    model = worker()
    with pytest.raises(ConfigError, match=complaint):
        main(QUESTION, open_roles=opened(model), **options)
    assert model.calls == []


@pytest.mark.parametrize("as_json", [False, True])
def test_a_failure_shows_what_was_found_and_one_sentence(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    model = Puppet(lambda prompt, i: GenerationError("the endpoint is down; start it."))
    assert main(QUESTION, open_roles=opened(model), as_json=as_json) == 1
    shown = capsys.readouterr()
    assert shown.err == "error: solver: the endpoint is down; start it.\n"
    assert "How many in 3 bags of 4?" in shown.out
    if as_json:
        assert json.loads(shown.out)["error"]["type"] == "GenerationError"
    else:
        assert "Answer" not in shown.out


def test_models_cannot_steer_the_terminal() -> None:
    plan = parse_plan("1. [red]How\x1b[31m many?[/red]\n2. And \u202e#1?")
    solution = replace(parse_solution("1. a = 1\x07\n2. b\nThe answer is: [bold]1\x1b[0m"), usage=Usage(1, 2, 3))
    trace = Trace(Problem("p", "Q?"), "static", plans=(plan,), solutions=(solution,), answer=solution.answer, chosen=0)
    screen = io.StringIO()
    print_trace(trace, Console(file=screen, width=100))
    shown = screen.getvalue()
    assert not set("\x1b\x07\u202e") & set(shown)
    assert "[red]How" in shown
    assert "[bold]1" in shown
    assert "Confidence: unknown" in shown


def test_a_step_that_two_others_need_is_drawn_once() -> None:
    plan = parse_plan("1. a?\n2. b of #1?\n3. c of #1?\n4. d of #2 and #3?")
    screen = io.StringIO()
    print_trace(Trace(Problem("p", "Q?"), "static", plans=(plan,)), Console(file=screen, width=100))
    assert screen.getvalue().count("a?") == 1
    assert "1. (see above)" in screen.getvalue()


# ---- questions


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        ("", "empty"),
        (b" \n\t ", "empty"),
        ("a" * (MAX_BYTES + 1), "longer than 64 KiB"),
        (b"x" * 1_000_000, "longer than 64 KiB"),
        ("ä" * (MAX_BYTES // 2 + 1), "longer"),
        (b"caf\xe9?", "not UTF-8"),
        ("caf\udce9?", "not UTF-8"),
        ("What\x00?", r"U\+0000"),
        ("What\x1b[2J?", r"U\+001B"),
        ("What\x85?", r"U\+0085"),
    ],
)
def test_what_is_no_question(question: str | bytes, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        check_question(question)
    if isinstance(question, str):
        with pytest.raises(DataError, match=complaint):
            main(question, open_roles=opened(worker()))


@pytest.mark.parametrize(
    ("question", "clean"),
    [
        ("  How many? \r\nAnd why?\n", "How many? \nAnd why?"),
        ("a\tb", "a\tb"),
        ("Wie groß? 多少?".encode(), "Wie groß? 多少?"),
        ("a" * MAX_BYTES, None),
    ],
)
def test_what_is_a_question(question: str | bytes, clean: str | None) -> None:
    assert check_question(question) == (question if clean is None else clean)


@pytest.mark.parametrize(("stdin", "asked"), [(QUESTION.encode() + b"\n", QUESTION), (b"\xff", None), (b"a" * 1_000_000, None)])
def test_a_question_from_stdin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stdin: bytes, asked: str | None
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    ask: Callable[[], int] = lambda: main("-", open_roles=opened(worker()), as_json=True)  # noqa: E731
    if asked is None:
        with pytest.raises(DataError):
            ask()
    else:
        assert ask() == 0
        assert from_json(Trace, capsys.readouterr().out).problem.question == asked


def test_equal_questions_have_equal_ids() -> None:
    assert problem_of("a?") == problem_of("a?")
    assert problem_of("a?").id != problem_of("b?").id


# ---- real weights


def test_a_recorded_question_replays_without_the_model(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights answer nothing, so the trace is a failure; recorded and replayed it is the same one."""
    file = tmp_path / "calls.jsonl"

    def ask(model: str, record: Path | None) -> Trace:
        overrides = [f"roles.{role}.{option}" for role in ("decomposer", "solver") for option in ("prompts=reference-v1", "max_tokens=8")]
        code = main(
            "What is 3 + 4?",
            open_roles=actors.local.open_roles,
            decomposer=model,
            solver=model,
            strategy="single",
            n=2,
            overrides=overrides,
            record=record,
            as_json=True,
        )
        trace = from_json(Trace, capsys.readouterr().out)
        assert code == (0 if trace.error is None else 1)
        return replace(trace, timings={})

    recorded = ask(f"hf:{tiny_model_dir}", file)
    assert recorded.usage["solver"].completion_tokens > 0
    assert len(recorded.solutions) == 2
    replayed = ask(f"recorded:{file}", None)
    assert replace(replayed, models={}) == replace(recorded, models={})
    assert replayed.models["solver"] == recorded.models["solver"]
