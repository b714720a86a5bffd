"""From a raw score to a probability, and how far such probabilities can be believed.

A calibration is fitted on held-out (score, right) pairs by maximum likelihood: p = σ(s / T + b). With b = 0 it is temperature scaling
(arXiv 1706.04599), with b Platt's: a score trained by comparing two solutions has no zero point of its own. `ece`, `brier`, `reliability`
and `risk_coverage` measure any probabilities; `threshold_for` finds from where on answers are right often enough to be given.

    calibration = Calibration.fit(scores, right)
    calibration(2.3)                       # → 0.91
    ece([calibration(s) for s in others], others_right)

Of several samples the support of an answer is the sum of its solutions' probabilities over the number of samples; VoteCalibration makes
that a probability too, since it depends on how many samples there are and on how much they repeat each other.

Left out: whose scores (actors/judge.py), and what is done below a threshold (reasoning.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleave.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FILE = "calibration.json"
"""In a verifier's checkpoint folder."""
_STEPS = 200
_CERTAIN = 1e-4
_RIDGE = 1e-3
"""Keeps a fit finite where scores separate right from wrong without error."""


@dataclass(frozen=True)
class Calibration:
    """p = σ(raw / temperature + bias). `n` solutions were fitted on, 0: none, scores are taken as they are."""

    temperature: float = 1.0
    bias: float = 0.0
    n: int = 0

    def __call__(self, raw: float) -> float:
        """The probability of being right. Raises ValueError for what is no number."""
        if math.isnan(raw):
            raise ValueError("a score that is not a number has no probability")
        return _sigmoid(raw / self.temperature + self.bias)

    @classmethod
    def fit(cls, raw: Sequence[float], right: Sequence[bool], *, bias: bool = True) -> Calibration:
        """By maximum likelihood (Newton's method). Raises DataError without both right and wrong ones, or with scores not finite."""
        import numpy as np

        scores, labels = np.asarray(raw, float), np.asarray(right, float)
        if not (0 < labels.sum() < len(labels)):
            raise DataError(f"{len(labels)} solutions, {int(labels.sum())} of them right, cannot calibrate a verifier; use both kinds.")
        if not np.isfinite(scores).all():
            raise DataError("a verifier's score is not finite, so it cannot be calibrated; train it again with a lower learning rate.")
        scale = float(scores.std())
        features = np.stack([scores / (scale or 1.0), np.full_like(scores, float(bias))], axis=1)
        slope, offset = _newton(features, labels)
        if not scale or slope <= 0:  # the scores say nothing, or the contrary: then only how often solutions are right is known
            return cls(math.inf, _logit(float(labels.mean())) if bias else 0.0, len(labels))
        return cls(scale / float(slope), float(offset), len(labels))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """What `to_dict` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        temperature = math.inf if data["temperature"] is None else float(data["temperature"])
        return cls(temperature, float(data["bias"]), int(data["n"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; an infinite temperature is null."""
        return {"temperature": self.temperature if math.isfinite(self.temperature) else None, "bias": self.bias, "n": self.n}


@dataclass(frozen=True)
class VoteCalibration:
    """The probability that an answer is right, given its support in [0, 1] among some number of samples."""

    by_samples: Mapping[int, Calibration]

    def __call__(self, support: float, samples: int) -> float:
        """Through the calibration of the nearest number of samples on a log scale, of equally near ones the smaller."""
        nearest = min(sorted(self.by_samples), key=lambda n: abs(math.log(n / samples)))
        return self.by_samples[nearest](log_odds(support))


