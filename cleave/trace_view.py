"""A Trace drawn for people in a terminal: the plan as a tree with each sub-answer, the answer, the confidence, the cost.

What a model wrote is shown as plain text: no markup is read from it and control characters are replaced.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from cleave.plans import substitute
from cleave.selection import agreement
from cleave.types import Plan, Solution, SolutionStep, Step, Trace

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree


def print_trace(trace: Trace, console: Console) -> None:
    """Draw `trace` on `console`."""
    from rich.text import Text

    console.print(reasoning_tree(trace))
    console.print()
    if trace.answer is not None:
        console.print(Text(f"Answer: {printable(trace.answer)}", style="bold"))
        console.print(Text(f"Confidence: {confidence_sentence(trace)}"))
        console.print()
    _print_cost(trace, console)


def reasoning_tree(trace: Trace) -> Tree:
    """The problem at the root; below it the step that answers it, below each step those that it needs."""
    from rich.text import Text
    from rich.tree import Tree

    solution = shown_solution(trace)
    steps = {step.id: step for step in solution.steps} if solution is not None else {}
    sure = step_scores(trace)
    tree = Tree(Text(printable(trace.problem.text), style="bold"))
    plan = shown_plan(trace)
    if plan is not None and plan.steps:
        _add_plan(tree, plan, steps, sure)
    else:
        for step in steps.values():
            tree.add(Text(printable(f"{step.id}. {step.text}{_surely(sure, step.id)}")))
    return tree


def step_scores(trace: Trace) -> dict[int, float]:
    """What the verifier said of the shown solution's steps, by their ids; empty where it was not asked."""
    solution, place = shown_solution(trace), trace.chosen or 0
    verdict = trace.verdicts[place] if place < len(trace.verdicts) else None
    if solution is None or verdict is None or len(verdict.step_scores) != len(solution.steps):
        return {}
    return {step.id: score for step, score in zip(solution.steps, verdict.step_scores, strict=True)}


def shown_solution(trace: Trace) -> Solution | None:
    """The chosen solution, else the first one."""
    if trace.chosen is not None:
        return trace.solutions[trace.chosen]
    return trace.solutions[0] if trace.solutions else None


def shown_plan(trace: Trace) -> Plan | None:
    """The plan of the shown solution."""
    return trace.plan_of(trace.chosen or 0)


def confidence_sentence(trace: Trace) -> str:
    """The number with where it comes from."""
    if trace.confidence is None:
        return "unknown"
    verifier = trace.models.get("verifier")
    samples = len(trace.stage_of(trace.chosen or 0))
    judged = bool(trace.verdicts) and (samples == 1 or not _is_a_share(trace))
    source = (verifier.name if verifier else "the verifier") if judged else f"share of {samples} solutions that agree"
    return f"{trace.confidence:.2f} ({source})"


def _is_a_share(trace: Trace) -> bool:
    """Whether the confidence is votes over samples: votes over it are then a whole number, that of the samples asked for. A probability
    that a verifier made of the votes is no such number."""
    if trace.chosen is None or not trace.confidence:
        return False
    stage = trace.stage_of(trace.chosen)
    asked = agreement([trace.solutions[i] for i in stage], trace.chosen - stage.start, 1) / trace.confidence
    return abs(asked - round(asked)) < 1e-9


def printable(text: str) -> str:
    """Replace what could steer a terminal: control and formatting characters other than newline and tab."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t" else c for c in text)


def _surely(scores: dict[int, float], step: int) -> str:
    return f"  [right so far: {scores[step]:.2f}]" if step in scores else ""


def _add_plan(tree: Tree, plan: Plan, answered: dict[int, SolutionStep], sure: dict[int, float]) -> None:
    by_id = {step.id: step for step in plan.steps}
    needed = {j for step in plan.steps for j in step.needs}
    answers = {i: step.answer for i, step in answered.items()}
    shown: set[int] = set()

    def add(branch: Tree, step: Step) -> None:
        if step.id in shown:
            branch.add(_text(f"{step.id}. (see above)"))
            return
        shown.add(step.id)
        reply = f" → {answered[step.id].text}{_surely(sure, step.id)}" if step.id in answered else ""
        below = branch.add(_text(f"{step.id}. {substitute(step.question, answers)}{reply}"))
        for j in step.needs:
            add(below, by_id[j])

    for step in plan.steps:
        if step.id not in needed:
            add(tree, step)


def _text(text: str) -> Text:
    from rich.text import Text

    return Text(printable(text))


def _print_cost(trace: Trace, console: Console) -> None:
    from rich import box
    from rich.table import Table

    priced = any(usage.price for usage in trace.usage.values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("role")
    table.add_column("model", overflow="fold")
    for name in ("calls", "prompt tokens", "generated tokens", "seconds", *(["price"] if priced else [])):
        table.add_column(name, justify="right")
    total = trace.total_usage
    for role, usage in [*trace.usage.items(), ("total", total)]:
        model = trace.models[role].name if role in trace.models else ""
        seconds = trace.timings.get("total", usage.seconds) if role == "total" else usage.seconds
        cells = [role, printable(model), str(usage.calls), str(usage.prompt_tokens), str(usage.completion_tokens), f"{seconds:.2f}"]
        table.add_row(*cells, *([f"{usage.price:.6f}"] if priced else []))
    console.print(table)
