"""Every value that travels survives JSON, and what is not such a value is refused with its first fault."""

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.errors import DataError
from cleave.types import (
    Completion,
    Failure,
    Message,
    ModelInfo,
    Plan,
    Problem,
    Prompt,
    Sampling,
    Solution,
    SolutionStep,
    Step,
    Trace,
    Usage,
    Verdict,
    from_dict,
    from_json,
    to_dict,
    to_json,
)

text = st.text(max_size=20)
number = st.floats(allow_nan=False, allow_infinity=False)
count = st.integers(0, 10**9)


def tuples_of(strategy: "st.SearchStrategy[Any]", size: int = 3) -> "st.SearchStrategy[tuple[Any, ...]]":
    return st.lists(strategy, max_size=size).map(tuple)


usages = st.builds(Usage, calls=count, prompt_tokens=count, completion_tokens=count, seconds=number, flops=number, price=number)
steps = st.builds(Step, id=st.integers(1, 9), question=text, needs=tuples_of(st.integers(1, 9)))
plans = st.builds(Plan, steps=tuples_of(steps))
solution_steps = st.builds(SolutionStep, id=st.integers(1, 9), text=text, answer=text)
problems = st.builds(
    Problem,
    id=text,
    question=text,
    context=text,
    answer=st.none() | text,
    task=text,
    skills=tuples_of(text),
    depth=st.integers(0, 5),
    gold_plan=st.none() | plans,
    gold_steps=tuples_of(solution_steps),
)
finishes = st.sampled_from(["stop", "length", "error", "budget"])
solutions = st.builds(
    Solution,
    steps=tuples_of(solution_steps),
    answer=st.none() | text,
    text=text,
    logprob=st.none() | number,
    usage=usages,
    finish=finishes,
)
verdicts = st.builds(Verdict, score=st.floats(0, 1), raw=number, step_scores=tuples_of(number), usage=usages)
traces = st.builds(
    Trace,
    problem=problems,
    strategy=text,
    seed=st.integers(),
    plans=tuples_of(plans),
    solutions=tuples_of(solutions),
    verdicts=tuples_of(verdicts),
    answer=st.none() | text,
    chosen=st.none() | st.integers(0, 3),
    confidence=st.none() | st.floats(0, 1),
    usage=st.dictionaries(text, usages, max_size=2),
    models=st.dictionaries(text, st.builds(ModelInfo, name=text, parameters=st.none() | count), max_size=2),
    timings=st.dictionaries(text, number, max_size=2),
    error=st.none() | st.builds(Failure, type=text, message=text, role=text),
)
prompts = st.builds(Prompt, text=text, seed=st.none() | count) | st.builds(
    Prompt, messages=tuples_of(st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=text)).filter(bool)
)
samplings = st.builds(Sampling, max_tokens=count, temperature=number, n=count, stop=tuples_of(text), logprobs=count)
completions = st.builds(
    Completion,
    text=text,
    token_ids=tuples_of(count),
    logprobs=tuples_of(number),
    top_logprobs=tuples_of(tuples_of(st.tuples(count, number))),
    finish=finishes,
    usage=usages,
)


@given(st.one_of(traces, problems, plans, solutions, verdicts, prompts, samplings, completions, usages))
def test_a_dictionary_is_what_dataclasses_make_of_it(value: Any) -> None:
    assert to_dict(value) == asdict(value)


@given(st.one_of(traces, problems, plans, solutions, verdicts, prompts, samplings, completions, usages))
def test_json_round_trip(value: Any) -> None:
    line = to_json(value)
    assert "\n" not in line
    again = from_json(type(value), line)
    assert again == value
    assert to_json(again) == line


@given(usages, usages)
def test_usage_adds_field_by_field(a: Usage, b: Usage) -> None:
    both = a + b
    assert both.tokens == a.tokens + b.tokens
    assert both.calls == a.calls + b.calls
    assert both.price == a.price + b.price
    assert a + Usage() == a


def test_total_usage_is_the_sum_over_roles() -> None:
    trace = Trace(Problem("1", "?"), "static", usage={"solver": Usage(calls=2), "decomposer": Usage(calls=1, seconds=0.5)})
    assert trace.total_usage == Usage(calls=3, seconds=0.5)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not a JSON Problem"),
        (b"\xff", "not a JSON Problem"),
        ("[]", "expected an object"),
        ('{"id": "1"}', r"Problem\.question"),
        ('{"id": "1", "question": "?", "colour": 1}', "no field 'colour'"),
        ('{"id": "1", "question": 5}', r"Problem\.question"),
    ],
)
def test_what_is_no_problem_is_refused(line: str | bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        from_json(Problem, line)


def test_plan_depth_is_its_longest_chain() -> None:
    plan = Plan((Step(1, "a"), Step(2, "b", (1,)), Step(3, "c"), Step(4, "d", (2, 3))))
    assert plan.depth == 3
    assert plan.text == "1. a\n2. b\n3. c\n4. d"
    assert Plan().depth == 0


def test_prompt_is_either_text_or_messages() -> None:
    for arguments in ({}, {"text": "a", "messages": (Message("user", "b"),)}):
        with pytest.raises(ValueError, match="either text or messages"):
            Prompt(**arguments)
    assert Prompt(text="").text == ""


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=5))
def test_mean_logprob_is_per_token(logprobs: list[float]) -> None:
    mean = Completion("x", logprobs=tuple(logprobs)).mean_logprob
    assert mean is not None
    assert math.isclose(mean * len(logprobs), sum(logprobs), abs_tol=1e-9)
    assert Completion("x").mean_logprob is None


def test_from_dict_takes_what_json_reads() -> None:
    trace = Trace(Problem("1", "?", skills=("add",)), "static", plans=(Plan((Step(1, "a"),)),))
    assert from_dict(Trace, json.loads(to_json(trace))) == trace
