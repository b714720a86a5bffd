"""The report: self-contained, safe against what models write, the same whatever the order of traces."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cleave.config.base import dump, validate
from cleave.config.evaluate import EvaluateConfig
from cleave.errors import ConfigError
from cleave.evaluation import Evaluation
from cleave.figures import accuracy_by_depth, accuracy_by_task, tokens_by_role
from cleave.reasons import meanings
from cleave.report import Samples, main, read_config, write_results
from cleave.runs import CONFIG, RunFolder
from cleave.sample_tree import sample_tree
from cleave.traces import ScoredTrace, merge, write_shard
from cleave.types import Failure, Plan, Problem, Solution, SolutionStep, Step, Trace, Usage, Verdict

EVIL = "<script>alert('x')</script><img src=https://example.com/x>&{{ 7*7 }}"
GOLD = Plan((Step(1, "How many cats?"), Step(2, "Twice #1?", (1,)), Step(3, "Sum of #1 and #2?", (1, 2))))
OTHER = Plan((Step(1, "Any dogs?"), Step(2, "How many cats?"), Step(3, "Twice #2?", (2,)), Step(4, "Sum of #2 and #3?", (2, 3))))


def make(index: int, variant: str = "static", answers: tuple[str, ...] = ("0", "3", "6", "9"), text: str = "fine") -> ScoredTrace:
    gold = tuple(SolutionStep(i, f"gold {i}", answer) for i, answer in enumerate(("3", "6", "9"), start=1))
    problem = Problem(
        f"p{index}", f"question {text}?", answer="9", task="pets", skills=("add",), depth=1 + index % 3, gold_plan=GOLD, gold_steps=gold
    )
    steps = tuple(SolutionStep(i, f"{text} = {answer}", answer) for i, answer in enumerate(answers, start=1))
    right = answers[-1] == "9"
    error = Failure("ParseError", f"cannot read {text}; ask again.", "solver") if index % 5 == 4 else None
    trace = Trace(
        problem,
        "static",
        plans=(OTHER,),
        solutions=(Solution(steps, answers[-1], text),),
        answer=None if error else answers[-1],
        chosen=None if error else 0,
        confidence=0.5,
        usage={"decomposer": Usage(1, 20, 9, 0.1), "solver": Usage(1, 30, 12, 0.2, 1e9, 0.001)},
        error=error,
    )
    return ScoredTrace(variant, "pets", index, trace, right and not error, right)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    config = validate(
        EvaluateConfig,
        {
            "name": "demo",
            "tasks": [{"task": "arithmetic", "label": "pets"}],
            "variants": {"static": None, "x$_{1}$<b>": {"strategy": "single"}},
        },
        "test",
    )
    found = RunFolder.open(str(tmp_path), "demo")
    found.write_text(CONFIG, dump(config))
    rows = [make(i, variant, text=EVIL if i % 2 else "fine") for i in range(12) for variant in config.strategies()]
    write_shard(found, "000", rows)
    merge(found)
    return found


class Page(HTMLParser):
    """Collects tags and every attribute that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if (name in ("src", "href", "xlink:href", "action", "data") and not (value or "").startswith("#")) or name.startswith("on"):
                self.loads.append(f"{tag} {name}={value}")


def test_page_needs_nothing_and_runs_nothing(folder: RunFolder) -> None:
    write_results(folder)
    text = folder.read_text("report.html")
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.loads == []
    assert page.tags.count("svg") == 5
    assert "&lt;script&gt;alert" in text
    assert "{{ 7*7 }}" in text
    assert not re.search(r"url\((?!#)", text)


def test_page_shows_figures_failures_samples_and_config(folder: RunFolder) -> None:
    evaluation = write_results(folder).evaluation
    text = folder.read_text("report.html")
    right = evaluation.tally("static").accuracy()
    assert f"{100 * right.value:.1f}" in text
    assert f"{100 * right.low:.1f}" in text
    assert "ParseError" in text
    assert text.count('<details class="sample"') == 20
    assert "max_in_flight: 128" in text


def test_samples_are_chosen_among_by_every_rule(folder: RunFolder) -> None:
    config = read_config(folder)
    many = config.model_copy(update={"variants": {"four": {"strategy": "single", "n": 4, "temperature": 1.0}}})
    rows = []
    for i in range(12):
        row = make(i, "four", text="fine")
        answers, scores = ("9", "8", "8", "9"), (0.9, 0.2, 0.3, 0.1)
        solutions = tuple(Solution(answer=answer, text=answer) for answer in answers)
        rows.append(replace(row, trace=replace(row.trace, solutions=solutions, verdicts=tuple(map(Verdict, scores)))))
    other = RunFolder.open(str(Path(folder.location).parent), "samples")
    other.write_text(CONFIG, dump(many))
    write_shard(other, "000", rows)
    merge(other)
    results = write_results(other)
    assert results.selections.interval("four", "rr_all", 4).value == 1
    assert results.selections.interval("four", "majority", 2).value == 0, "a tie goes to the form that sorts first"
    text = other.read_text("report.html")
    assert "Selection rules on the same samples" in text
    assert Page(text).tags.count("svg") == 6
    assert sum(json.loads(line)["kind"] == "selection" for line in other.read_text("metrics.jsonl").splitlines()) == 2 * 3 * 9


