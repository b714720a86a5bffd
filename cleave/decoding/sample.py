"""The sampler: token prompts in, drawn replies out, over any causal language model of transformers.

    sampler = Sampler(model, tokenizer, eos_ids={2}, max_len=2048, max_batch_size=64)
    replies = sampler.sample([[1, 5, 9]], seeds=[0], sampling=Sampling(n=8, temperature=0.7))

Sequences are decoded in static left-padded batches of prompts of similar length; a prompt is prefilled once for its samples, and what
prompts of a batch begin with in common, such as a few-shot preamble, once for all; rows that finish are retired and the batch is compacted.
Sample i of a prompt depends on (prompt, seed, i, options) only, up to float rounding.
Left out: beam search, penalties and other logit processors of a checkpoint's generation config (only its end tokens are used).
"""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cleave.decoding.batch import Batch
from cleave.decoding.beginnings import common_beginnings
from cleave.decoding.cache import attends_to_all
from cleave.decoding.logits import draw
from cleave.decoding.noise import U64, as_keys, row_key, uniforms
from cleave.decoding.stopping import StopStrings, cut, text_of
from cleave.errors import ConfigError, GenerationError
from cleave.types import Finish, Sampling

COMPACT_AT = 0.25  # share of finished rows at which the batch is compacted
MOST_PADDING = 4096
"""Tokens of padding in a batch, over all rows, above which short and long prompts go apart."""
SHARED_COST = 0.8
"""Tokens read, padding included, where beginnings are shared, over those where they are not: at most this, or nothing is shared."""


class SamplingCancelled(Exception):
    """The caller's `cancelled` turned true; what was drawn is discarded."""


@dataclass(eq=False)
class Row:
    """One sequence being drawn. `tokens` include the end token, or the tokens of the stop string, that finished it."""

    prompt: int
    sample: int
    key: int
    limit: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None


OnToken = Callable[[Row], None]


