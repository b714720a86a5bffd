"""The generated tasks: gold answers follow from the gold steps, splits never overlap, dials do what they say, the profile is frozen."""

import random
import re
from dataclasses import replace
from itertools import islice

import pytest

from cleave.errors import ConfigError
from cleave.plans import parse_plan
from cleave.tasks.reference import names, reference_task
from cleave.tasks.reference.profile import profile_hash
from cleave.tasks.reference.world import RELATIONS, covered, world

FAMILIES = ("arithmetic", "lookup", "reading")
OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "x": lambda a, b: a * b, "/": lambda a, b: a / b}


def key(problem):
    """What makes two problems the same: for lookup the composition, else the text."""
    if problem.task == "lookup":
        return tuple(step.question for step in problem.gold_plan.steps)
    return problem.text


def test_profile_is_frozen():
    assert profile_hash("default-v1") == "d0bb12e5d23bbfb8", "default-v1 never changes: make a new profile instead"


@pytest.mark.parametrize("family", FAMILIES)
def test_stream_is_a_function_of_the_seed(family):
    task = reference_task(family)
    assert list(task.problems("train", 20, seed=3)) == list(reference_task(family).problems("train", 20, seed=3))
    assert list(task.problems("train", 20, seed=3)) != list(task.problems("train", 20, seed=4))
    assert list(islice(task.problems("test"), 30)) == list(task.problems("test", 30))


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_do_not_overlap(family):
    task = reference_task(family)
    seen = {split: {key(p) for seed in (0, 1) for p in task.problems(split, 1500, seed)} for split in task.splits}
    for a in seen:
        for b in seen:
            assert a == b or not seen[a] & seen[b]


@pytest.mark.parametrize("family", FAMILIES)
def test_gold_plan_and_steps_fit_together(family):
    for problem in reference_task(family).problems("validation", 300):
        assert parse_plan(problem.gold_plan.text) == problem.gold_plan
        assert [step.id for step in problem.gold_steps] == [step.id for step in problem.gold_plan.steps]
        assert problem.gold_steps[-1].answer == problem.answer
        assert all(step.text.endswith(f" = {step.answer}") for step in problem.gold_steps)


def test_arithmetic_is_right_and_in_range():
    for problem in reference_task("arithmetic").problems("train", 500):
        for step in problem.gold_steps:
            left, symbol, right, result = re.fullmatch(r"(\d+) ([-+x/]) (\d+) = (\d+)", step.text).groups()
            assert OPERATIONS[symbol](int(left), int(right)) == int(result) <= 999
        assert 1 <= problem.depth <= 4
        assert problem.gold_plan.depth == problem.depth


def test_arithmetic_needs_nothing_that_is_not_told():
    """Every number in the first column of a plan is stated in the question."""
    for problem in reference_task("arithmetic").problems("test", 300):
        stated = set(re.findall(r"\d+", problem.question))
        for step in problem.gold_plan.steps:
            assert set(re.findall(r"(?<![#\d])\d+", step.question)) <= stated


def test_extrapolation_is_depth_five():
    assert {p.depth for p in reference_task("arithmetic").problems("extrapolation", 50)} == {5}


@pytest.mark.parametrize("family", ["arithmetic", "reading"])
def test_test_names_are_never_trained_on(family):
    task = reference_task(family)
    held_out, train = set(names.HELD_OUT), set(names.TRAIN)
    assert not held_out & train
    assert len(train) >= 400
    assert len(held_out) >= 100
    for split, own, other in (("train", train, held_out), ("test", held_out, train)):
        words = {word for p in task.problems(split, 200) for word in re.findall(r"[A-Z][a-z]+", p.text)}
        assert words & own
        assert not words & other


def test_lookup_follows_the_world():
    known = world(0)
    assert len(known.facts) >= 1000
    assert all(len(relations) == 6 for relations in known.facts.values())
    for problem in reference_task("lookup").problems("test", 300):
        for step in problem.gold_steps:
            relation, subject, value = re.fullmatch(r"the (\w+) of (\w+) = (\w+)", step.text).groups()
            assert known.facts[subject][relation] == value
            assert known.kinds[value] == RELATIONS[known.kinds[subject]][relation]


