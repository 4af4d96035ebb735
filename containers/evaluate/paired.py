"""Bounds of the difference between two models that answered the same questions, from right or wrong, partial credit, or
log-probabilities.

Differences are candidate minus baseline, as shares. Only the questions on which the two differ carry information (McNemar).
For right and wrong answers the bounds are Tango's score bounds (Statistics in Medicine 17, 1998, 891-908), which hold where
few questions differ.

For partial credit, repeated answers and log-probabilities they are normal bounds of the mean difference with two corrections,
because a loss may sit in few questions. The bound that passes counts half a question more as lost, the one that refuses half a
question more as won: where few make up the difference, the spread that was seen is too small. And both are moved down by the skewness
of the differences, as the modified t statistic of Johnson is (JASA 73, 1978, 536-544; Hall, JRSS B 54, 1992, 221-228): mostly lost
questions make a small loss and a small spread occur together, so that normal bounds pass too often and refuse too rarely, the
more so the stricter the level (tests.bench._gate_power `level`: at 0.19 %, that of an early look, up to 0.6 % passed without it).

Questions that are not independent (instructions of one prompt, one question in several subsets) share a cluster. They
count for as many fewer questions as their differences vary together: the design effect (Rao and Scott, Biometrics 48,
1992, 577-585), which divides the counts and is never taken below 1.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HALVINGS = 50  # of the interval from -1 to 1: far below rounding
_HALF = 0.5  # of a question that counts beside those that were seen
_TINY = 1e-12  # variance, where every question is lost


def tango(
    lost: NDArray[np.float64], won: NDArray[np.float64], samples: NDArray[np.float64], z: float
) -> NDArray[np.float64]:
    """The difference at which Tango's score statistic equals `z` (a lower bound for z > 0, an upper one for z < 0).

    `lost` questions only the baseline has right, `won` only the candidate; as shares, not points. Elementwise.
    """
    low, high = np.full(np.shape(lost), -1.0), np.full(np.shape(lost), 1.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # The score falls as the hypothetical difference grows.
        above = _score(lost, won, samples, middle) > z
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2, np.float64)


def _score(
    lost: NDArray[np.float64], won: NDArray[np.float64], samples: NDArray[np.float64], difference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(won - lost - n d) / sqrt(n (2 p + d (1 - d))), p being the likeliest share of `lost` given the difference d.

    p solves 2n p^2 + B p + C = 0 with B = -won - lost + (2n - won + lost) d and C = -lost d (1 - d) (Tango 1998, eq. 6).
    """
    b = -won - lost + (2 * samples - won + lost) * difference
    c = -lost * difference * (1 - difference)
    share = (np.sqrt(np.maximum(b**2 - 8 * samples * c, 0)) - b) / (4 * samples)
    variance = samples * (2 * share + difference * (1 - difference))
    distance = won - lost - samples * difference
    # Without any variance there is nothing to doubt: the difference is the one that was seen, or it is not.
    certain = np.where(distance == 0, 0.0, np.copysign(np.inf, distance))
    score = distance / np.sqrt(np.maximum(variance, 1e-300))
    return np.asarray(np.where(variance > 1e-12, score, certain), np.float64)


def bounds(
    baseline: NDArray[np.float64],
    candidate: NDArray[np.float64],
    *,
    passing: float,
    refusing: float,
    clusters: NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """Lower and upper bound of the difference, as shares; `passing` and `refusing` are one-sided confidences.

    `clusters` numbers the cluster of each question; without it all questions are independent.
    """
    each = candidate - baseline
    if not (_binary(baseline) and _binary(candidate)):
        return normal_bounds(each, passing=passing, refusing=refusing, clusters=clusters)
    z_low, z_high = (NormalDist().inv_cdf(level) for level in (passing, refusing))
    effect = 1.0 if clusters is None else design_effect(each, clusters)
    lost, won, whole = (np.array(value / effect) for value in ((each < 0).sum(), (each > 0).sum(), len(each)))
    return float(tango(lost, won, whole, z_low)), float(tango(lost, won, whole, -z_high))


def normal_bounds(
    each: NDArray[np.float64], *, passing: float, refusing: float, clusters: NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """The same for differences by question that may take any value."""
    z_low, z_high = (NormalDist().inv_cdf(level) for level in (passing, refusing))
    count = np.array(len(each) / (1.0 if clusters is None else design_effect(each, clusters)))
    moments = Moments.of(each)
    return float(mean_bound(moments, count, z_low)), float(mean_bound(moments, count, -z_high))


class Moments(NamedTuple):
    """The means of the differences by question, of their squares and of their third powers; numbers, or arrays of one shape."""

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    third: NDArray[np.float64]

    @classmethod
    def of(cls, each: NDArray[np.float64]) -> Moments:
        return cls(*(np.array((each**power).mean()) for power in (1, 2, 3)))


def mean_bound(moments: Moments, samples: NDArray[np.float64], z: float) -> NDArray[np.float64]:
    """The bound of a mean difference: a lower one for z > 0, an upper one for z < 0, with half a question beyond it. Elementwise."""
    half = math.copysign(_HALF, z)
    mean, square, cube = moments
    first, second, third = (
        (samples * one + more) / (samples + _HALF) for one, more in zip(moments, (-half, _HALF, -half), strict=True)
    )
    variance = np.maximum(second - first**2, _TINY)
    # What was won by chance must not make a bound that passes narrower, and one that refuses no narrower than with half a question.
    if z > 0:
        skewed = np.minimum(cube - 3 * mean * square + 2 * mean**3, 0)
    else:
        skewed = third - 3 * first * second + 2 * first**3
    bound = first - z * np.sqrt(variance / samples) + skewed / variance * (1 + 2 * z**2) / (6 * samples)
    return np.asarray(np.clip(bound, -1, 1), np.float64)


def design_effect(each: NDArray[np.float64], clusters: NDArray[np.int64]) -> float:
    """How many times larger the variance of the mean of `each` is than that of independent values; at least 1.

    Where nothing varies it is that of values that are the same throughout a cluster: the most that it can be.
    """
    residual = each - each.mean()
    alone = float(residual @ residual)
    sums = np.bincount(clusters, weights=residual)
    sizes = np.bincount(clusters).astype(float)
    many = np.count_nonzero(sizes)
    if alone == 0 or many < 2:
        return float((sizes @ sizes) / len(each))
    factor = many / (many - 1) * (len(each) - 1) / len(each)
    return max(1.0, factor * float(sums @ sums) / alone)


def _binary(scores: NDArray[np.float64]) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def levels(confidence: float, tests: float) -> tuple[float, float]:
    """The one-sided confidences of the bound that passes and of the one that refuses; `tests` is what part of the error the test may
    use, as a number of tests that share it evenly (`containers.evaluate.error_shares`).
    """
    return confidence, 1 - (1 - confidence) / tests
