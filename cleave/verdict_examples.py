"""Examples that a verifier learns from: a problem with a solution, and the word that says whether it is right.

Only the first token in which the two words differ is learned, and only it is read when a solution is judged: whatever a tokenizer makes
of the words, s = log p(right) - log p(wrong) is then of one place. A pair, which a margin loss compares, is one example of two segments,
the right solution first, so that sorting, packing and sharding cannot part it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cleave.errors import ConfigError
from cleave.examples import Encoder, Example
from cleave.prompts import PromptSet
from cleave.types import Plan, Problem, Solution


@dataclass(frozen=True)
class JudgedSolution:
    """A solution of a problem, the plan that it followed, and whether its answer is right."""

    solution: Solution
    plan: Plan | None
    right: bool


@dataclass(frozen=True)
class VerdictTokens:
    """The two words as tokens: what they share at first, and where they differ."""

    shared: tuple[int, ...]
    right: int
    wrong: int

    @classmethod
    def of(cls, tokenizer: Any, prompts: PromptSet) -> VerdictTokens:
        """Raises ConfigError for prompts without verdicts, and for words of which one begins with the tokens of the other."""
        prompts.require_verdicts()
        right, wrong = (list(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in prompts.verdicts)
        place = next((i for i, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b), None)
        if place is None:
            raise ConfigError(f"the tokenizer cannot tell the verdicts of {prompts.name} apart; use prompts with other words.")
        return cls(tuple(right[:place]), right[place], wrong[place])


class VerdictEncoder:
    """Units of one or two judged solutions of a problem in, examples out; those longer than `max_length` tokens are dropped."""

    def __init__(self, tokenizer: Any, prompts: PromptSet, max_length: int) -> None:
        self._encoder = Encoder(tokenizer, max_length)
        self._prompts = prompts
        self.tokens = VerdictTokens.of(tokenizer, prompts)

    def __call__(self, units: Sequence[tuple[Problem, Sequence[JudgedSolution]]]) -> list[Example]:
        asked = [self._prompts.verify(problem, each.solution.text, each.plan) for problem, unit in units for each in unit]
        ids = iter(self._encoder.prompt_ids(asked))
        examples = [self._join(problem, [(next(ids), each.right) for each in unit]) for problem, unit in units]
        return [example for example in examples if len(example) <= self._encoder.max_length]

    def _join(self, problem: Problem, parts: Sequence[tuple[Sequence[int], bool]]) -> Example:
        tokens = self.tokens
        sequences = [(*ids, *tokens.shared, tokens.right if right else tokens.wrong) for ids, right in parts]
        return Example(
            input_ids=tuple(token for sequence in sequences for token in sequence),
            loss_mask=tuple(i == len(sequence) - 1 for sequence in sequences for i in range(len(sequence))),
            problem_id=problem.id,
            skill=problem.skills[0] if problem.skills else "",
            depth=problem.depth,
            group=problem.id if len(parts) > 1 else "",
            label=None if len(parts) > 1 else float(parts[0][1]),
            segments=tuple(map(len, sequences)) if len(parts) > 1 else (),
        )
