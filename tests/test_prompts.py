"""Prompts: exact training text, literal filling, strict files."""

from pathlib import Path

import pytest

from cleave.errors import ConfigError
from cleave.plans import parse_next, parse_plan
from cleave.prompts import load_prompts, shipped_prompts
from cleave.solutions import parse_solution, parse_step, parse_steps
from cleave.templates import ChatTemplates, TextTemplates
from cleave.types import Plan, Problem, Prompt, SolutionStep
from tests.puppet import said

PROBLEM = Problem("p", "How many {plan} are 3 + 4 {question}?")
PLAN = parse_plan("1. What is 3 + 4?\n2. What is #1 + 1?")
STEPS = (SolutionStep(1, "3 + 4 = 7", "7"), SolutionStep(2, "7 + 1 = 8", "8"))
REFERENCE_FINGERPRINT = "135ca63393ea9a708dc5402703ac3363c58e9511f200194f43db86ee66d179f4"


def test_reference_prompts_are_frozen() -> None:
    """The shipped checkpoints are trained on exactly this text; a change needs a new version and new checkpoints."""
    prompts = load_prompts("reference-v1")
    question = PROBLEM.question
    assert prompts.fingerprint == REFERENCE_FINGERPRINT
    assert prompts.decompose(PROBLEM, 3) == Prompt(text=f"Question: {question}\nPlan:\n", seed=3)
    assert prompts.solve(PROBLEM, "answer", PLAN).text == f"Question: {question}\nAnswer:\n"
    assert prompts.solve(PROBLEM).text == f"Question: {question}\nSolution:\n"
    assert prompts.solve(PROBLEM, "steps", Plan()) == prompts.solve(PROBLEM)
    whole = f"Question: {question}\nPlan:\n1. What is 3 + 4?\n2. What is #1 + 1?\nSolution:\n"
    assert prompts.solve(PROBLEM, "steps", PLAN).text == whole
    assert prompts.solve(PROBLEM, "step", PLAN, STEPS[:1]).text == f"{whole}1. 3 + 4 = 7\n2."
    assert prompts.stops("solve_step") == ("\n",)
    assert prompts.stops("solve_steps") == ()


@pytest.mark.parametrize("kind", ["reference", "instruct"])
def test_a_second_version_only_adds(kind: str) -> None:
    """What the first version asks, the second asks in the same words."""
    old, new = load_prompts(f"{kind}-v1"), load_prompts(f"{kind}-v2")
    assert new.decompose(PROBLEM, 1) == old.decompose(PROBLEM, 1)
    assert new.solve(PROBLEM, "answer") == old.solve(PROBLEM, "answer")
    assert new.solve(PROBLEM) == old.solve(PROBLEM)
    assert new.solve(PROBLEM, "steps", PLAN) == old.solve(PROBLEM, "steps", PLAN)
    assert new.solve(PROBLEM, "step", PLAN, STEPS[:1]) == old.solve(PROBLEM, "step", PLAN, STEPS[:1])
    assert (new.kind, new.stops("solve_step")) == (old.kind, old.stops("solve_step"))
    assert new.fingerprint != old.fingerprint
    assert old.templates.next_question is None
    assert "What is 3 + 4?" in said(new.next_question(PROBLEM, PLAN, STEPS))


@pytest.mark.parametrize("known", [(), STEPS[:1], (*STEPS, SolutionStep(3, "x", "x"))])
def test_the_next_question_needs_the_answers_of_all_before_it(known: tuple[SolutionStep, ...]) -> None:
    with pytest.raises(ValueError, match="the answers of exactly those before it"):
        load_prompts("reference-v2").next_question(PROBLEM, PLAN, known)


def test_a_step_prompt_is_the_beginning_of_the_training_text() -> None:
    prompts = load_prompts("reference-v1")
    trained = (prompts.solve(PROBLEM, "steps", PLAN).text or "") + prompts.solve_target(STEPS, "8")
    asked = prompts.solve(PROBLEM, "step", PLAN, STEPS[:1]).text or ""
    assert trained.startswith(asked)
    assert trained.removeprefix(asked) == " 7 + 1 = 8\nThe answer is: 8\n"


@pytest.mark.parametrize("name", shipped_prompts())
def test_targets_parse_back(name: str) -> None:
    prompts = load_prompts(name)
    assert parse_plan(prompts.decompose_target(PLAN)) == PLAN
    assert parse_plan(prompts.decompose_target(Plan())) == Plan()
    solution = parse_solution(prompts.solve_target(STEPS, "8"))
    assert (solution.steps, solution.answer) == (STEPS, "8")
    assert prompts.solve_target((), "8") == "The answer is: 8\n"


@pytest.mark.parametrize("name", shipped_prompts())
def test_what_a_user_writes_is_not_a_template(name: str) -> None:
    for prompt in (load_prompts(name).decompose(PROBLEM), load_prompts(name).solve(PROBLEM, "steps", PLAN)):
        assert PROBLEM.question in said(prompt)


def test_context_precedes_the_question() -> None:
    prompt = load_prompts("reference-v1").decompose(Problem("p", "Who?", context="Ada wrote it."))
    assert prompt.text == "Question: Ada wrote it.\nWho?\nPlan:\n"