class Sampler:
    """Draws replies. Not thread-safe: one call at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eos_ids: AbstractSet[int],
        max_len: int,
        max_batch_size: int = 64,
        compact_at: float = COMPACT_AT,
        most_padding: int = MOST_PADDING,
        share_beginnings: bool = True,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.eos_ids = frozenset(eos_ids)
        self.max_len = max_len
        self.max_batch_size = max_batch_size
        self.compact_at = compact_at
        self.most_padding = most_padding
        self.share_beginnings = share_beginnings and attends_to_all(model)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int | None],
        sampling: Sampling,
        *,
        on_token: OnToken | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[list[Row]]:
        """Return `sampling.n` finished rows per prompt, in order; greedy rows of one prompt are the same object.

        `on_token` sees each row after each of its tokens. Raises ConfigError for an empty or too long prompt, before any work,
        GenerationError if the model's output is not a number, SamplingCancelled.
        """
        for prompt in prompts:
            check_length(prompt, self.max_len)
        copies = 1 if sampling.is_greedy else sampling.n
        rows = [
            Row(p, i, row_key(seeds[p], i), limit=min(sampling.max_tokens, self.max_len - len(prompt)))
            for p, prompt in enumerate(prompts)
            for i in range(copies)
        ]
        stops = StopStrings(self.tokenizer, sampling.stop)
        for wave in waves(rows, prompts, self.max_batch_size, self.most_padding):
            self._decode(wave, prompts, sampling, stops, on_token, cancelled)
        for row in rows:
            self._close(row, stops)
        repeats = sampling.n // copies
        return [rows[p * copies : (p + 1) * copies] * repeats for p in range(len(prompts))]

    @torch.inference_mode()
    def _decode(
        self,
        rows: list[Row],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        stops: StopStrings,
        on_token: OnToken | None,
        cancelled: Callable[[], bool],
    ) -> None:
        batch = self._prefill(rows, prompts)
        keys = None if sampling.is_greedy else as_keys([row.key for row in rows])
        for position in range(max(row.limit for row in rows)):
            if cancelled():
                raise SamplingCancelled
            tokens = self._draw(batch, rows, sampling, keys, position)
            for row in rows:
                if row.finish is None:
                    row.finish = self._finish(row, stops)
                    if on_token:
                        on_token(row)
            live = [index for index, row in enumerate(rows) if row.finish is None]
            if not live:
                return
            if len(rows) - len(live) >= self.compact_at * len(rows):
                rows = [rows[index] for index in live]
                batch.select(live)
                tokens = tokens[torch.tensor(live, device=tokens.device)]
                keys = keys[live] if keys is not None else None
            batch.step(tokens)

    def _prefill(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> Batch:
        """Run each distinct prompt once, what they begin with in common once for all, then give every row its copy."""
        places: dict[tuple[int, ...], int] = {}
        origin = [places.setdefault(tuple(prompts[row.prompt]), len(places)) for row in rows]
        batch = self._read(list(places), room=max(row.limit for row in rows))
        if origin != list(range(len(places))):
            batch.select(origin)
        return batch

    def _read(self, texts: Sequence[tuple[int, ...]], room: int) -> Batch:
        """A batch of distinct texts, in one pass or, where that is worth it, in two: over their beginnings, then over what follows."""
        cuts = beginnings(texts) if self.share_beginnings else None
        if cuts is None:
            return Batch(self.model, texts, room)
        heads = [text[:cut] for text, cut in zip(texts, cuts, strict=True)]
        rests = [text[cut:] for text, cut in zip(texts, cuts, strict=True)]
        distinct = {head: place for place, head in enumerate(dict.fromkeys(heads))}
        batch = Batch(self.model, list(distinct), room + max(map(len, rests)))
        batch.select([distinct[head] for head in heads])
        batch.extend(rests)
        return batch

    def _draw(self, batch: Batch, rows: Sequence[Row], sampling: Sampling, keys: U64 | None, position: int) -> torch.Tensor:
        """Draw one token per row and note it, with its log-probability, in the rows that are not finished."""
        logits = batch.logits
        noise = None if keys is None else torch.from_numpy(uniforms(keys, position)).to(logits.device)
        tokens = draw(logits, sampling, noise)
        total = logits.logsumexp(-1)
        logprobs = logits.gather(-1, tokens[:, None]).squeeze(-1) - total
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            if row.finish is None:
                if logprob != logprob:
                    raise GenerationError("the model's output is not a number; load it with dtype float32.")
                row.tokens.append(token)
                row.logprobs.append(logprob)
        if sampling.logprobs:
            best = logits.topk(min(sampling.logprobs, logits.shape[-1]), dim=-1)
            values = (best.values - total[:, None]).tolist()
            for row, ids, logs in zip(rows, best.indices.tolist(), values, strict=True):
                if row.finish is None:
                    row.top_logprobs.append(tuple(zip(ids, logs, strict=True)))
        return tokens

    def _finish(self, row: Row, stops: StopStrings) -> Finish | None:
        if row.tokens[-1] in self.eos_ids or stops.check(row.tokens) is not None:
            return "stop"
        return "length" if len(row.tokens) >= row.limit else None

    def _close(self, row: Row, stops: StopStrings) -> None:
        text = text_of(self.tokenizer, row.tokens)
        before = cut(text, stops.stops)
        row.text = text if before is None else before
        row.finish = row.finish if before is None else "stop"


def check_length(prompt: Sequence[int], max_len: int) -> None:
    """Raise ConfigError for an empty prompt, and for one that leaves no room for a reply."""
    if not prompt:
        raise ConfigError("the prompt is empty; give at least one token.")
    if len(prompt) >= max_len:
        raise ConfigError(
            f"the prompt has {len(prompt)} tokens and the model's limit is {max_len} for prompt and reply; "
            "shorten the question or raise max_model_len if the checkpoint allows it."
        )


def beginnings(texts: Sequence[tuple[int, ...]]) -> list[int] | None:
    """Where to cut each of some distinct texts so that the first parts, of which many are the same, are read apart; None where that would
    save too little. At least one token of each text is left. Of a text that shares nothing all else comes before the cut."""
    shared = common_beginnings(texts, [len(text) - 1 for text in texts])
    cuts = [cut or len(text) - 1 for text, cut in zip(texts, shared, strict=True)]
    if not any(shared) or not all(cuts):
        return None
    heads = {text[:cut] for text, cut in zip(texts, cuts, strict=True)}
    rest = max(len(text) - cut for text, cut in zip(texts, cuts, strict=True))
    cost = len(heads) * max(cuts) + len(texts) * rest
    return cuts if cost <= SHARED_COST * len(texts) * max(map(len, texts)) else None


def waves(rows: Sequence[Row], prompts: Sequence[Sequence[int]], size: int, most_padding: int = MOST_PADDING) -> Iterator[list[Row]]:
    """Group rows into batches of at most `size` with at most `most_padding`, by prompt length; a prompt's rows share one where they fit."""
    by_prompt: dict[int, list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt, []).append(row)
    wave: list[Row] = []
    for prompt in sorted(by_prompt, key=lambda p: (len(prompts[p]), tuple(prompts[p]))):
        group = iter(by_prompt[prompt])
        while part := list(islice(group, size)):
            if wave and (len(wave) + len(part) > size or _padding(wave, prompts, len(prompts[prompt])) > most_padding):
                yield wave
                wave = []
            wave.extend(part)
    if wave:
        yield wave


def _padding(wave: Sequence[Row], prompts: Sequence[Sequence[int]], length: int) -> int:
    """Tokens of padding that a batch has at this common length."""
    return sum(length - len(prompts[row.prompt]) for row in wave)
