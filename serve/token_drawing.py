"""Drawing tokens from a local model for serve/token_model.py: from token ids as they are, and heard while they are drawn.

The replies, and what they cost, are those of HuggingFaceModel.generate, whose sampler and thread are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cleave.decoding.sample import Row
from cleave.decoding.stopping import TextStream
from cleave.lm.huggingface import HuggingFaceModel
from cleave.lm.thinking import ThinkingFilter, strip_thinking
from cleave.types import Completion, Sampling, Usage
from serve.model_calls import Piece

OnPiece = Callable[[Piece], None]


async def draw(
    model: HuggingFaceModel,
    ids: Sequence[Sequence[int]],
    seeds: Sequence[int | None],
    sampling: Sampling,
    on_piece: OnPiece | None = None,
    hide_thinking: bool = False,
) -> list[list[Completion]]:
    """HuggingFaceModel.generate on token ids, heard while it draws: the same replies. Piece i belongs to sample i % n of prompt i // n."""
    listener = _Listener(model, sampling, on_piece, hide_thinking) if on_piece is not None else None

    def work(cancelled: Callable[[], bool]) -> list[list[Completion]]:
        start = time.perf_counter()
        drawn = model._sampler.sample(ids, seeds, sampling, on_token=listener, cancelled=cancelled)
        distinct = {id(row): row for rows in drawn for row in rows}
        seconds = (time.perf_counter() - start) / max(1, sum(map(len, ids)) + sum(len(row.tokens) for row in distinct.values()))
        return [
            [_completion(model, len(prompt), rows, i, seconds, hide_thinking) for i in range(len(rows))]
            for prompt, rows in zip(ids, drawn, strict=True)
        ]

    return await model._run(work)


class _Listener:
    """Turns growing rows into pieces. Called in the model's thread."""

    def __init__(self, model: HuggingFaceModel, sampling: Sampling, on_piece: OnPiece, hide_thinking: bool) -> None:
        self._model, self._stop, self._hide_thinking = model, sampling.stop, hide_thinking
        self._n = sampling.n
        self._on_piece = on_piece
        self._streams: dict[int, tuple[TextStream, ThinkingFilter | None]] = {}

    def __call__(self, row: Row) -> None:
        index = row.prompt * self._n + row.sample
        if index not in self._streams:
            self._streams[index] = TextStream(self._model.tokenizer, self._stop), ThinkingFilter() if self._hide_thinking else None
        text, thinking = self._streams[index]
        piece = text.push(row.tokens)
        if piece and thinking is not None:
            piece = thinking.push(piece)
        if piece:
            self._on_piece(Piece(index, piece))


def _completion(model: HuggingFaceModel, prompt: int, rows: Sequence[Row], i: int, seconds: float, hide_thinking: bool) -> Completion:
    """Sample i of a prompt of that many tokens. Greedy repeats are the same row and cost nothing."""
    row = rows[i]
    usage = Usage() if rows.index(row) < i else model._usage(prompt, len(row.tokens), seconds, further=i > 0)
    text = strip_thinking(row.text)[0] if hide_thinking else row.text
    return Completion(text, tuple(row.tokens), tuple(row.logprobs), tuple(row.top_logprobs), row.finish or "length", usage)
