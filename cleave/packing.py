"""Examples into batches of tensors, padded or packed, such that no example ever sees another.

Padded: one example per row, zeros at the right. Attention is causal, so what follows an example cannot reach it and no mask is needed.
Packed: several examples, or several segments of one, per row, told apart by `position_ids` that restart at 0. Models of transformers
isolate them only without an attention mask and without a cache (`use_cache=False`), so a batch never holds a mask; pad tokens form an
example of their own.

A batch: `input_ids` [B, T] · `weights` [B, T], the loss weight of predicting the token at that place, 0 where nothing is learned ·
`position_ids` [B, T], where a row may hold more than one sequence · `teacher` [B, T], which of the run's teachers the token is compared
with, absent where it is the first for all · `numbers` [B, T], which of a step's examples the token belongs to, where somebody wants to know
it · `teacher_ids` [N, k] and `teacher_logprobs` [N, k + 1], what is stored of the teacher's
distributions at the places with a weight, row by row. B rows, T tokens of the longest row, N places with a weight.

Left out: which examples come next (curriculum/sampler.py), and the loss (objectives.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cleave.examples import Example, TopK

if TYPE_CHECKING:
    import torch

    Batch = dict[str, torch.Tensor]


def split_evenly(examples: Sequence[Example], parts: int) -> list[list[Example]]:
    """Sort by length and cut into `parts` runs of about equal numbers of tokens; none is empty if there are that many examples.

    Sorting keeps the padding of each part small; together the parts are still the whole step.
    """
    if len(examples) < parts:
        raise ValueError(f"{len(examples)} examples cannot make {parts} batches")
    ordered = sorted(examples, key=len)
    total = sum(map(len, ordered))
    runs: list[list[Example]] = [[] for _ in range(parts)]
    seen = part = 0
    for index, example in enumerate(ordered):
        must_move = len(ordered) - index <= parts - 1 - part
        if runs[part] and part < parts - 1 and (must_move or seen + len(example) / 2 > total * (part + 1) / parts):
            part += 1
        runs[part].append(example)
        seen += len(example)
    return runs


def fit_rows(examples: Sequence[Example], max_length: int) -> list[list[Example]]:
    """First fit, longest first: rows of at most `max_length` tokens. Raises ValueError for a longer example."""
    rows: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=len, reverse=True):
        if len(example) > max_length:
            raise ValueError(f"an example of {len(example)} tokens does not fit a row of {max_length}")
        place = next((k for k, free in enumerate(room) if free >= len(example)), None)
        if place is None:
            rows.append([])
            room.append(max_length)
            place = len(rows) - 1
        rows[place].append(example)
        room[place] -= len(example)
    return rows


def pad(examples: Sequence[Example], pad_id: int, numbers: Sequence[int] | None = None) -> Batch:
    """One example per row. `numbers` are the examples' own, None: nobody wants to know."""
    rows = [[example] for example in examples]
    return _tensors(rows, pad_id, positions=any(example.segments for example in examples)) | _numbers(rows, examples, numbers)


def pack(examples: Sequence[Example], pad_id: int, max_length: int, numbers: Sequence[int] | None = None) -> Batch:
    """Several examples per row of at most `max_length` tokens."""
    rows = fit_rows(examples, max_length)
    return _tensors(rows, pad_id, positions=True) | _numbers(rows, examples, numbers)


def _tensors(rows: Sequence[Sequence[Example]], pad_id: int, *, positions: bool) -> Batch:
    import torch

    longest = max(sum(map(len, row)) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    weights = torch.zeros(len(rows), longest)
    places = torch.zeros(len(rows), longest, dtype=torch.long)
    teachers = torch.zeros(len(rows), longest, dtype=torch.long)
    for r, row in enumerate(rows):
        start = 0
        for example in row:
            end = start + len(example)
            ids[r, start:end] = torch.tensor(example.input_ids)
            weights[r, start:end] = torch.tensor(example.loss_mask, dtype=torch.float32) * example.weight
            teachers[r, start:end] = example.teacher
            for length in example.segments or (len(example),):
                weights[r, start] = 0.0  # nothing of its own precedes the first token
                places[r, start : start + length] = torch.arange(length)
                start += length
        places[r, start:] = torch.arange(longest - start)
    batch = {"input_ids": ids, "weights": weights} | ({"position_ids": places} if positions else {})
    return batch | ({"teacher": teachers} if teachers.any() else {}) | _stored([example for row in rows for example in row])


def _numbers(rows: Sequence[Sequence[Example]], examples: Sequence[Example], numbers: Sequence[int] | None) -> Batch:
    """The number of each token's example, 0 for padding; nothing without numbers."""
    import torch

    if numbers is None:
        return {}
    left: dict[int, list[int]] = {}
    for example, number in zip(examples, numbers, strict=True):
        left.setdefault(id(example), []).append(number)  # one object may come several times in a step: any of its numbers will do
    known = torch.zeros(len(rows), max(sum(map(len, row)) for row in rows), dtype=torch.long)
    for r, row in enumerate(rows):
        start = 0
        for example in row:
            known[r, start : start + len(example)] = left[id(example)].pop()
            start += len(example)
    return {"numbers": known}


def _stored(examples: Sequence[Example]) -> Batch:
    """The stored distributions of the learned tokens, in order; nothing where no example has any. Raises ValueError where some have."""
    import numpy as np
    import torch

    kept = [example.teacher_topk for example in examples if example.teacher_topk is not None]
    if not kept:
        return {}
    if len(kept) < len(examples):
        raise ValueError(f"{len(examples) - len(kept)} of {len(examples)} examples of a batch lack the teacher's distributions")
    weighty = [topk for topk, example in zip(kept, examples, strict=True) if example.weight > 0] or [TopK(kept[0].k, b"", b"")]
    ids = np.concatenate([topk.tokens() for topk in weighty])
    logprobs = np.concatenate([topk.values() for topk in weighty])
    return {"teacher_ids": torch.from_numpy(ids.astype(np.int64)), "teacher_logprobs": torch.from_numpy(logprobs.astype(np.float32))}