@dataclass(frozen=True)
class VerifierCalibration:
    """What a verifier's checkpoint holds: how its raw scores become probabilities, and how those of several samples do (None: unknown)."""

    solution: Calibration = Calibration()
    votes: VoteCalibration | None = None

    @classmethod
    def read(cls, folder: Path) -> VerifierCalibration:
        """What lies in a checkpoint folder; scores as they are where nothing does. Raises ConfigError for a file that cannot be read."""
        try:
            data = json.loads((folder / FILE).read_text(encoding="utf-8"))
            votes = {int(n): Calibration.from_dict(each) for n, each in data["votes"].items()}
            return cls(Calibration.from_dict(data["solution"]), VoteCalibration(votes) if votes else None)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"cannot read {folder / FILE}: {error!r}; train the verifier again, or remove the file.") from error

    def write(self, folder: Path) -> None:
        """Into a checkpoint folder."""
        (folder / FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        votes = {} if self.votes is None else {str(n): each.to_dict() for n, each in self.votes.by_samples.items()}
        return {"solution": self.solution.to_dict(), "votes": votes}


@dataclass(frozen=True)
class Bin:
    """Probabilities that are close to each other: how many, their mean, and the share that is right."""

    n: int
    stated: float
    found: float


def reliability(probabilities: Sequence[float], right: Sequence[bool], bins: int = 10) -> list[Bin]:
    """Bins of equal width over [0, 1], empty ones left out."""
    import numpy as np

    stated, found = np.asarray(probabilities, float), np.asarray(right, float)
    place = np.minimum((stated * bins).astype(int), bins - 1)
    return [
        Bin(int(inside.sum()), float(stated[inside].mean()), float(found[inside].mean()))
        for inside in (place == k for k in range(bins))
        if inside.any()
    ]


def ece(probabilities: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error: the mean distance of what is stated from what is found, by bin (arXiv 1706.04599, equation 5)."""
    if not len(probabilities):
        return math.nan
    return math.fsum(each.n * abs(each.stated - each.found) for each in reliability(probabilities, right, bins)) / len(probabilities)


def brier(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    """Mean squared distance of the probability from 1 (right) or 0 (wrong)."""
    if not len(probabilities):
        return math.nan
    return math.fsum((p - bool(label)) ** 2 for p, label in zip(probabilities, right, strict=True)) / len(probabilities)


def auc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """The probability that a right one is scored above a wrong one, ties counting half; nan without both."""
    import numpy as np

    values, labels = np.asarray(scores, float), np.asarray(right, bool)
    if labels.all() or not labels.any():
        return math.nan
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # mean rank of equal values, from 1
    positive = int(labels.sum())
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive)))


def risk_coverage(probabilities: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float, float]]:
    """(threshold, coverage, precision) by falling threshold: the share of problems that are answered at or above it, and the share of
    these that is right. One point per distinct probability."""
    import numpy as np

    if not len(probabilities):
        return []
    order = np.argsort(-np.asarray(probabilities, float), kind="stable")
    stated, found = np.asarray(probabilities, float)[order], np.asarray(right, float)[order]
    last = np.append(stated[:-1] != stated[1:], True)  # ties are answered together
    answered = np.arange(1, len(stated) + 1)
    precision = np.cumsum(found) / answered
    return [(float(t), float(n) / len(stated), float(p)) for t, n, p in zip(stated[last], answered[last], precision[last], strict=True)]


def threshold_for(precision: float, probabilities: Sequence[float], right: Sequence[bool]) -> float | None:
    """The lowest probability from which on answers are right at least that often; None where no threshold does it."""
    reached = [threshold for threshold, _, found in risk_coverage(probabilities, right) if found >= precision]
    return min(reached, default=None)


def _newton(features: npt.NDArray[np.float64], labels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logistic regression with a slight pull to 0. The likelihood is concave, so halving a step that overshoots is enough."""
    import numpy as np

    def loss(weights: npt.NDArray[np.float64]) -> float:
        z = features @ weights
        return float(np.logaddexp(0, z).sum() - labels @ z + _RIDGE / 2 * weights @ weights)

    weights = np.zeros(features.shape[1])
    now = loss(weights)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(features @ weights, -500, 500)))
        gradient = features.T @ (p - labels) + _RIDGE * weights
        curvature = (features * (p * (1 - p))[:, None]).T @ features + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        while (then := loss(weights - step)) > now and np.abs(step).max() > 1e-12:
            step = step / 2
        if now - then < 1e-12 * max(1.0, abs(now)):
            break
        weights, now = weights - step, then
    return weights


def log_odds(probability: float) -> float:
    """Of a probability that is kept away from 0 and 1."""
    return _logit(min(max(probability, _CERTAIN), 1 - _CERTAIN))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _logit(p: float) -> float:
    return math.log(p / (1 - p))