def test_coverage_limits_training_facts_only():
    task = reference_task("lookup", coverage=0.5)

    def uncovered(split):
        texts = [step.text for p in task.problems(split, 300) for step in p.gold_steps]
        facts = [re.fullmatch(r"the (\w+) of (\w+) = \w+", text).groups() for text in texts]
        return sum(not covered(subject, relation, 0.5) for relation, subject in facts)

    assert uncovered("train") == 0
    assert uncovered("test") > 100


def test_reading_answers_from_the_sheet_alone():
    """An independent reader of the table gets the same answers."""
    checked = 0
    for problem in reference_task("reading", tables=1.0).problems("test", 400):
        header, *rows = [[cell.strip() for cell in line.split("|")] for line in problem.context.splitlines()]
        if match := re.fullmatch(r"How many people are on the (\w+) team\?", problem.question):
            want = str(sum(row[1] == match[1] for row in rows))
        elif match := re.fullmatch(r"How many (\w+) did the (\w+) team \w+ in all\?", problem.question):
            want = str(sum(int(row[header.index(match[1])]) for row in rows if row[1] == match[2]))
        elif match := re.fullmatch(r"Who \w+ the most (\w+)\?", problem.question):
            want = max(rows, key=lambda row: int(row[header.index(match[1])]))[0]
        elif match := re.fullmatch(r"How many people \w+ more than (\d+) (\w+)\?", problem.question):
            want = str(sum(int(row[header.index(match[2])]) > int(match[1]) for row in rows))
        else:
            continue
        assert problem.answer == want
        checked += 1
    assert checked > 150


def test_dynamic_noise_is_inherited_and_static_noise_is_not():
    clean = list(reference_task("arithmetic").problems("train", 200))
    for kind in ("static", "dynamic"):
        noisy = list(reference_task("arithmetic", noise=kind, noise_share=1.0, noise_intensity=0.5).problems("train", 200))
        assert [p.answer for p in noisy] == [p.answer for p in clean], "the gold answer stays true"
        inherited = changed = 0
        for before, after in zip(clean, noisy, strict=True):
            for old, new in zip(before.gold_steps, after.gold_steps, strict=True):
                changed += old.text != new.text
                inherited += old.text.rpartition(" = ")[0] != new.text.rpartition(" = ")[0]
        assert changed > 50
        assert (inherited > 0) == (kind == "dynamic")


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="dials are"):
        reference_task("arithmetic", depht=3)
    with pytest.raises(ConfigError, match="splits are"):
        next(reference_task("lookup").problems("dev"))
    with pytest.raises(ConfigError, match="profiles are"):
        reference_task("lookup", profile="v0")
    with pytest.raises(ConfigError, match="noise"):
        reference_task("lookup", noise="loud")


def test_sums_are_right_and_facts_are_the_worlds():
    for problem in reference_task("sums").problems("train", 100):
        assert problem.question == " , ".join(step.text.rpartition(" = ")[0] for step in problem.gold_steps)
        for step in problem.gold_steps:
            left, symbol, right, result = re.fullmatch(r"(\d+) ([-+x/]) (\d+) = (\d+)", step.text).groups()
            assert OPERATIONS[symbol](int(left), int(right)) == int(result) <= 999
    known = world(0).facts
    told = [
        re.fullmatch(r"the (\w+) of (\w+) = (\w+)", s.text).groups()
        for p in reference_task("facts").problems("train", 50)
        for s in p.gold_steps
    ]
    assert all(known[subject][relation] == value for relation, subject, value in told)
    few = [s.text for p in reference_task("facts", coverage=0.5).problems("train", 50) for s in p.gold_steps]
    pairs = [re.fullmatch(r"the (\w+) of (\w+) = \w+", text).groups() for text in few]
    assert all(covered(subject, relation, 0.5) for relation, subject in pairs)


def test_open_names_are_many_and_never_held_out() -> None:
    rng = random.Random(0)
    drawn = [name for _ in range(300) for name in names.open_names(rng, 12)]
    assert not set(drawn) & set(names.HELD_OUT)
    assert len(set(drawn)) > 2500
    problems = [problem.text for problem in reference_task("arithmetic", vocabulary="open").problems("train", 300)]
    assert not any(re.search(rf"\b({'|'.join(names.HELD_OUT)})\b", text) for text in problems)