def test_worked_examples_follow_their_own_rules() -> None:
    """What the examples of the chat prompts show is what the parsers read."""
    templates = load_prompts("instruct-v1").templates
    assert isinstance(templates, ChatTemplates)
    for example in templates.decompose.examples:
        parse_plan(example.reply)
    for form in (templates.solve_steps, templates.solve_single, templates.solve_answer):
        assert form.examples
        assert all(parse_solution(example.reply).answer for example in form.examples)
    for example in templates.solve_steps.examples:
        assert len(parse_solution(example.reply).steps) == len(parse_plan(example.plan).steps)
    second = load_prompts("instruct-v2").templates
    assert isinstance(second, ChatTemplates)
    assert second.next_question is not None
    for example in (*second.decompose.examples, *second.next_question.examples):
        parse_next(example.reply, parse_plan(example.plan)) if example.id else parse_plan(example.reply)
        assert len(parse_steps(example.known)) == len(parse_plan(example.plan).steps)
    for example in templates.solve_step.examples:
        assert parse_plan(example.plan).steps[-1].question == example.step
        assert parse_step(example.reply, int(example.id)) is not None


def test_chat_turns_alternate_and_end_with_the_problem() -> None:
    prompt = load_prompts("instruct-v1").solve(PROBLEM, "step", PLAN, STEPS[:1], seed=5)
    roles = [message.role for message in prompt.messages]
    assert roles == ["system", *["user", "assistant"] * (len(roles) // 2 - 1), "user"]
    assert prompt.seed == 5
    for part in (PROBLEM.question, PLAN.text, "1. 3 + 4 = 7", "2. What is #1 + 1?"):
        assert part in prompt.messages[-1].content


def test_a_chat_hears_the_complaint_and_plain_text_does_not() -> None:
    chat = load_prompts("instruct-v1")
    asked = chat.decompose(PROBLEM)
    again = chat.again(asked, "One, two.", "it has no {complaint} numbers.", seed=9)
    assert again.messages[: len(asked.messages)] == asked.messages
    assert again.messages[-2].content == "One, two."
    assert "it has no {complaint} numbers." in again.messages[-1].content
    text = load_prompts("reference-v1")
    assert text.again(text.decompose(PROBLEM, 1), "One.", "no.", seed=9) == text.decompose(PROBLEM, 9)


@pytest.mark.parametrize(("plan", "known"), [(None, ()), (Plan(), ()), (PLAN, ()), (PLAN, STEPS), (PLAN, (SolutionStep(2, "x", "x"),))])
def test_a_step_needs_its_plan_and_all_answers_before_it(plan: Plan | None, known: tuple[SolutionStep, ...]) -> None:
    with pytest.raises(ValueError, match="mode 'step'"):
        load_prompts("reference-v1").solve(PROBLEM, "step", plan, known)


def test_own_prompt_files(tmp_path: Path, root: Path) -> None:
    content = (root / "cleave/prompt_sets/reference-v1.yaml").read_text()
    file = tmp_path / "own.yaml"
    file.write_text(content.replace("Plan:", "Steps:"))
    own = load_prompts(file)
    assert isinstance(own.templates, TextTemplates)
    assert own.decompose(Problem("p", "Why?")).text == "Question: Why?\nSteps:\n"
    assert own.fingerprint != load_prompts("reference-v1").fingerprint


def test_a_file_may_extend_a_shipped_set(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text('name: own\nextends: reference-v2\ndecompose: "Split {question} into {most}.\\n"\n')
    own = load_prompts(file)
    assert own.decompose(Problem("p", "Why?"), most=4).text == "Split Why? into 4.\n"
    assert own.next_question(PROBLEM, Plan()) == load_prompts("reference-v2").next_question(PROBLEM, Plan())
    file.write_text("name: own\nextends: own.yaml\n")
    with pytest.raises(ConfigError, match=r"extends 'own.yaml'; only shipped ones can be extended: instruct-v1, "):
        load_prompts(file)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("kind: text", "kind: verse", "kind: chat"),
        ("kind: text", "kind: [text]", "kind: chat"),
        ("stop: []", "stops: []", "did you mean 'stop'"),
        ("{question}\\nAnswer", "{problem}\\nAnswer", "solve_answer must use exactly"),
        ("{id}. {text}", "{id}.", "step_line must use exactly"),
        ("{question}\\nAnswer", "{question}{most}\\nAnswer", "solve_answer must use exactly"),
        ("name:", "name: [", "not valid YAML"),
    ],
)
def test_mistakes_in_a_file_are_one_sentence(tmp_path: Path, root: Path, old: str, new: str, complaint: str) -> None:
    content = (root / "cleave/prompt_sets/reference-v1.yaml").read_text()
    assert old in content
    file = tmp_path / "own.yaml"
    file.write_text(content.replace(old, new))
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_prompts(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["reference-v9", "no/such/file.yaml", ""])
def test_unknown_sets(name: str) -> None:
    with pytest.raises(ConfigError):
        load_prompts(name)
