"""The reference tasks as streams of problems: any length, flat memory, splits that cannot overlap.

Which split a problem may appear in is decided by a hash of its content (arithmetic and reading: the text; lookup: entity and path), so two
splits never share a problem whatever the seeds. Test and extrapolation also use names that no training problem has. Problem i of a split
is a function of (seed, split, i) alone.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import count, islice
from typing import Any, get_args

from cleave.errors import ConfigError
from cleave.tasks.reference import arithmetic, lookup, names, reading
from cleave.tasks.reference.arithmetic import Draft
from cleave.tasks.reference.drill import DRILLS, DrillTask
from cleave.tasks.reference.node import Noise, answered
from cleave.tasks.reference.profile import Profile, get_profile
from cleave.tasks.reference.sheet import Work
from cleave.tasks.reference.world import share_of
from cleave.tasks.scoring import equal, lenient
from cleave.types import Plan, Problem, SolutionStep, Step

FAMILIES = {
    "arithmetic": "generated word problems over a dependency graph of quantities (after GSM8K)",
    "lookup": "generated multi-hop questions over a fixed world that must be known (after Bamboogle)",
    "reading": "generated passages and tables to count, compare and sum over (after DROP)",
}
# Share of all possible problems that belongs to each split: [from, to).
BUCKETS = {"test": (0.0, 0.3), "validation": (0.3, 0.4), "train": (0.4, 1.0), "extrapolation": (0.0, 0.3)}
HELD_OUT_SPLITS = ("test", "extrapolation")
DEPTH_DIALS = {"arithmetic": "depths", "lookup": "hops"}
"""The dial that decides how deep a family's problems are."""
OF_A_TEXT = ("records", "lists")
"""The sheets that are about a passage or table, and take the dials of reading."""
MOST_PEOPLE = 40
"""Names at hand for one problem, where they are drawn for each."""
REFERENCE = re.compile(r"#(\d+)")