def test_sheets_of_lists_choose_by_what_the_text_says() -> None:
    for problem in reference_task("lists").problems("train", 60):
        for step, asked in zip(problem.gold_steps, problem.question.split(" , "), strict=True):
            work, _, listed = step.text.partition(" = ")
            entries = [entry.split(" ", 1) for entry in work.split(", ")]
            if match := re.fullmatch(r"Who is on the (\w+) team\?", asked):
                chosen = [name for name, team in entries if team == match[1]]
            elif asked.startswith("Who"):
                chosen = [name for name, what in entries if int(what.split()[0]) > int(what.split()[2])]
            else:
                chosen = [number for _, number in entries]
            assert listed.split(", ") == chosen
            assert all(name in problem.context for name, _ in entries)


@pytest.mark.parametrize("name", ["lists", "records"])
def test_sheets_about_a_text_take_the_dials_of_reading(name: str) -> None:
    for problem in reference_task(name, tables=1.0, rows=[1, 2]).problems("train", 20):
        assert problem.context.startswith("name | team | ")
        assert 2 <= len(problem.context.splitlines()) <= 3
    assert next(reference_task(name).problems("train", 1)) == next(reference_task(name, rows=(3, 6)).problems("train", 1))
    with pytest.raises(ConfigError, match="unknown dial 'rows'"):
        reference_task("sums", rows=[1, 2])


@pytest.mark.parametrize("name", ["relations", "records"])
def test_sheets_about_a_text_say_what_the_text_says(name: str) -> None:
    for problem in reference_task(name).problems("train", 60):
        assert [step.text.split(" = ")[0] for step in problem.gold_steps] == problem.question.split(" , ")
        for step in problem.gold_steps:
            asked, _, what = step.text.partition(" = ")
            person = asked.rpartition(" of ")[2]
            known = re.split(r"\W+", problem.context)
            assert person in known
            words = {"2": {"twice", "half", "2"}, "3": {"third", "3"}, "4": {"quarter", "4"}}
            told = [word for word in what.split() if word not in "+-x/"]
            assert all(words.get(word, {word}) & set(known) or word in known for word in told), step.text


@pytest.mark.parametrize("tables", [0.0, 1.0])
def test_spelled_work_changes_nothing_but_the_work(tables):
    short, spelled = (list(reference_task("reading", work=work, tables=tables).problems("train", 200)) for work in ("short", "spelled"))
    for a, b in zip(short, spelled, strict=True):
        assert replace(a, gold_steps=()) == replace(b, gold_steps=())
        assert [step.answer for step in a.gold_steps] == [step.answer for step in b.gold_steps]
        assert all(step.text.endswith(f" = {step.answer}") for step in b.gold_steps)
    assert any(a != b for a, b in zip(short, spelled, strict=True))


def test_spelled_work_copies_rows_of_two_numbers_and_compares_teams():
    for problem in reference_task("lists", tables=1.0, work="spelled").problems("train", 100):
        head, *rows = [line.split(" | ") for line in problem.context.splitlines()]
        team = {name: side for name, side, *_ in rows}
        for asked, step in zip(problem.question.split(" , "), problem.gold_steps, strict=True):
            work = step.text.rpartition(" = ")[0].split(", ")
            if found := re.fullmatch(r"Who is on the (\w+) team\?", asked):
                assert work == [f"{name} {side}: {found[1]} {'yes' if side == found[1] else 'no'}" for name, side in team.items()]
            elif len(head) == 4:
                cells = [f"{name} {head[2]} {first} {head[3]} {second}:" for name, _, first, second in rows]
                assert all(part.startswith(cell) for part, cell in zip(work, cells, strict=True))


@pytest.mark.parametrize(("name", "work"), [("reading", "long"), ("arithmetic", "spelled"), ("sums", "spelled")])
def test_unknown_work_and_tasks_without_it_are_refused(name, work):
    with pytest.raises(ConfigError, match="work"):
        reference_task(name, work=work)


def test_columns_hold_what_they_are_asked_for():
    for problem in reference_task("columns").problems("train", 50):
        cells = dict(zip(*(line.split(" | ") for line in problem.context.splitlines()), strict=True))
        assert [cells[asked] for asked in problem.question.split(" , ")] == [step.answer for step in problem.gold_steps]