def run_of(folder: RunFolder, rows: list[ScoredTrace]) -> RunFolder:
    """Another run of the same config."""
    other = RunFolder.open(str(Path(folder.location).parent), "other")
    other.write_text(CONFIG, folder.read_text(CONFIG))
    write_shard(other, "000", rows)
    merge(other)
    return other


def test_withheld_answers_are_judged_by_the_task(folder: RunFolder) -> None:
    rows = [make(i, answers=("0", "3", "6", "9" if i < 3 else "8")) for i in range(4)]
    abstained = Failure("Abstained", "the confidence of the best answer is 0.50, below abstain_below=0.8; lower it to see it.")
    withheld = [replace(row, trace=replace(row.trace, answer=None, error=abstained), correct=False) for row in rows]
    results = write_results(run_of(folder, withheld))
    assert results.evaluation.tally("static").abstained == 4
    counts = results.confidence["static"]
    assert (counts.n, counts.right) == (4, 3)
    kinds = [
        json.loads(line)["kind"] for line in RunFolder.at(f"{Path(folder.location).parent}/other").read_text("metrics.jsonl").splitlines()
    ]
    assert (kinds.count("confidence"), kinds.count("reliability"), kinds.count("abstention")) == (1, 1, 4)


def test_page_says_how_far_confidences_can_be_believed_where_there_are_any(folder: RunFolder) -> None:
    write_results(folder)
    text = folder.read_text("report.html")
    assert "How far confidences can be believed" in text
    assert "Choose it on a validation split" in text
    rows = [replace(row, trace=replace(row.trace, confidence=None)) for row in map(make, range(4))]
    silent = run_of(folder, rows)
    write_results(silent)
    assert "onfidences can be believed" not in silent.read_text("report.html")


def test_report_can_be_drawn_again_and_is_the_same(folder: RunFolder) -> None:
    write_results(folder)
    first = folder.read_text("report.html")
    folder.remove(["report.html"])
    assert main(folder.location) == 0
    assert folder.read_text("report.html") == first


def test_report_of_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    RunFolder.open(str(tmp_path), "empty").prepare()
    with pytest.raises(ConfigError, match="holds no finished evaluation"):
        main(tmp_path / "empty")


def test_empty_evaluation_can_be_drawn() -> None:
    evaluation = Evaluation(["static"])
    assert accuracy_by_task(evaluation).startswith("<svg")
    assert accuracy_by_depth(evaluation) == ""
    assert tokens_by_role(evaluation).startswith("<svg")


def test_samples_do_not_depend_on_order_and_hold_both_outcomes() -> None:
    rows = [make(i, answers=("0", "3", "6", "9" if i % 4 else "8")) for i in range(80)]
    forth, back = Samples(["static"]), Samples(["static"])
    for row in rows:
        forth.add(row)
    for row in reversed(rows):
        back.add(row)
    assert [row.index for row in forth.rows()] == [row.index for row in back.rows()]
    assert [row.outcome == "right" for row in forth.rows()] == [False] * 10 + [True] * 10


def test_tree_marks_steps_by_what_they_ask_not_by_number() -> None:
    tree = sample_tree(make(0, answers=("0", "3", "7", "10")))
    (root, dogs) = tree.nodes
    assert (root.id, root.mark, root.gold) == (4, "wrong", "9")
    assert [(child.id, child.mark) for child in root.children] == [(2, "right"), (3, "wrong")]
    again = root.children[1].children[0]
    assert (again.id, again.again, again.children) == (2, True, ())
    assert (dogs.id, dogs.mark) == (1, "")


def test_tree_of_a_hostile_plan_is_small() -> None:
    wide = Plan(tuple(Step(k, " ".join(f"#{j}" for j in range(1, k)) or "?", tuple(range(1, k))) for k in range(1, 41)))
    row = make(0)
    hostile = ScoredTrace(
        "static", "pets", 0, Trace(row.trace.problem, "static", plans=(wide,), solutions=row.trace.solutions), False, False
    )

    def size(nodes: tuple[object, ...]) -> int:
        return sum(1 + size(node.children) for node in nodes)  # type: ignore[attr-defined]

    assert size(sample_tree(hostile).nodes) <= 40 * 41
    assert len(set(meanings(wide).values())) == 40


def test_trace_without_solutions_has_a_page_too() -> None:
    row = ScoredTrace("static", "pets", 0, Trace(Problem("p", "?"), "static", error=Failure("RoleUnavailable", "gone; restart it.")))
    tree = sample_tree(row)
    assert (tree.nodes, tree.mark) == ((), "")
