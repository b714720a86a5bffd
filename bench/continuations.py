"""Several continuations of a prompt from one model, in three ways: superposed drafts, nucleus samples, beams. What each costs, in FLOPs.

    writer = Writer("reference:solver", tables)
    drafts = await writer.drafts(questions, Drafting(k=3), smooth=True)
    beams = writer.beams(questions, 3, max_tokens=48)

Greedy is one draft without n-grams. Costs count a prompt once, whatever the way; a beam or a sample then costs its own tokens, k drafts
those of one reply. Left out: what is asked (draft_questions.py) and what is made of it (drafts.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from bench.draft_questions import Question
from cleave.decoding.draft import Draft, Drafting
from cleave.decoding.ngrams import NgramTables
from cleave.decoding.stopping import cut, text_of
from cleave.lm.flops import forward_cost
from cleave.lm.huggingface import HuggingFaceModel
from cleave.lm.tokens import encode, prompt_text
from cleave.superposition_bench import load
from cleave.types import Completion, Sampling, Usage

ROWS = 64
"""Most sequences that are decoded at the same time."""


@dataclass(frozen=True)
class Continuations:
    """The continuations of one prompt, best first (samples: as drawn), and what they cost."""

    texts: tuple[str, ...]
    flops: float

    def first(self, n: int) -> tuple[str, ...]:
        return self.texts[:n]


class Writer:
    """A local model, once with and once without n-grams."""

    def __init__(self, name: str, tables: NgramTables | None = None) -> None:
        """Raises ConfigError for a model that is not local."""
        self.name = name
        self.checkpoint = load(name)
        self._plain = HuggingFaceModel(self.checkpoint, name=name, max_batch_size=ROWS)
        self._smooth = HuggingFaceModel(self.checkpoint, name=name, max_batch_size=ROWS, ngrams=tables)

    async def drafts(self, questions: Sequence[Question], drafting: Drafting, *, smooth: bool) -> list[Continuations]:
        """Up to k superposed drafts each."""
        model, drafting = self._smooth if smooth else self._plain, replace(drafting, stop=questions[0].stop)
        return [_continuations(drafts) for drafts in await model.drafts([question.prompt for question in questions], drafting)]

    async def nucleus(self, questions: Sequence[Question], sampling: Sampling) -> list[list[Continuations]]:
        """`sampling.n` samples each; entry i of a question holds, and costs, its first i + 1."""
        sampling = replace(sampling, stop=questions[0].stop)
        drawn = await self._plain.generate([question.prompt for question in questions], sampling)
        return [[_continuations(replies[: i + 1]) for i in range(sampling.n)] for replies in drawn]

    @torch.inference_mode()
    def beams(self, questions: Sequence[Question], k: int, max_tokens: int) -> list[Continuations]:
        """transformers' beam search of k beams, all of them."""
        tokenizer, stop = self.checkpoint.tokenizer, questions[0].stop
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.checkpoint.eos_ids)
        prompts = [encode(tokenizer, question.prompt, prompt_text(tokenizer, question.prompt)) for question in questions]
        found: dict[int, Continuations] = {}
        for places in _by_length(prompts, max(1, ROWS // k)):
            ids, mask = _padded([prompts[place] for place in places])
            model, ends = cast(Any, self.checkpoint.model), {"stop_strings": list(stop), "tokenizer": tokenizer} if stop else {}
            replies = model.generate(
                ids, attention_mask=mask, num_beams=k, num_return_sequences=k, do_sample=False, max_new_tokens=max_tokens,
                eos_token_id=sorted(self.checkpoint.eos_ids), pad_token_id=pad, **ends,
            )[:, ids.shape[1] :]  # fmt: skip
            for place, beams in zip(places, replies.reshape(len(places), k, -1).tolist(), strict=True):
                found[place] = self._beamed(len(prompts[place]), [self._to_the_end(beam, pad) for beam in beams], stop)
        return [found[place] for place in range(len(questions))]

    async def perplexities(self, questions: Sequence[Question], texts: Sequence[str]) -> list[float]:
        """exp of the mean negative log-probability per token of one text after each prompt; nan for a text without tokens."""
        scored = await self._plain.score([question.prompt for question in questions], texts)
        means = [reply.mean_logprob for reply in scored]
        return [float("nan") if mean is None else float(torch.tensor(-mean).exp()) for mean in means]

    async def aclose(self) -> None:
        await self._plain.aclose()
        await self._smooth.aclose()

    def _beamed(self, prompt: int, beams: Sequence[Sequence[int]], stop: Sequence[str]) -> Continuations:
        """All beams cost what the longest does: the search went on until it was found."""
        texts = [text_of(self.checkpoint.tokenizer, beam) for beam in beams]
        whole = [before if (before := cut(text, stop)) is not None else text for text in texts]
        cost, longest = forward_cost(self.checkpoint.model), max(map(len, beams))
        return Continuations(tuple(whole), cost.of(prompt) + len(beams) * cost.of(longest, context=prompt))

    def _to_the_end(self, beam: Sequence[int], pad: int) -> list[int]:
        """The tokens up to an end token; after a stop string up to the padding."""
        ends = [place for place, token in enumerate(beam) if token in self.checkpoint.eos_ids]
        tokens = list(beam[: ends[0] + 1] if ends else beam)
        while tokens and not ends and tokens[-1] == pad:
            tokens.pop()
        return tokens


def _continuations(replies: Sequence[Draft] | Sequence[Completion]) -> Continuations:
    return Continuations(tuple(reply.text for reply in replies), sum((reply.usage for reply in replies), Usage()).flops)


def _by_length(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    places = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    yield from (places[start : start + size] for start in range(0, len(places), size))


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, prompts))
    rows = [([0] * (longest - len(prompt)) + list(prompt), [0] * (longest - len(prompt)) + [1] * len(prompt)) for prompt in prompts]
    return torch.tensor([ids for ids, _ in rows]), torch.tensor([mask for _, mask in rows])