class ReferenceTask:
    """One family under one profile, with dials changed where asked. Follows the Task protocol."""

    def __init__(
        self,
        family: str,
        profile: Profile,
        dials: Mapping[str, Any] | None = None,
        noise: Noise | None = None,
        vocabulary: str | None = None,
        work: Work = "short",
    ) -> None:
        self.name = family
        self.description = FAMILIES[family]
        self.profile = profile
        self.noise = noise or Noise()
        self.dials = _changed(getattr(profile, family), dials or {})
        if vocabulary not in (None, "train", "held_out", "open"):
            raise ConfigError(f"vocabulary {vocabulary!r} is not known; use train, held_out or open.")
        self._vocabulary = vocabulary
        self._work = work

    @property
    def splits(self) -> dict[str, int | None]:
        """Split names; None: as many problems as asked for."""
        known = ("train", "validation", "test") + (("extrapolation",) if self.name == "arithmetic" else ())
        return dict.fromkeys(known)

    def problems(self, split: str, limit: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """Stream the problems of a split; endless without a limit. Raises ConfigError for an unknown split."""
        self._check_split(split)
        return islice((self._problem(split, seed, index) for index in count()), limit)

    def score(self, problem: Problem, answer: str | None) -> bool:
        """Strict final-answer rule."""
        return answer is not None and problem.answer is not None and equal(problem.answer, answer)

    def lenient(self, problem: Problem, text: str) -> bool:
        """The any-token rule of the papers' authors, for a comparison column."""
        return problem.answer is not None and lenient(problem.answer, text)

    def noisy_steps(
        self, split: str, n: int, limit: int | None = None, seed: int = 0
    ) -> Iterator[tuple[Problem, list[tuple[SolutionStep, ...]]]]:
        """The same problems with their true steps, each with `n` draws of the steps that somebody writes who errs as `noise` says."""
        self._check_split(split)
        for index in islice(count(), limit):
            draft, rng = self._drawn(split, seed, index)
            problem = _problem(_identity(self.name, split, seed, index), self.name, draft, Noise(), rng)
            yield problem, [answered(draft.nodes, self.noise, rng) for _ in range(n)]

    def of_depth(self, depth: int) -> "ReferenceTask | None":
        """The same task with problems of one depth only; None for a family without such a dial."""
        if (dial := DEPTH_DIALS.get(self.name)) is None:
            return None
        return ReferenceTask(self.name, self.profile, {**vars(self.dials), dial: (depth,)}, self.noise, self._vocabulary, self._work)

    def _check_split(self, split: str) -> None:
        if split not in self.splits:
            raise ConfigError(f"{self.name} has no split {split!r}; the splits are {', '.join(self.splits)}.")

    def _problem(self, split: str, seed: int, index: int) -> Problem:
        draft, rng = self._drawn(split, seed, index)
        return _problem(_identity(self.name, split, seed, index), self.name, draft, self.noise, rng)

    def _drawn(self, split: str, seed: int, index: int) -> tuple[Draft, random.Random]:
        """Problem `index` of a split, and the generator, which noise goes on to draw from."""
        rng = random.Random(f"{self.profile.name}/{self.name}/{split}/{seed}/{index}")
        low, high = BUCKETS[split]
        while True:
            draft = self._draft(rng, split)
            if low <= share_of(draft.key) < high:
                return draft, rng

    def _names(self, rng: random.Random, split: str) -> Sequence[str]:
        if self._vocabulary == "open":
            return names.open_names(rng, MOST_PEOPLE)
        held_out = self._vocabulary == "held_out" or (self._vocabulary is None and split in HELD_OUT_SPLITS)
        return names.HELD_OUT if held_out else names.TRAIN

    def _draft(self, rng: random.Random, split: str) -> Draft:
        vocabulary = self._names(rng, split)
        if self.name == "arithmetic":
            dials = replace(self.dials, depths=(self.profile.extrapolation_depth,)) if split == "extrapolation" else self.dials
            return arithmetic.draft(rng, dials, vocabulary)
        if self.name == "lookup":
            return lookup.draft(rng, self.dials, self.dials.coverage if split == "train" else 1.0)
        return reading.draft(rng, self.dials, vocabulary, self._work)


def reference_task(name: str, profile: str = "default-v1", **dials: Any) -> ReferenceTask | DrillTask:
    """Build a reference task.

    Besides the family's dials: noise, noise_share, noise_intensity (arXiv 2402.04004), vocabulary; for reading and its sheets, work.
    """
    work = _work(name, dials.pop("work", "short"))
    if name in DRILLS:
        return _drill(name, get_profile(profile), dials, work)
    if name not in FAMILIES:
        raise ConfigError(f"no reference task {name!r}; there are {', '.join([*FAMILIES, *DRILLS])}.")
    noise = Noise(dials.pop("noise", "none"), dials.pop("noise_share", 0.0), dials.pop("noise_intensity", 0.25))
    if noise.kind not in ("none", "static", "dynamic"):
        raise ConfigError(f"noise {noise.kind!r} is not known; use none, static or dynamic.")
    vocabulary = dials.pop("vocabulary", None)
    return ReferenceTask(name, get_profile(profile), dials, noise, vocabulary, work)


def _work(name: str, work: str) -> Work:
    if work not in get_args(Work):
        raise ConfigError(f"work {work!r} is not known; use {' or '.join(get_args(Work))}.")
    if work != "short" and name not in ("reading", *OF_A_TEXT):
        raise ConfigError(f"{name} has no dial `work`; it is for reading, {' and '.join(OF_A_TEXT)}.")
    return work  # type: ignore[return-value]


def _drill(name: str, profile: Profile, dials: Mapping[str, Any], work: Work) -> DrillTask:
    """Sheets about a text take the dials of reading as well."""
    text = {field.name for field in fields(profile.reading)} if name in OF_A_TEXT else set()
    _check_dials(dials, {"lines", "coverage"} | text)
    told = _changed(profile.reading, {dial: value for dial, value in dials.items() if dial in text})
    return DrillTask(name, replace(profile, reading=told), work=work, **{dial: value for dial, value in dials.items() if dial not in text})


def _check_dials(given: Mapping[str, Any], known: set[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown dial {name!r}; the dials are {', '.join(sorted(known))}.")


def _changed(dials: Any, changes: Mapping[str, Any]) -> Any:
    _check_dials(changes, {field.name for field in fields(dials)})
    return replace(dials, **{name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()})


def _identity(family: str, split: str, seed: int, index: int) -> str:
    return f"{family}-{split}-{seed}-{index}"


def _problem(identity: str, family: str, draft: Draft, noise: Noise, rng: random.Random) -> Problem:
    truth = answered(draft.nodes, Noise(), rng)
    steps = answered(draft.nodes, noise, rng) if noise.kind != "none" else truth
    return Problem(
        id=identity,
        question=draft.question,
        context=draft.context,
        answer=truth[-1].answer,
        task=family,
        skills=draft.skills,
        depth=draft.depth,
        gold_plan=Plan(tuple(_step(index, node.question) for index, node in enumerate(draft.nodes, start=1))),
        gold_steps=steps,
    )


def _step(index: int, question: str) -> Step:
    needs = tuple(sorted({int(j) for j in REFERENCE.findall(question)}))
    return Step(index, question, needs)
