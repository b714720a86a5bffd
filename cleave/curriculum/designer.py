"""Orders of skills ranked by design, before anything is trained: the Curriculum Designer (arXiv 2211.15470).

The score of an order c_1 … c_n, higher is better, from the distances between skills (distances.py):

    (1 - v[c_1]) + Σ_{t=1..T} {(1 - D[c_t, c_{n+1-t}]) + D[c_t, c_{t+1}]},    T the smallest t with 1 + 2t ≥ n

D: distances, each row divided by its sum; v: the variances of D's rows, divided by their sum. In words: begin with the skill that is
about as far from all others, go on to the farthest each time, and end with the skills that are nearest to the first ones.

    orders, scores = ranking(distances)     # up to 7 skills, best first
    order = beam_order(distances)           # any number of skills

Left out: whether a good score means good training. The authors' released logs do not show it, so measure it on your skills (measures.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import numpy.typing as npt

from cleave.errors import ConfigError, DataError

MOST_RANKED = 7
"""Skills of which every order is scored: 5,040 orders; one skill more has eight times as many."""

Orders = npt.NDArray[np.intp]
Scores = npt.NDArray[np.float64]
Distances = npt.NDArray[np.float64]


def designer_scores(distances: npt.ArrayLike, orders: npt.ArrayLike) -> Scores:
    """Scores [m] of orders [m, n], rows of places in `distances` [n, n], which need not be normalised.

    Raises DataError for distances that tell nothing, ConfigError for an order that repeats or misses a skill.
    """
    near, spread = normalised(distances)
    chosen = _checked(orders, len(near))
    n = len(near)
    scores = 1.0 - spread[chosen[:, 0]]
    for t in range(_rounds(n)):
        here = chosen[:, t]
        scores += (1.0 - near[here, chosen[:, n - 1 - t]]) + near[here, chosen[:, t + 1]]
    return scores


def normalised(distances: npt.ArrayLike) -> tuple[Distances, Distances]:
    """D and v of the score. Raises DataError for fewer than two skills, for distances that are not finite, negative or not zero from a
    skill to itself, and for a skill that is at the same point as all others."""
    table = np.asarray(distances, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise DataError(f"distances are a square table, found the shape {table.shape}; give one row and one column per skill.")
    if len(table) < 2:
        raise DataError("one skill has no order; split it, or name two tasks or more.")
    if not np.isfinite(table).all() or (table < 0).any() or table.diagonal().any():
        raise DataError("distances are finite, not negative, and 0 from a skill to itself; check how they were measured.")
    sums = table.sum(1, keepdims=True)
    if not sums.all():
        raise DataError("some skill has no distance to any other; leave it out, or measure the distances with another model or layer.")
    near = table / sums
    spread = near.var(1)
    return near, spread / spread.sum()


def every_order(n: int) -> Orders:
    """All orders [n!, n] of n skills. Raises ConfigError for more than can be scored one by one."""
    if n > MOST_RANKED:
        raise ConfigError(f"{n} skills have too many orders to rank them all; design one (`cleave curriculum design`), or merge skills.")
    return np.array(list(permutations(range(n))), dtype=np.intp)


def ranking(distances: npt.ArrayLike) -> tuple[Orders, Scores]:
    """Every order with its score, best first. Raises like `every_order` and `designer_scores`."""
    orders = every_order(len(np.asarray(distances)))
    scores = designer_scores(distances, orders)
    best_first = np.argsort(-scores, kind="stable")
    return orders[best_first], scores[best_first]


def greedy_order(distances: npt.ArrayLike) -> tuple[int, ...]:
    """The paper's own design: from one of the two skills with the lowest variance, fill the back with the nearest unused skill and the
    front with the farthest, in turns. Of the two orders the one with the better score."""
    near, spread = normalised(distances)
    starts = np.argsort(spread, kind="stable")[:2]
    orders = [_greedy_from(near, int(start)) for start in starts]
    return orders[int(np.argmax(designer_scores(distances, orders)))]


def beam_order(distances: npt.ArrayLike, width: int = 64) -> tuple[int, ...]:
    """The best order that a beam search finds: the same choices as in `greedy_order`, with the `width` best beginnings kept each time.

    A beam as wide as there are beginnings finds the best order of all.
    """
    near, spread = normalised(distances)
    n = len(near)
    beam: list[tuple[float, tuple[int, ...], tuple[int, ...]]] = [(1.0 - float(spread[c]), (c,), ()) for c in range(n)]
    for _ in range(_rounds(n)):
        grown = [each for score, front, back in beam for each in _grown(near, score, front, back)]
        beam = heapq.nlargest(width, grown, key=lambda each: each[0])
    _, front, back = beam[0]
    return (*front, *back)


def _grown(
    near: Distances, score: float, front: tuple[int, ...], back: tuple[int, ...]
) -> list[tuple[float, tuple[int, ...], tuple[int, ...]]]:
    """All ways to add a skill in front and one at the back; the last skill of an even number is both at once, and adds 1 whichever."""
    used, here = {*front, *back}, front[-1]
    unused = [c for c in range(len(near)) if c not in used]
    if len(unused) == 1:
        return [(score + 1.0, (*front, unused[0]), back)]
    row = near[here].tolist()
    return [
        (score + (1.0 - row[last]) + row[following], (*front, following), (last, *back))
        for following in unused
        for last in unused
        if last != following
    ]


def _greedy_from(near: Distances, start: int) -> tuple[int, ...]:
    front, back = [start], list[int]()
    unused = set(range(len(near))) - {start}
    while unused:
        row = near[front[-1]]
        if len(unused) > 1:
            back.insert(0, min(unused, key=lambda c: (row[c], c)))
            unused.remove(back[0])
        front.append(max(unused, key=lambda c: (row[c], -c)))
        unused.remove(front[-1])
    return (*front, *back)


def _rounds(n: int) -> int:
    """T of the score: how often a skill is added in front and one at the back."""
    return n // 2


def _checked(orders: npt.ArrayLike, n: int) -> Orders:
    try:
        chosen = np.asarray(orders, dtype=np.intp)
    except ValueError as error:
        raise ConfigError(f"orders have different lengths; each names all {n} skills once.") from error
    if chosen.ndim != 2 or chosen.shape[1] != n:
        raise ConfigError(f"an order names all {n} skills once; orders of the shape {chosen.shape} do not.")
    wrong = (np.sort(chosen, axis=1) != np.arange(n)).any(1)
    if wrong.any():
        first: Sequence[int] = chosen[int(wrong.argmax())].tolist()
        raise ConfigError(f"the order {first} repeats or misses a skill; name each of the {n} skills once.")
    return chosen
