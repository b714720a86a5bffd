"""Which of several solutions gives the answer, and how sure that is.

`first`: the first solution that has an answer. `majority` (Maj1@N): the answer that most solutions agree on in canonical form; ties
go to the higher summed solver probability, then to the canonical form that sorts first, never to who arrived first. A solution
without an answer does not vote. Left out: choosing by the verifier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cleave.config.reasoning import SelectionName
from cleave.tasks.scoring import normalise
from cleave.types import Solution, Verdict


@dataclass(frozen=True)
class Choice:
    """The chosen solution's index, its answer, and the confidence in [0, 1]; None: nothing to base one on."""

    index: int
    answer: str
    confidence: float | None


def select(name: SelectionName, solutions: Sequence[Solution], verdicts: Sequence[Verdict] = (), asked: int | None = None) -> Choice | None:
    """Choose among `solutions`; None when none has an answer.

    `asked` is the number of solutions that were wanted (None: as many as there are). If it is one, the confidence is the verdict's
    score. Else it is the share of those asked for that give the chosen answer: a solution that is missing or has no answer lowers it.
    """
    votes = canonical_answers(solutions)
    if not votes:
        return None
    index = _RULES[name](solutions, votes)
    answer = solutions[index].answer
    assert answer is not None
    return Choice(index, answer, _confidence(index, votes, asked or len(solutions), verdicts))


def canonical_answers(solutions: Sequence[Solution]) -> dict[int, str]:
    """The canonical answer of each solution that has one, by index, in order."""
    return {i: normalise(solution.answer) for i, solution in enumerate(solutions) if solution.answer is not None}


def _first(solutions: Sequence[Solution], votes: Mapping[int, str]) -> int:
    return min(votes)


def _majority(solutions: Sequence[Solution], votes: Mapping[int, str]) -> int:
    camps: dict[str, list[int]] = {}
    for index, form in votes.items():
        camps.setdefault(form, []).append(index)

    def rank(form: str) -> tuple[int, float, str]:
        return (-len(camps[form]), -math.fsum(_probability(solutions[i]) for i in camps[form]), form)

    winners = camps[min(camps, key=rank)]
    return min(winners, key=lambda i: (-_probability(solutions[i]), i))


def _probability(solution: Solution) -> float:
    """The solver's length-normalised probability; 0 where it is unknown."""
    return math.exp(min(solution.logprob, 0.0)) if solution.logprob is not None else 0.0


def _confidence(index: int, votes: Mapping[int, str], total: int, verdicts: Sequence[Verdict]) -> float | None:
    if total > 1:
        return sum(form == votes[index] for form in votes.values()) / total
    return min(max(verdicts[index].score, 0.0), 1.0) if verdicts else None


_RULES: Mapping[SelectionName, Callable[[Sequence[Solution], Mapping[int, str]], int]] = {"first": _first, "majority": _majority}
