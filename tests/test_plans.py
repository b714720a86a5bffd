"""Plans: what parses, what is refused, and that cutting a plan keeps what a step depends on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleave.errors import ParseError
from cleave.plans import DEFAULT_LIMITS, PlanLimits, ancestors, check_plan, parse_plan, references, subplan, substitute
from cleave.types import Plan, Step

CHARACTERS = st.characters(blacklist_categories=["Cs"], blacklist_characters="\n\r#")
WORDS = st.text(CHARACTERS, min_size=1, max_size=30).map(str.strip).filter(bool)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Well-formed plans of up to 8 steps, each referring to any earlier ones."""
    steps: list[Step] = []
    for k in range(1, draw(st.integers(0, 8)) + 1):
        needs = sorted(draw(st.sets(st.integers(1, k - 1), max_size=3))) if k > 1 else []
        question = " ".join([draw(WORDS), *(f"#{j}" for j in needs)])
        steps.append(Step(k, question, tuple(needs)))
    return Plan(tuple(steps))


@given(plans())
def test_a_plan_survives_being_written_and_read(plan: Plan) -> None:
    assert parse_plan(plan.text) == plan
    check_plan(plan)


@given(st.text() | st.lists(st.sampled_from(["1. a", "2. b #1", "3. #2 #9", "1.", "- x", "", "#", "2) c", "\x0b"])).map("\n".join))
def test_any_text_is_a_bounded_plan_or_a_parse_error(text: str) -> None:
    try:
        plan = parse_plan(text)
    except ParseError:
        return
    assert len(plan.steps) <= DEFAULT_LIMITS.steps
    assert plan.depth <= DEFAULT_LIMITS.depth
    for k, step in enumerate(plan.steps, start=1):
        assert step.id == k
        assert 0 < len(step.question) <= DEFAULT_LIMITS.characters
        assert all(1 <= j < k for j in step.needs)


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ("", []),
        ("\n", []),
        ("No decomposition", []),
        ("no decomposition needed.", []),
        ("1. How many?", ["How many?"]),
        ("Here is the plan:\n\n1. How many?\n2) And of #1?\n\nI hope that this helps!", ["How many?", "And of #1?"]),
        ("1. How many?\r\n\r\n  2. And of #1?", ["How many?", "And of #1?"]),
    ],
)
def test_what_models_write(text: str, questions: list[str]) -> None:
    assert [step.question for step in parse_plan(text).steps] == questions


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("I would first count the apples.", "no numbered line"),
        ("2. b", "number 2 where 1"),
        ("1. a\n1. b", "number 1 where 2"),
        ("1. a\n3. b", "number 3 where 2"),
        ("1. a of #1", "not before it"),
        ("1. a of #2\n2. b of #1", "not before it"),
        ("1. a of #0", "not before it"),
        ("1. a\nand b\n2. c", "no number"),
        ("1. a\n\nbut then\n2. c", "number 2"),
        ("1. \n2. b", "no question"),
        ("1. a #" + "9" * 400, "too many digits"),
        ("9" * 5000 + ". a", "where 1 was due"),
    ],
)
def test_what_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ParseError, match=complaint):
        parse_plan(text)


def test_size_is_bounded() -> None:
    with pytest.raises(ParseError, match="1000 steps"):
        parse_plan("\n".join(f"{k}. a" for k in range(1, 1001)))
    with pytest.raises(ParseError, match="characters") as caught:
        parse_plan("1. " + "a" * 1_000_000)
    assert len(caught.value.text) < 1000
    with pytest.raises(ParseError, match="step 1 has 501 characters"):
        parse_plan("1. " + "a" * 501)
    chain = "\n".join(["1. a", *(f"{k}. b #{k - 1}" for k in range(2, 6))])
    assert parse_plan(chain).depth == 5
    with pytest.raises(ParseError, match="5 levels deep"):
        parse_plan(chain, PlanLimits(depth=4))


@pytest.mark.parametrize(
    "steps",
    [
        (Step(1, "a #2", (2,)), Step(2, "b #1", (1,))),
        (Step(1, "a"), Step(2, "b", (1,))),
        (Step(1, "a"), Step(2, "b #1")),
        (Step(2, "a"),),
        tuple(Step(k, "a") for k in range(1, 18)),
    ],
)
def test_plans_from_elsewhere_are_checked(steps: tuple[Step, ...]) -> None:
    with pytest.raises(ParseError):
        check_plan(Plan(steps))


def test_substitution_reads_each_reference_once() -> None:
    assert substitute("#1 and #12 and #3", {1: "#12", 12: r"\1"}) == r"#12 and \1 and #3"


@given(plans().filter(lambda plan: plan.steps), st.data())
def test_a_subplan_is_a_plan_whose_last_step_asks_the_same(plan: Plan, data: st.DataObject) -> None:
    step_id = data.draw(st.integers(1, len(plan.steps)))
    part = subplan(plan, step_id)
    check_plan(part)
    kept = (*ancestors(plan, step_id), step_id)
    assert len(part.steps) == len(kept)
    back = {new: f"#{old}" for new, old in enumerate(kept, start=1)}
    for new, old in enumerate(kept, start=1):
        assert substitute(part.steps[new - 1].question, back) == plan.steps[old - 1].question
    needed = {j for step in part.steps for j in step.needs}
    assert needed == set(range(1, len(part.steps)))  # everything in it is needed by something, but the last step


def test_references_are_sorted_and_unique() -> None:
    assert references("#3 plus #1 plus #3") == (1, 3)
