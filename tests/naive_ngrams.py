"""n-grams counted by dictionaries of tuples, one by one: what tables and drafts are compared with."""

from collections import Counter
from collections.abc import Sequence


class Naive:
    """How often each n-gram occurs, and each context with something after it."""

    def __init__(self, texts: Sequence[Sequence[int]], max_order: int = 6) -> None:
        self.grams: Counter[tuple[int, ...]] = Counter()
        self.contexts: Counter[tuple[int, ...]] = Counter()
        for text in texts:
            for order in range(2, max_order + 1):
                for start in range(len(text) - order + 1):
                    gram = tuple(text[start : start + order])
                    self.grams[gram] += 1
                    self.contexts[gram[:-1]] += 1

    def probability(self, text: Sequence[int], following: int, order: int) -> float:
        context = tuple(text[len(text) - order + 1 :])
        if len(context) < order - 1 or not self.contexts[context]:
            return 0.0
        return self.grams[(*context, following)] / self.contexts[context]

    def mixed(self, text: Sequence[int], following: int, weights: Sequence[float]) -> float:
        return sum(weight * self.probability(text, following, order) for order, weight in enumerate(weights, start=2))
