"""`python -m bench.drafts`: gold replies are right, shares and costs add up, a case is measured once, and what it writes can be read."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.continuations import Continuations
from bench.draft_figures import quality_by_cost
from bench.draft_questions import Kind, questions
from bench.drafts import BEAM, DRAFTS, NUCLEUS, Way, at_equal_compute, coverage, main
from cleave.prompts import load_prompts
from cleave.tasks.registry import get_task

PROMPTS = load_prompts("reference-v1")


@pytest.mark.parametrize("task", ["arithmetic", "lookup", "reading"])
def test_gold_replies_are_right_and_others_are_not(task: str) -> None:
    kinds: tuple[Kind, ...] = ("plan", "step", "answer")
    asked = {kind: questions(kind, task, 6, PROMPTS) for kind in kinds}
    for place, problem in enumerate(get_task(task).problems("test", 6)):
        assert problem.gold_plan is not None
        assert problem.answer is not None
        step = problem.gold_steps[place % len(problem.gold_steps)]
        gold = {"plan": problem.gold_plan.text + "\n", "step": f" {step.text}", "answer": PROMPTS.solve_target((), problem.answer)}
        for kind in kinds:
            question = asked[kind][place]
            assert question.is_right(gold[kind]), (kind, gold[kind])
            assert not any(question.is_right(text) for text in ("", "nonsense", "1. Why?", "9. x = y", "The answer is: nobody"))
    assert all(question.stop == ("\n",) for question in asked["step"])
    assert asked["plan"][0].prompt.text == PROMPTS.decompose(next(iter(get_task(task).problems("test", 1)))).text


def way(method: str, hits: list[list[bool]], flops: float) -> Way:
    return Way(method, np.array(hits), flops, [Continuations(("x",) * len(row), flops) for row in hits])


def test_equal_compute_takes_as_many_samples_as_the_drafts_pay_for() -> None:
    drafts = way(DRAFTS, [[False, True], [True, False], [False, False], [True, True]], 1.2)
    samples = [way(NUCLEUS, [[True] * n, [False] * n, [False] * n, [True] * n], 1 + 0.1 * (n - 1)) for n in (1, 2, 3, 4)]
    dear = way(BEAM, [[True]] * 4, 9.0)
    found = at_equal_compute(drafts, [drafts, *samples, dear])
    assert (found[NUCLEUS]["k"], found[NUCLEUS]["precision"], found[NUCLEUS]["difference"]) == (3, 0.5, 0.25)
    assert found[NUCLEUS]["low"] <= 0.25 <= found[NUCLEUS]["high"]
    assert (found[BEAM]["k"], found[BEAM]["flops_ratio"]) == (1, 7.5), "where none is so cheap the cheapest one stands, with its cost"


def test_coverage_puts_drafts_in_the_place_of_one_sample() -> None:
    hits = [[True, True], [False, True], [False, False]]
    samples = [way(NUCLEUS, [row[:n] for row in hits], n) for n in (2, 1)]
    rows = coverage(samples, way(DRAFTS, [[False] * 3, [False] * 3, [False, False, True]], 1.0))
    assert [row["n"] for row in rows] == [1, 2]
    assert [row[NUCLEUS] for row in rows] == pytest.approx([1 / 3, 2 / 3])
    assert [row["with_drafts"] for row in rows] == pytest.approx([1 / 3, 2 / 3])
    assert rows[1]["difference"] == pytest.approx(0)


def test_one_command_measures_writes_and_does_not_repeat(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = f"hf:{tiny_model_dir}"
    names = [part for role in ("--solver", "--decomposer", "--student") for part in (role, model)]
    arguments = ["--problems", "2", "--tasks", "arithmetic", "--kinds", "answer", "--ks", "2", "--samples", "2", *names]
    arguments += ["--ngram-problems", "3", "--to", str(tmp_path / "out"), "--json"]
    main(arguments)
    first = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "drafts.json").read_text()) == first
    [case] = first["cases"]
    greedy = [way for way in case["ways"] if way["k"] == 1 and way["method"] in (DRAFTS, BEAM)]
    assert [way["flops_over_greedy"] for way in greedy] == pytest.approx([1.0, 1.0], rel=0.2)
    assert {(way["method"], way["k"]) for way in case["ways"]} >= {(DRAFTS, 3), ("drafts with n-grams", 2), (BEAM, 2), (NUCLEUS, 2)}
    for each in case["ways"]:
        assert each["precision_at"] == sorted(each["precision_at"])
        assert all(low <= share <= high for share, (low, high) in zip(each["precision_at"], each["intervals"], strict=True))
        best, ranks = each["perplexity"]["best"], each["perplexity"]["by_rank"]
        assert best["mean"] <= min(rank["mean"] for rank in ranks if rank["n"] == best["n"]) + 1e-9
    assert quality_by_cost(first["cases"]) == (tmp_path / "out" / "drafts.svg").read_text()
    [place] = (tmp_path / "out" / "cases").iterdir()
    place.write_text(json.dumps(json.loads(place.read_text()) | {"greedy_flops": -1.0}))
    main(arguments)
    assert json.loads(capsys.readouterr().out)["cases"][0]["greedy_flops"] == -1.0, "a case that is there is not measured again"
    main([*arguments, "--temperature", "0.5"])
    assert json.loads(capsys.readouterr().out)["cases"][0]["greedy_flops"] == case["greedy_flops"], "other options are"
