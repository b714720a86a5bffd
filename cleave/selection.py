"""Which of several solutions gives the answer, and how sure that is: pure functions on scored answers (rules of arXiv 2310.10047).

    first           the first solution that has an answer
    majority        Maj1@N: the answer that most solutions agree on
    rr_all          the solution that the verifier scores best
    rr_topk         the same among the K most frequent answers
    weighted        the answer whose solutions' scores sum to most
    weighted_topk   the same among the K most frequent answers
    maj_topn        the answer that most of the N best-scored solutions agree on

Answers that mean the same are one cluster. Ties are decided by what was said, never by who said it first: after a rule's own measure
come the number of votes, the summed solver probability, and the answer that sorts first. A solution without an answer does not vote;
one that the verifier failed on votes as if scored 0. Left out: what scores mean (calibration.py), when to stop sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cleave.calibration import VoteCalibration
from cleave.config.reasoning import SelectionName
from cleave.tasks.latex import equivalent, is_latex
from cleave.tasks.scoring import normalise
from cleave.types import Solution, Verdict


@dataclass(frozen=True, slots=True)
class Candidate:
    """A solution that has an answer: its place, the answer's canonical form, the verifier's score (0: none) and the solver's
    length-normalised probability (0: unknown)."""

    index: int
    form: str
    score: float = 0.0
    likelihood: float = 0.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Candidates with the same answer. `form` is the one of its canonical forms that sorts first."""

    form: str
    members: tuple[Candidate, ...]

    @property
    def weight(self) -> float:
        """The scores' sum."""
        return math.fsum(member.score for member in self.members)

    @property
    def best(self) -> Candidate:
        """The member that the verifier scores best; of equal ones the likelier, then the earlier."""
        return min(self.members, key=lambda member: (-member.score, -member.likelihood, member.index))

    @property
    def rank(self) -> tuple[int, float, str]:
        """More votes first, then more summed probability, then the form that sorts first."""
        return -len(self.members), -math.fsum(member.likelihood for member in self.members), self.form


@dataclass(frozen=True)
class Choice:
    """The chosen solution's index, its answer, and the confidence in [0, 1]; None: nothing to base one on."""

    index: int
    answer: str
    confidence: float | None


@dataclass(frozen=True)
class Options:
    """`top_k`: clusters that rr_topk and weighted_topk look at; `top_n`: solutions that vote in maj_topn."""

    top_k: int = 8
    top_n: int = 8


DEFAULT_OPTIONS = Options()


def select(
    name: SelectionName,
    solutions: Sequence[Solution],
    verdicts: Sequence[Verdict | None] = (),
    asked: int | None = None,
    options: Options = DEFAULT_OPTIONS,
    votes: VoteCalibration | None = None,
) -> Choice | None:
    """Choose among `solutions`; None when none has an answer.

    `asked` is the number of solutions that were wanted (None: as many as there are). If it is one, the confidence is the verdict's
    score. Else it is what `votes` makes of the chosen answer's support, or, without them, the share of the solutions asked for that give
    it. A solution that is missing or has no answer lowers both.
    """
    found = clusters(candidates(solutions, verdicts))
    if not found:
        return None
    chosen = choose(name, found, options)
    answer = solutions[chosen.index].answer
    assert answer is not None
    return Choice(chosen.index, answer, _confidence(chosen, found, asked or len(solutions), verdicts, votes))


def candidates(solutions: Sequence[Solution], verdicts: Sequence[Verdict | None] = ()) -> list[Candidate]:
    """Those solutions that have an answer, in order. Raises ValueError where verdicts are neither none nor one per solution."""
    if verdicts and len(verdicts) != len(solutions):
        raise ValueError(f"{len(verdicts)} verdicts for {len(solutions)} solutions")
    scores = [_score(verdict) for verdict in verdicts] or [0.0] * len(solutions)
    return [
        Candidate(i, normalise(solution.answer), scores[i], _probability(solution))
        for i, solution in enumerate(solutions)
        if solution.answer is not None
    ]


def clusters(found: Iterable[Candidate], same: Callable[[str, str], bool] | None = None) -> list[Cluster]:
    """Candidates by what their answers mean, the most frequent first.

    `same` says whether two canonical forms mean the same; None: equal forms do, and LaTeX that math-verify finds equal. It need not be
    transitive: whatever a chain of equal answers connects is one cluster, whatever the order in which answers are compared.
    """
    by_form: dict[str, list[Candidate]] = {}
    for candidate in found:
        by_form.setdefault(candidate.form, []).append(candidate)
    if same is None and any(map(is_latex, by_form)):
        same = equivalent
    groups = [[form] for form in by_form] if same is None else _connected(sorted(by_form), same)
    made = [Cluster(forms[0], tuple(sorted((m for form in forms for m in by_form[form]), key=lambda m: m.index))) for forms in groups]
    return sorted(made, key=lambda cluster: cluster.rank)


