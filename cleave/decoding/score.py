"""Log-probabilities of given continuations: one teacher-forced pass per batch, no sampling."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from cleave.decoding.batch import Batch
from cleave.decoding.sample import SamplingCancelled


@torch.inference_mode()
def score_batch(
    model: PreTrainedModel, pairs: Sequence[tuple[Sequence[int], int]], max_batch_size: int, cancelled: Callable[[], bool] = lambda: False
) -> list[list[float]]:
    """Return, per pair (token ids, border), the log-probabilities of ids[border:], each given all ids before it.

    The first id of a text has no predecessor and no log-probability: a border of 0 gives one value fewer than there are ids.
    """
    scores: list[list[float]] = [[] for _ in pairs]
    scorable = [i for i, (ids, border) in enumerate(pairs) if len(ids) > max(1, border)]
    order = sorted(scorable, key=lambda i: len(pairs[i][0]))
    for start in range(0, len(order), max_batch_size):
        if cancelled():
            raise SamplingCancelled
        part = order[start : start + max_batch_size]
        counts = [len(pairs[i][0]) - max(1, pairs[i][1]) for i in part]
        logits = Batch(model, [pairs[i][0] for i in part], room=0, keep=max(counts) + 1).all_logits  # (B, keep, V)
        logprobs = logits[:, :-1].log_softmax(-1)
        for row, (i, count) in enumerate(zip(part, counts, strict=True)):
            targets = torch.tensor(pairs[i][0][-count:], device=logits.device)
            scores[i] = logprobs[row, -count:].gather(-1, targets[:, None]).squeeze(-1).tolist()
    return scores