def choose(name: SelectionName, ranked: Sequence[Cluster], options: Options = DEFAULT_OPTIONS) -> Candidate:
    """The candidate that a rule takes out of clusters in the order of `clusters`, of which there is at least one."""
    return _RULES[name](ranked, options)


def pass_at_n(ranked: Sequence[Cluster], right: Callable[[str], bool]) -> bool:
    """The oracle over all solutions: whether any of them has a right answer."""
    return any(right(cluster.form) for cluster in ranked)


def maj_k_at_n(ranked: Sequence[Cluster], right: Callable[[str], bool], k: int) -> bool:
    """The oracle over the k most frequent answers: whether any of them is right."""
    return pass_at_n(ranked[:k], right)


def _first(ranked: Sequence[Cluster], options: Options) -> Candidate:
    return min((member for cluster in ranked for member in cluster.members), key=lambda member: member.index)


def _majority(ranked: Sequence[Cluster], options: Options) -> Candidate:
    return min(ranked[0].members, key=lambda member: (-member.likelihood, member.index))


def _best_scored(ranked: Sequence[Cluster], options: Options) -> Candidate:
    return min(ranked, key=lambda cluster: (-cluster.best.score, *cluster.rank)).best


def _heaviest(ranked: Sequence[Cluster], options: Options) -> Candidate:
    return min(ranked, key=lambda cluster: (-cluster.weight, *cluster.rank)).best


def _majority_of_best(ranked: Sequence[Cluster], options: Options) -> Candidate:
    everybody = [(member, cluster) for cluster in ranked for member in cluster.members]
    order = sorted(everybody, key=lambda pair: (-pair[0].score, -pair[0].likelihood, pair[1].form, pair[0].index))
    votes: dict[str, list[Candidate]] = {}
    for member, cluster in order[: options.top_n]:
        votes.setdefault(cluster.form, []).append(member)
    voted = [Cluster(form, tuple(members)) for form, members in votes.items()]
    return min(voted, key=lambda cluster: (-len(cluster.members), -cluster.weight, *cluster.rank[1:])).best


def _within_top_k(rule: Callable[[Sequence[Cluster], Options], Candidate]) -> Callable[[Sequence[Cluster], Options], Candidate]:
    return lambda ranked, options: rule(ranked[: options.top_k], options)


_RULES: Mapping[SelectionName, Callable[[Sequence[Cluster], Options], Candidate]] = {
    "first": _first,
    "majority": _majority,
    "rr_all": _best_scored,
    "rr_topk": _within_top_k(_best_scored),
    "weighted": _heaviest,
    "weighted_topk": _within_top_k(_heaviest),
    "maj_topn": _majority_of_best,
}


def _connected(forms: Sequence[str], same: Callable[[str, str], bool]) -> list[list[str]]:
    """The forms in groups that `same` connects, each group sorted."""
    groups: list[list[str]] = []
    for form in forms:
        touched = [group for group in groups if any(same(other, form) for other in group)]
        groups = [group for group in groups if group not in touched]
        groups.append(sorted([form, *(other for group in touched for other in group)]))
    return groups


def _probability(solution: Solution) -> float:
    """The solver's length-normalised probability; 0 where it is unknown or no number."""
    if solution.logprob is None or math.isnan(solution.logprob):
        return 0.0
    return math.exp(min(solution.logprob, 0.0))


def _score(verdict: Verdict | None) -> float:
    return 0.0 if verdict is None or math.isnan(verdict.score) else min(max(verdict.score, 0.0), 1.0)


def agreement(solutions: Sequence[Solution], index: int, asked: int) -> float:
    """The share of the solutions asked for that give the same answer as the one at `index`, which has one."""
    found = clusters(candidates(solutions))
    return next(len(cluster.members) / asked for cluster in found if any(member.index == index for member in cluster.members))


def support(cluster: Cluster, asked: int) -> float:
    """The scores of an answer's solutions over the number of solutions asked for."""
    return cluster.weight / asked


def _confidence(
    chosen: Candidate, ranked: Sequence[Cluster], total: int, verdicts: Sequence[Verdict | None], votes: VoteCalibration | None
) -> float | None:
    if total > 1:
        cluster = next(cluster for cluster in ranked if chosen in cluster.members)
        return votes(support(cluster, total), total) if votes is not None and verdicts else len(cluster.members) / total
    return _score(verdicts[chosen.index]) if verdicts and verdicts[chosen.index] is not None else None
